"""What the experiments share: one thread, Flower, tables, lists that grow line by line and survive an interruption."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).with_name("results")


def parser(text: str | None) -> argparse.ArgumentParser:
    """Arguments of every script."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", type=Path, required=True, help="folder of the data and of what was computed already")
    return made


def begin() -> None:
    """One thread for torch and ITK, memory that is kept for the next step, Flower."""
    from imagingai.device import keep_memory, use_threads
    from imagingai.federated import packages

    use_threads(1)
    keep_memory()
    packages.activate()


def read_lines(*files: Path) -> list[dict[str, Any]]:
    """The rows of files that `add_line` wrote; files that are not there are left out."""
    return [json.loads(line) for file in files if file.exists() for line in file.read_text(encoding="utf-8").splitlines()]


def add_line(file: Path, row: Mapping[str, Any]) -> None:
    """Append a row as a line of JSON."""
    with file.open("a", encoding="utf-8") as output:
        output.write(json.dumps(row) + "\n")


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """A markdown table. The columns are the keys of the first row; what a row lacks stays empty."""
    rows = list(rows)
    columns = list(rows[0])
    cells = [[row.get(column, "") for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]) + "\n"


def write_result(name: str, text: str) -> None:
    """Write a table into results/ and print it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)
