"""`imagingai compare a-results.csv b-results.csv`: two methods on the same cases, metric by metric."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from imagingai.errors import InputError

SKIP = ("row", "seconds")  # not a property of the method


def compare_tables(a: Path, b: Path) -> str:
    """A table of paired comparisons (Wilcoxon signed-rank p, Cohen's d) of two `-results.csv` files, rows paired in order.

    Rows that failed in either file are left out of both.
    """
    from imagingai.metrics import compare

    first, second = _read(a), _read(b)
    if len(first) != len(second):
        raise InputError(f"{a} has {len(first)} rows and {b} has {len(second)}. Compare two batches of the same cases.")
    pairs = [(x, y) for x, y in zip(first, second, strict=True) if x["state"] == y["state"] == "done"]
    lines = [f"{'metric':28}{'n':>4}{'A':>12}{'B':>12}{'A - B':>12}{'p':>10}{'d':>8}"]
    for name in first[0]:
        values = [
            (number, other) for x, y in pairs if (number := _number(x[name])) is not None and (other := _number(y.get(name))) is not None
        ]
        if name not in SKIP and len(values) > 1:
            found = compare(*zip(*values, strict=True))
            numbers = f"{found.mean_a:12.4g}{found.mean_b:12.4g}{found.difference:+12.4g}{found.p:10.2g}{found.cohens_d:+8.2f}"
            lines.append(f"{name:28}{found.n:4}{numbers}")
    if len(lines) == 1:
        raise InputError(f"{a} and {b} share fewer than two finished rows with numbers; there is nothing to compare.")
    return "\n".join([*lines, "p: Wilcoxon signed-rank test, two-sided; d: Cohen's d of the paired differences"])


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}.") from None
    if not rows or "state" not in rows[0]:
        raise InputError(f"{path} is not a table of results. Take the -results.csv that imagingai batch writes.")
    return rows


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
