"""The one table of what can be run. Standard library only: asking "what can you do?" is instant."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Input:
    """A file or folder that a task reads."""

    name: str
    help: str
    required: bool = False


@dataclass(frozen=True)
class Task:
    """One row of `TASKS`. `config` and `run` are imported ("module:name") when they are needed.

    `run(inputs, config, folder, report) -> dict` writes its files into `folder` and returns what goes
    into `result.json`. `output` is "folder", or "file": then `config.name` is the name of the one result.
    """

    help: str
    inputs: tuple[Input, ...]
    config: str
    run: str
    example: str
    output: str = "folder"
    presets: str = ""


EVALUATION = (
    Input("fixed_labels", "Labels of the fixed image, to measure overlap (and for --similarity ncc_sup)."),
    Input("moving_labels", "Labels of the moving image, with the same values."),
    Input("fixed_landmarks", "Landmarks in the fixed image (.mrk.json, .fcsv, .csv), to measure the error in mm."),
    Input("moving_landmarks", "The same landmarks in the moving image."),
)

TASKS: dict[str, Task] = {
    "register": Task(
        help="Find the transform that brings the moving image onto the fixed image.",
        inputs=(
            Input("fixed", "Image that stays (NIfTI, NRRD, MHA, DICOM folder, PNG, TIFF).", required=True),
            Input("moving", "Image that is brought onto the fixed one; any grid, any orientation.", required=True),
            *EVALUATION,
            Input("fixed_mask", "Only these voxels of the fixed image count."),
            Input("moving_mask", "Only these voxels of the moving image count."),
            Input("rigid_labels", "Labels on the fixed image of regions that must move rigidly (bones, implants)."),
            Input("initial", "Transform to start from (.h5, .tfm, .mat, displacement image), fixed to moving."),
        ),
        config="imagingai.registration.config:RegistrationConfig",
        presets="imagingai.registration.config:PRESETS",
        run="imagingai.registration.task:register_files",
        example="imagingai register --fixed atlas.nii.gz --moving patient.nii.gz --output result/",
    ),
    "apply": Task(
        help="Move another image, label map or set of landmarks with a transform.",
        inputs=(
            Input("transform", "Transform from fixed to moving, as written by register.", required=True),
            Input("fixed", "Image that gives the grid of the result."),
            Input("moving", "Image or labels in the space of the moving image."),
            Input("landmarks", "Landmarks in the space of the moving image, brought to the fixed one."),
        ),
        config="imagingai.registration.config:ApplyConfig",
        run="imagingai.registration.task:apply_files",
        output="file",
        example="imagingai apply --transform result/transform.h5 --fixed atlas.nii.gz --moving lesion.nii.gz --output moved.nii.gz",
    ),
    "invert": Task(
        help="Invert a transform and measure how exact the inverse is.",
        inputs=(
            Input("transform", "Transform from fixed to moving, as written by register.", required=True),
            Input("fixed", "Image whose grid the transform starts from; the error is measured on it.", required=True),
            Input("moving", "Image whose grid the inverse starts from; without it that of the fixed image is used."),
        ),
        config="imagingai.registration.config:InvertConfig",
        run="imagingai.registration.task:invert_files",
        output="file",
        example="imagingai invert --transform result/transform.h5 --fixed atlas.nii.gz --moving patient.nii.gz --output inverse.h5",
    ),
    "evaluate": Task(
        help="Measure a transform: overlap, surface distance, landmark error, smoothness, folding.",
        inputs=(
            Input("transform", "Transform from fixed to moving.", required=True),
            Input("fixed", "Image that gives the grid.", required=True),
            *EVALUATION,
            Input("fixed_mask", "Measure smoothness and folding only here."),
        ),
        config="imagingai.registration.config:EvaluateConfig",
        run="imagingai.registration.task:evaluate_files",
        example="imagingai evaluate --transform t.h5 --fixed a.nii.gz --fixed-labels l.nii.gz --moving-labels m.nii.gz --output eval/",
    ),
    "train-features": Task(
        help="Train the feature extractor of deepsim on your images, on label maps, or on random shapes.",
        inputs=(
            Input("images", "Folder of images, all 2-D or all 3-D."),
            Input("labels", "Folder of label maps with the names of the images."),
            Input("label_maps", "Folder of FreeSurfer-style label maps of heads; images of any contrast are made from them."),
            Input("initial", "Weights to go on from (.safetensors)."),
        ),
        config="imagingai.features.config:TrainFeaturesConfig",
        run="imagingai.features.task:run",
        example="imagingai train-features --images scans/ --kind ae --steps 2000 --output mine/",
    ),
}


def load(where: str) -> Any:
    """Import "module:name" now."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
