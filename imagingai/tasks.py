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

SITE_DATA = (
    Input("images", "Folder of images."),
    Input("labels", "Folder of label images of the same names (segmentation), or of masks (image classification)."),
    Input("table", "CSV file with a column `case`, the features and the target (classification, regression)."),
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
    "segment": Task(
        help="Segment an image, and show where and how much the result is uncertain.",
        inputs=(
            Input("image", "Image to segment (NIfTI, NRRD, MHA, DICOM folder, PNG, TIFF).", required=True),
            Input("image2", "Second channel, for a model that has several (T1, T2, FLAIR ...)."),
            Input("image3", "Third channel."),
            Input("image4", "Fourth channel."),
            Input("model", "Model that train-segmentation wrote (.safetensors); without it the brain model that comes along."),
            Input("quality", "What learn-quality wrote (quality.json): adds predicted Dice and a traffic light."),
            Input("atlas_images", "Folder of labeled images: adds the Reverse Classification Accuracy."),
            Input("atlas_labels", "Folder with the labels of the atlas images, of the same names."),
            Input("labels", "Labels to compare with: a file, or a folder with one file per reader."),
            Input("series", "Folder of the DICOM series that the image was made from, for --dicom."),
        ),
        config="imagingai.uncertainty.config:SegmentConfig",
        run="imagingai.uncertainty.task:segment_files",
        example="imagingai segment --image patient.nii.gz --output result/",
    ),
    "train-segmentation": Task(
        help="Train a segmentation model that knows how sure it is, on your images and the labels of one or several readers.",
        inputs=(
            Input("images", "Folder of images. Channels of one case end in _0000, _0001 ... (case_0000.nii.gz)."),
            Input("labels", "Folder of label images of the same names, or of one folder of them per reader."),
            Input("label_maps", "Instead: folder of FreeSurfer-style label maps of heads; images of any contrast are made from them."),
            Input("initial", "Model to go on from (.safetensors)."),
        ),
        config="imagingai.uncertainty.config:TrainSegmentationConfig",
        run="imagingai.uncertainty.training_task:train_files",
        example="imagingai train-segmentation --images scans/ --labels readers/ --model probabilistic --output mine/",
    ),
    "learn-quality": Task(
        help="Learn from labeled controls how well a model does: calibration, predicted Dice, cut-offs of the traffic light.",
        inputs=(
            Input("images", "Folder of images that the model was not trained on.", required=True),
            Input("labels", "Folder of their labels, as for train-segmentation.", required=True),
            Input("model", "Model that train-segmentation wrote (.safetensors); without it the brain model that comes along."),
        ),
        config="imagingai.uncertainty.config:LearnQualityConfig",
        run="imagingai.uncertainty.quality_task:learn_quality_files",
        example="imagingai learn-quality --images controls/ --labels drawn/ --model mine/model.safetensors --output quality/",
    ),
    "check-quality": Task(
        help="Sort the results of segment worst first, in a queue to accept, fix or reject.",
        inputs=(
            Input("results", "Folder whose folders are results of segment.", required=True),
            Input("previous", "Queue of an earlier run (queue.csv): its decisions are kept."),
        ),
        config="imagingai.uncertainty.config:CheckQualityConfig",
        run="imagingai.uncertainty.quality_task:check_quality_files",
        example="imagingai check-quality --results results/ --output queue/",
    ),
    "compare-raters": Task(
        help="Compare several readers, with each other and with the samples of a model.",
        inputs=(
            Input("labels", "Folder with one label image per reader.", required=True),
            Input("result", "Result of segment, whose samples are compared with the readers."),
        ),
        config="imagingai.uncertainty.config:CompareRatersConfig",
        run="imagingai.uncertainty.raters_task:compare_raters_files",
        example="imagingai compare-raters --labels readers/ --result result/ --output agreement/",
    ),
    "select-cases": Task(
        help="Choose which images to label next, with random choice beside it and the learning curve of both.",
        inputs=(
            Input("images", "Folder of all images.", required=True),
            Input("labels", "Folder of the labels so far; label what is chosen, and run it again.", required=True),
            Input("validation_images", "Folder of labeled images that measure the progress.", required=True),
            Input("validation_labels", "Folder of their labels.", required=True),
            Input("previous", "Folder of the previous round."),
        ),
        config="imagingai.uncertainty.config:SelectCasesConfig",
        run="imagingai.uncertainty.active_task:select_cases_files",
        example="imagingai select-cases --images pool/ --labels drawn/ --validation-images v/ --validation-labels w/ --output round1/",
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
    "federated-check": Task(
        help="Look at this site's data before it joins a federation: counts, spacing, histograms, what does not fit.",
        inputs=(
            Input("invitation", "Invitation of the coordinator (.invitation), or a project (project.toml).", required=True),
            *SITE_DATA,
        ),
        config="imagingai.federated.config:CheckConfig",
        run="imagingai.federated.join_task:check_files",
        example="imagingai federated check --invitation hospital_a.invitation --images scans/ --labels drawn/ --output check/",
    ),
    "federated-join": Task(
        help="Take part in a federation with this site's data, which stays here.",
        inputs=(Input("invitation", "Invitation of the coordinator (.invitation).", required=True), *SITE_DATA),
        config="imagingai.federated.config:JoinConfig",
        run="imagingai.federated.join_task:join_files",
        example="imagingai federated join --invitation hospital_a.invitation --images scans/ --labels drawn/ --output hospital_a/",
    ),
    "federated-predict": Task(
        help="Use a classifier or regressor that a federation has trained on new cases.",
        inputs=(Input("model", "What the federation ended with (model.safetensors or personal.safetensors).", required=True), *SITE_DATA),
        config="imagingai.federated.config:PredictConfig",
        run="imagingai.federated.predict_task:predict_files",
        example="imagingai federated predict --model hospital_a/model.safetensors --images new/ --output predictions/",
    ),
    "federated-simulate": Task(
        help="Run a whole federation on this computer, without a network, with every site in a folder.",
        inputs=(
            Input("project", "The project (project.toml).", required=True),
            Input("sites", "Folder with one folder per site, each with images/, labels/, table.csv as its task needs.", required=True),
        ),
        config="imagingai.federated.config:SimulateConfig",
        run="imagingai.federated.simulate_task:simulate_files",
        example="imagingai federated simulate --project project.toml --sites sites/ --seeds 5 --compare single mix --output study/",
    ),
}


def load(where: str) -> Any:
    """Import "module:name" now."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
