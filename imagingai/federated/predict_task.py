"""`imagingai federated predict`: a classifier or regressor of a federation on new cases."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from imagingai.device import use_threads
from imagingai.federated.classifier import load_classifier, predict
from imagingai.federated.config import PredictConfig
from imagingai.job import Report

SHOWN = 10  # rows in the terminal


def predict_files(inputs: dict[str, Path], config: PredictConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Write predictions.csv: case, prediction, and for a classifier the probability of every class."""
    use_threads(config.threads)
    model = load_classifier(inputs["model"])
    report(0.1, "Reading the cases")
    data = {name: path for name, path in inputs.items() if name != "model"}
    rows = predict(model, data, own_scale=config.own_scale)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {"cases": len(rows), "about": model.description.about, "table": as_text(rows)}


def as_text(rows: list[dict[str, Any]]) -> str:
    """The first rows, for the terminal."""
    width = max(len(str(row["case"])) for row in rows[:SHOWN]) + 2
    cells = lambda row: [f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items() if name != "case"]  # noqa: E731
    lines = [f"{name:>14s}" for name in rows[0] if name != "case"]
    text = [f"{'case':{width}s}" + "".join(lines)]
    text += [f"{row['case']:{width}s}" + "".join(f"{cell:>14s}" for cell in cells(row)) for row in rows[:SHOWN]]
    return "\n".join([*text, *([f"... and {len(rows) - SHOWN} more in predictions.csv"] if len(rows) > SHOWN else [])])
