"""Registration with files: what the command line, job folders and panels run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imagingai import landmarks
from imagingai.device import use_threads
from imagingai.errors import InputError
from imagingai.job import Report, part, peak_memory_mb
from imagingai.registration import report as page
from imagingai.registration.config import ApplyConfig, EvaluateConfig, InvertConfig, RegistrationConfig
from imagingai.registration.evaluate import Reference, measure, read_reference, summary
from imagingai.registration.pairwise import RegistrationResult, register
from imagingai.registration.preview import preview_file
from imagingai.registration.quality import table_text
from imagingai.transform import Affine, Transform, invert, invert_points, jacobian_determinant, to_displacement, warp
from imagingai.transform_io import load_transform, save_transform
from imagingai.volume import Volume, load, save

LABELS = ("fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "rigid_labels")


def register_files(inputs: dict[str, Path], config: RegistrationConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Register two files; write what `config.outputs` names and return the metrics."""
    began = time.process_time()
    use_threads(config.threads)
    report(0.0, "Reading")
    images = {name: load(inputs[name]) for name in ("fixed", "moving")}
    extras = {name: load(inputs[name], label=True) for name in LABELS if name in inputs}
    reference = read_reference(inputs, images, extras)
    initial = load_transform(inputs["initial"], images["fixed"]) if "initial" in inputs else None
    with preview_file(folder, config.preview) as preview:
        result = register(**images, config=config, initial=initial, report=part(report, 0.02, 0.85), preview=preview, **extras)
    report(0.85, "Measuring")
    start = initial or Affine(np.eye(4))
    found = measure(result.transform, start, result.fixed, result.jacobian, reference, extras.get("fixed_mask"))
    if "inverse" in config.outputs:
        found["inverse_consistency"] = result.inverse_and_error[1]
    for name in config.outputs:
        report(0.9, f"Writing {name.replace('_', ' ')}")
        if name != "report":
            WRITERS[name](result, folder)
    found |= {"cpu_seconds": round(time.process_time() - began, 2), "peak_memory_mb": peak_memory_mb()}
    if "report" in config.outputs:
        settings = {"fixed": inputs["fixed"].name, "moving": inputs["moving"].name, **vars(config)}
        _write_page(result, start, found, reference, settings, folder)
    report(1.0, "Done")
    return _result(found, reference)


DISPLACEMENT = {2: "displacement.nrrd", 3: "displacement.nii.gz"}  # ITK loses the plane of a one-slice NIfTI field
WRITERS: dict[str, Callable[[RegistrationResult, Path], None]] = {
    "moved": lambda result, folder: save(result.moved, folder / "moved.nii.gz"),
    "transform": lambda result, folder: save_transform(result.transform, folder / "transform.h5"),
    "inverse": lambda result, folder: save_transform(result.inverse_and_error[0], folder / "inverse.h5"),
    "displacement": lambda result, folder: save_transform(
        to_displacement(result.transform, result.fixed), folder / DISPLACEMENT[result.fixed.ndim]
    ),
    "jacobian": lambda result, folder: save(result.jacobian, folder / "jacobian.nii.gz"),
    "similarity_map": lambda result, folder: save(result.similarity_map, folder / "similarity_map.nii.gz"),
}


def _write_page(
    result: RegistrationResult, start: Transform, found: dict[str, Any], reference: Reference, settings: dict[str, Any], folder: Path
) -> None:
    """The HTML report, and the moved labels beside it."""
    labels: dict[str, Volume] = {}
    if reference.labels:
        labels = {"fixed_labels": reference.labels[0], "moving_labels": reference.labels[1]}
        labels["moved_labels"] = warp(reference.labels[1], result.transform, result.fixed, interpolation="nearest")
        save(labels["moved_labels"], folder / "moved_labels.nii.gz")
    page.registration_report(
        folder / "report.html",
        fixed=result.fixed,
        moving=result.moving,
        moved=result.moved,
        transform=result.transform,
        metrics=found,
        jacobian=result.jacobian,
        similarity_map=result.similarity_map,
        initial=start,
        label_names=reference.names,
        settings=settings,
        **labels,
    )


def _result(found: dict[str, Any], reference: Reference) -> dict[str, Any]:
    return {"metrics": found, "summary": summary(found), "table": table_text(found, reference.names), "names": dict(reference.names)}


def apply_files(inputs: dict[str, Path], config: ApplyConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Bring an image or landmarks from the moving to the fixed space."""
    fixed = load(inputs["fixed"]) if "fixed" in inputs else None
    transform = load_transform(inputs["transform"], fixed)
    if ("moving" in inputs) == ("landmarks" in inputs):
        raise InputError("Give either --moving (an image or labels) or --landmarks.")
    report(0.3, "Applying")
    if "landmarks" in inputs:
        points = landmarks.load_landmarks(inputs["landmarks"])
        landmarks.save_landmarks(points._replace(points=invert_points(transform, points.points)), folder / config.name)
    else:
        if fixed is None:
            raise InputError("--fixed is missing: the image whose grid the result gets.")
        save(warp(load(inputs["moving"]), transform, fixed, interpolation=config.interpolation, fill=config.fill), folder / config.name)
    report(1.0, "Done")
    return {}


def invert_files(inputs: dict[str, Path], config: InvertConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Invert a transform and say how exact the inverse is."""
    fixed = load(inputs["fixed"])
    moving = load(inputs["moving"]) if "moving" in inputs else None
    report(0.1, "Inverting")
    inverse, error = invert(load_transform(inputs["transform"], fixed), fixed, moving)
    save_transform(inverse, folder / config.name)
    report(1.0, "Done")
    text = f"Inverse consistency: mean {error['mean']:.3f} mm, 95 % below {error['p95']:.3f} mm, at most {error['max']:.3f} mm"
    return {"metrics": {"inverse_consistency": error}, "table": text}


def evaluate_files(inputs: dict[str, Path], config: EvaluateConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Measure a transform that was made before, by anyone."""
    report(0.0, "Reading")
    fixed = load(inputs["fixed"])
    transform = load_transform(inputs["transform"], fixed)
    extras = {name: load(inputs[name], label=True) for name in LABELS if name in inputs}
    reference = read_reference(inputs, {"fixed": fixed}, extras)
    report(0.3, "Measuring")
    jacobian = jacobian_determinant(transform, fixed)
    found = measure(transform, Affine(np.eye(4)), fixed, jacobian, reference, extras.get("fixed_mask"))
    if config.inverse:
        found["inverse_consistency"] = invert(transform, fixed)[1]
    save(jacobian, folder / "jacobian.nii.gz")
    report(1.0, "Done")
    return _result(found, reference)
