"""`imagingai segment`: segment a file, and write where and how much the result is uncertain."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import find_cases
from imagingai.device import keep_memory, use_threads
from imagingai.errors import InputError
from imagingai.job import Report, part
from imagingai.report import STATES
from imagingai.training import check_results
from imagingai.uncertainty import evaluate
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.data import load_channels, load_labels
from imagingai.uncertainty.dicom import check_source, write_parametric_map, write_segmentation
from imagingai.uncertainty.model import SegmentationModel, load_model
from imagingai.uncertainty.quality import Quality, calibrate, judge, load_quality, widen_volumes
from imagingai.uncertainty.rca import reverse_classification_accuracy
from imagingai.uncertainty.report import case_page
from imagingai.uncertainty.seg_nrrd import write_seg_nrrd
from imagingai.uncertainty.segment import Segmentation, segment
from imagingai.volume import Volume, load, save

CHANNELS = ("image", "image2", "image3", "image4")
MAPS = {"entropy": "bit", "mutual_information": "bit", "expected_entropy": "bit"}  # name of the file: unit


def segment_files(inputs: dict[str, Path], config: SegmentConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Segment a file and write what `config.outputs` names; returns volumes, uncertainty and the traffic light."""
    use_threads(config.threads)
    keep_memory()
    report(0.0, "Reading")
    check_results(folder.parent, ("segmentation.nii.gz", "entropy.nii.gz", "report.html"))
    model = load_model(inputs.get("model"))
    quality = load_quality(inputs["quality"], model.identity) if "quality" in inputs else None
    channels = [load(inputs[name]) for name in CHANNELS if name in inputs]
    if config.dicom:
        check_source(series_of(inputs), channels[0])  # now, not after minutes of computing
    readers = evaluate.read_readers(inputs["labels"], channels[0], model.description) if "labels" in inputs else None
    atlases = read_atlases(inputs) if "atlas_images" in inputs else None
    end = 0.6 if "atlas_images" in inputs else 0.85
    found = segment(channels, model, config, report=part(report, 0.02, end))
    values, band = assess(found, channels, model, quality, config)
    if atlases is not None:
        values["rca"] = predict_by_atlases(found, atlases, part(report, end, 0.88))
    if readers:
        values["measured"] = evaluate.compare(found, *readers)
    report(0.9, "Writing")
    probability = found.probability  # calibrated below; the maps of the uncertainty stay what the model says
    if quality and "temperature" in quality.calibration:
        probability = calibrate(probability, quality.calibration["temperature"])
    write(found, probability, band, values, config, folder)
    if config.dicom:
        write_dicom(found, probability, inputs, folder)
    if "report" in config.outputs:
        settings = {name: path.name for name, path in inputs.items()} | vars(config)
        (folder / "report.html").write_text(case_page(found, values, settings, band), encoding="utf-8")
    report(1.0, "Done")
    return {"model": model.identity, **values, "table": table_text(values)}


def assess(
    found: Segmentation, channels: Sequence[Volume], model: SegmentationModel, quality: Quality | None, config: SegmentConfig
) -> tuple[dict[str, Any], np.ndarray]:
    """Volumes, border bands, features and the traffic light; and where the samples disagree on a border, (X, Y, Z) mm."""
    band, bands = evaluate.border_bands(found)
    values = {
        "classes": found.classes,
        "values": found.values,
        "samples": len(found.samples),
        "volumes": evaluate.structure_volumes(found, config.interval),
        "border_band": bands,
        **evaluate.examine(found, channels, model),
    }
    if quality:
        values["volumes"] = widen_volumes(quality, values["volumes"])
    return values | {"quality": judge(quality, values["uncertainty"], values["image"])}, band


