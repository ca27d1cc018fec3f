"""What the evidence scripts share: stages that are not run twice, tables, how each data set is trained, box plots."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import numpy as np

NAMES = {"unet": "U-Net", "ensemble": "Ensemble", "dropout": "MC-dropout", "probabilistic": "Probabilistic U-Net"}
SMALL = {"network": "light", "precision": "bfloat16", "threads": 1, "patience": 0}  # trainings of an hour on one core
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def stage(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns (plain data), from the file if it was made before."""
    if not file.exists():
        content = json.dumps(make(), indent=1, default=float)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}")
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, file)
    return json.loads(file.read_text(encoding="utf-8"))


def parser(text: str | None) -> argparse.ArgumentParser:
    """Arguments of every script."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", type=Path, required=True, help="folder of the data (made by prepare.py) and of the results")
    return made


def write_table(file: Path, title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a markdown table and print it. The columns are the keys of the rows."""
    rows = [{key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()} for row in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows))]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([f"## {title}", "", *lines, ""]), encoding="utf-8")
    print("\n".join([title, *lines, ""]))


def quantiles(values: np.ndarray) -> dict[str, Any]:
    """How many values, and the quantiles that a box shows."""
    return {"count": len(values), "quantiles": np.quantile(values, QUANTILES).tolist() if len(values) else None}


def boxes(axis: Any, groups: Mapping[str, Mapping[str, Any]], positions: Iterable[float] | None = None, **style: Any) -> None:
    """Box plots from `quantiles`: median, quartiles, 5th and 95th percentile."""
    keys = ("whislo", "q1", "med", "q3", "whishi")
    drawn = [dict(zip(keys, group["quantiles"] or [np.nan] * 5, strict=True), label=name) for name, group in groups.items()]
    axis.bxp(drawn, positions=positions, showfliers=False, patch_artist=True, medianprops={"color": "black"}, **style)


def figure(columns: int, width: float = 3.0, height: float = 3.0) -> tuple[Any, Any]:
    """A matplotlib figure and its row of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(1, columns, squeeze=False)[0]
