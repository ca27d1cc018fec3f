"""Two batches side by side."""

from __future__ import annotations

import pytest
from scipy.stats import wilcoxon

from imagingai.__main__ import main
from imagingai.compare import compare_tables
from imagingai.errors import InputError


def write(path, values):
    path.write_text("row,output,state,dice\n" + "".join(f"{i},o{i},{'done' if v else 'failed'},{v}\n" for i, v in enumerate(values)))
    return path


def test_finished_rows_are_paired(tmp_path, capsys):
    a, b = write(tmp_path / "a.csv", [0.7, 0.8, "", 0.9]), write(tmp_path / "b.csv", [0.6, 0.75, 0.5, 0.7])
    assert main(["compare", str(a), str(b)]) == 0
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("dice"))
    assert line[:5] == ["dice", "3", "0.8", "0.6833", "+0.1167"]
    assert float(line[5]) == pytest.approx(wilcoxon([0.1, 0.05, 0.2]).pvalue, rel=0.01)


def test_tables_that_cannot_be_compared(tmp_path):
    a = write(tmp_path / "a.csv", [0.7, 0.8])
    with pytest.raises(InputError, match=r"has 2 rows and .* has 3\. Compare two batches of the same cases"):
        compare_tables(a, write(tmp_path / "b.csv", [0.7, 0.8, 0.9]))
    with pytest.raises(InputError, match="share fewer than two finished rows"):
        compare_tables(a, write(tmp_path / "c.csv", [0.7, ""]))
    (tmp_path / "d.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"is not a table of results\. Take the -results\.csv"):
        compare_tables(a, tmp_path / "d.csv")