def table_text(values: dict[str, Any]) -> str:
    """The result as text for a terminal: volume with its interval, border band, predicted and measured Dice, the traffic light."""
    predicted, rca = values["quality"]["predicted_dice"], values.get("rca", {})
    dice = {"predicted Dice": {name: found["dice"] for name, found in predicted.items()}, "RCA": rca}
    dice["Dice"] = values.get("measured", {}).get("dice", {})
    shown = {title: column for title, column in dice.items() if column}
    width = max(map(len, values["volumes"])) + 2
    lines = [f"{'':{width}}{'ml':>9}{'interval':>20}{'border mm':>11}" + "".join(f"{title:>16}" for title in shown)]
    for name, volume in values["volumes"].items():
        known = values["samples"] > 1 or volume["low"] < volume["high"]  # one sample spans no interval
        interval = f"{volume['low']:.2f} - {volume['high']:.2f}" if known else "-"
        line = f"{name:{width}}{volume['ml']:>9.2f}{interval:>20}{values['border_band'][name]['mean_mm']:>11.1f}"
        lines.append(line + "".join(f"{'-' if column.get(name) is None else f'{column[name]:.3f}':>16}" for column in shown.values()))
    light = values["quality"]["light"]
    return "\n".join([*lines, "", f"{STATES[light]}: {' '.join(values['quality']['reasons'])}", ""])


def read_atlases(inputs: dict[str, Path]) -> list[tuple[Volume, Volume]]:
    """Images with labels for Reverse Classification Accuracy."""
    if "atlas_labels" not in inputs:
        raise InputError("--atlas-images needs --atlas-labels: the folder of their labels.")
    atlases = []
    for case in find_cases(inputs["atlas_images"], inputs["atlas_labels"]):
        if case.labels:
            image = load_channels(case)[0]
            atlases.append((image, next(iter(load_labels(case, image).values()))))
    return atlases


def predict_by_atlases(found: Segmentation, atlases: list[tuple[Volume, Volume]], report: Report) -> dict[str, float | None]:
    """Dice predicted by Reverse Classification Accuracy, from labeled images."""
    if not found.segmentation.any():
        return dict.fromkeys(found.classes[1:], 0.0)
    structures = dict(zip(found.values[1:], found.classes[1:], strict=True))
    return reverse_classification_accuracy(found.image, found.labels, atlases, structures, report=report)


def write(
    found: Segmentation, probability: np.ndarray, band: np.ndarray, values: dict[str, Any], config: SegmentConfig, folder: Path
) -> None:
    """The images and tables of a result. probability: (K, X, Y, Z); band: (X, Y, Z) mm."""
    if "segmentation" in config.outputs:
        save(found.labels, folder / "segmentation.nii.gz")
        write_seg_nrrd(folder / "segmentation.seg.nrrd", found.labels, found.values[1:], found.classes[1:])
        write_table(folder / "segmentation.csv", ("value", "name"), zip(found.values[1:], found.classes[1:], strict=True))
        columns = ("structure", "ml", "low", "high", "level")
        write_table(folder / "volumes.csv", columns, [(name, *(v[c] for c in columns[1:])) for name, v in values["volumes"].items()])
    if "probability" in config.outputs:
        for name, share in zip(slugs(found.classes)[1:], probability[1:], strict=True):
            save(found.image.with_data(share), folder / f"probability_{name}.nii.gz")
    for name in MAPS:
        if name in config.outputs:
            save(found.image.with_data(getattr(found, name)), folder / f"{name}.nii.gz")
    if "border_band" in config.outputs:
        save(found.image.with_data(band), folder / "border_band.nii.gz")
    if "samples" in config.outputs:
        for number, sample in enumerate(found.samples):
            save(found.to_labels(sample), folder / f"sample_{number + 1:02}.nii.gz")


def write_dicom(found: Segmentation, probability: np.ndarray, inputs: dict[str, Path], folder: Path) -> None:
    """segmentation.dcm, fractional.dcm and entropy.dcm, on the series that the image was made from."""
    source = series_of(inputs)
    write_segmentation(folder / "segmentation.dcm", found.image.with_data(found.segmentation), found.classes, source)
    write_segmentation(folder / "fractional.dcm", found.image.with_data(probability), found.classes, source)
    write_parametric_map(folder / "entropy.dcm", found.image.with_data(found.entropy), "Entropy", "bit", source)


def series_of(inputs: dict[str, Path]) -> Path | None:
    """The folder of the DICOM series that the image was made from."""
    return inputs.get("series") or (inputs["image"] if inputs["image"].is_dir() else None)


def write_table(path: Path, columns: Sequence[str], rows: Any) -> None:
    """A .csv table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def slugs(names: Sequence[str]) -> list[str]:
    """Names as parts of file names, all different: 'Left ear' -> left_ear."""
    found = [re.sub(r"\W+", "_", name.lower()).strip("_") or "structure" for name in names]
    return [slug if found.count(slug) == 1 else f"{slug}_{number}" for number, slug in enumerate(found)]
