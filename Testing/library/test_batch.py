"""A batch: one CSV in, one CSV out, finished rows are not done again."""

from __future__ import annotations

import csv

import pytest

from imagingai.__main__ import main
from imagingai.batch import read_rows
from imagingai.errors import InputError


def results(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_runs_resumes_and_lists_what_failed(pair, tmp_path, capsys):
    table = tmp_path / "jobs.csv"
    files = f"{pair}/fixed.nii.gz,{pair}/moving.nii.gz"
    table.write_text(
        "output,fixed,moving,fixed_labels,moving_labels,preset\n"
        f"out/1,{files},{pair}/fixed_labels.nii.gz,{pair}/moving_labels.nii.gz,fast\n"
        f"out/2,{pair}/fixed.nii.gz,{pair}/none.nii.gz,,,\n"
        f"out/3,{files},,,turbo\n"
    )
    assert main(["batch", str(table)]) == 1
    first, second, third = results(tmp_path / "jobs-results.csv")
    assert first["state"] == "done" and float(first["dice"]) > 0.97 and float(first["cpu_seconds"]) > 0
    assert second["state"] == "failed" and "there is no file" in second["error"]
    assert third["state"] == "failed" and "--preset has no choice 'turbo'" in third["error"]
    text = capsys.readouterr()
    assert "1 of 3 rows done, 2 failed" in text.out and "row 2 failed (" in text.err

    before = (tmp_path / "out/1/result.json").stat().st_mtime_ns
    assert main(["batch", str(table), "--row", "1"]) == 0, "in a job array each row has its own exit code"
    assert (tmp_path / "out/1/result.json").stat().st_mtime_ns == before, "a finished row was done again"
    assert "already done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows. The first line names the columns: output,fixed,moving,..."),
        ("fixed,moving\na,b\n", "row 1: the column output is missing or empty; every row needs a folder of its own."),
        ("output,fixed\na,b\na,c\n", "two rows have the output a; every row needs a folder of its own."),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "jobs.csv").write_text(content)
    with pytest.raises(InputError) as error:
        read_rows(tmp_path / "jobs.csv")
    assert message in str(error.value)


def test_a_row_that_does_not_exist(tmp_path, capsys):
    (tmp_path / "jobs.csv").write_text("output,fixed\na,b\n")
    assert main(["batch", str(tmp_path / "jobs.csv"), "--row", "2"]) == 2
    assert "--row is 2, but" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none.csv")]) == 2
    assert "cannot be read as a CSV file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("output,fixed\na,b,c\n", "row 1 has more cells than the first line has columns"),
        ("output,fixed\na,b\n./a,b\n", "two rows have the output a"),
    ],
)
def test_tables_that_would_mix_up_rows(tmp_path, capsys, lines, message):
    (tmp_path / "jobs.csv").write_text(lines)
    assert main(["batch", str(tmp_path / "jobs.csv")]) == 2
    assert message in capsys.readouterr().err
