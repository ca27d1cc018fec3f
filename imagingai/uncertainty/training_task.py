"""`imagingai train-segmentation`: train a model on a folder of images with the labels of one or several readers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from imagingai.datasets import CaseFiles, find_cases, list_images, split
from imagingai.device import keep_memory, use_threads
from imagingai.errors import InputError, WeightsError
from imagingai.job import Report, part
from imagingai.networks import parameters
from imagingai.synthesis import brain
from imagingai.training import FREE, check_results, clear_state, files_in, keep_state
from imagingai.uncertainty.config import TrainSegmentationConfig
from imagingai.uncertainty.data import load_case, survey
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, load_model, save_model
from imagingai.uncertainty.report import training_page
from imagingai.uncertainty.train import DOMAIN, Source, check_classes, describe, patch_of, train_model, views_of
from imagingai.weights import load_weights, read_tensors

RESULTS = ("model.safetensors", "model_card.md", "history.json", "report.html")
BRAIN_SPACING = 2  # mm, of images made from label maps
WHOLE = (96, 112, 96)  # voxels that hold a head


def train_files(inputs: dict[str, Path], config: TrainSegmentationConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Train on `images` and `labels`, or on `label_maps`; write model.safetensors, model_card.md, history.json, report.html.

    The state of an unfinished training is kept in `training` beside the folder, which a stopped job leaves, so that the
    same job goes on where it stopped.
    """
    use_threads(config.threads)
    keep_memory()
    report(0.0, "Reading the training data")
    source, description, text = find_source(inputs, config)
    initial = _start(inputs.get("initial"), description)
    state, began = folder.parent / "training", time.time()
    check_results(folder.parent, RESULTS)
    keep_state(state, {name: value for name, value in vars(config).items() if name not in FREE}, files_in(inputs.values()))
    model, histories = train_model(source, description, config, state, initial=initial, report=part(report, 0.02, 0.98))
    save_model(folder / "model.safetensors", model)
    (folder / "history.json").write_text(json.dumps(histories, indent=1), encoding="utf-8")
    best = [max(history, key=lambda row: row["score"]) for history in histories]
    facts = card_facts(model, config, text, best, time.time() - began)
    (folder / "model_card.md").write_text(model_card(facts, best), encoding="utf-8")
    (folder / "report.html").write_text(training_page(histories, facts), encoding="utf-8")
    clear_state(state)
    return {"classes": description.classes, "values": description.values, "facts": facts, "best": best}


def find_source(inputs: dict[str, Path], config: TrainSegmentationConfig) -> tuple[Source, ModelDescription, str]:
    """What the inputs name: views to learn from, the model to be, and the data in words."""
    if "label_maps" in inputs:
        return _brains(inputs["label_maps"], config)
    if "images" not in inputs or "labels" not in inputs:
        raise InputError("Give --images and --labels: a folder of images and one of their labels; or --label-maps.")
    return _own_images(find_cases(inputs["images"], inputs["labels"]), config)


def _own_images(files: list[CaseFiles], config: TrainSegmentationConfig) -> tuple[Source, ModelDescription, str]:
    labeled = [case for case in files if case.labels]
    training, held_out = split(labeled, config.held_out)
    description = describe(survey(labeled, config.dimension), config)
    cases = {case.name: load_case(case, description) for case in labeled}
    check_classes([cases[case.name] for case in training], description)
    source = views_of([cases[case.name] for case in training], [cases[case.name] for case in held_out], description, config)
    readers = f" by {len(source.readers)} readers" if len(source.readers) > 1 else ""
    names = f"{len(held_out)} of them held out ({', '.join(case.name for case in held_out[:20])})" if held_out else "none of them held out"
    text = f"{len(labeled)} images with labels{readers}, {names}"
    return source, description, text


def _brains(folder: Path, config: TrainSegmentationConfig) -> tuple[Source, ModelDescription, str]:
    maps = [brain.load_tissues(file) for file in list_images(folder)]
    if len(maps) < 2:
        raise InputError(f"{folder} has {len(maps)} label map; at least one more is needed, which is held out to validate.")
    patch, count = patch_of(config, 3), max(1, len(maps) // 10)
    training, held_out = (brain.SyntheticBrains(some, patch, BRAIN_SPACING) for some in (maps[:-count], maps[-count:]))
    classes = brain.CLASSES
    description = ModelDescription(
        config.model,
        config.network,
        3,
        1,
        classes,
        tuple(range(len(classes))),
        (float(BRAIN_SPACING),) * 3,
        patch,
        members=config.members if config.model == "ensemble" else 1,
        dropout=config.dropout,
        latent=config.latent,
    )
    text = f"synthetic images of {len(maps)} brain label maps, {count} of them held out"
    whole = brain.SyntheticBrains(training.maps, WHOLE, BRAIN_SPACING)
    return Source(lambda reader: training, held_out, ("",), lambda: (whole(seed)[0].numpy() for seed in range(DOMAIN))), description, text


def _start(initial: Path | None, description: ModelDescription) -> list[dict[str, Tensor]] | None:
    """The weights of every network to go on from, of a model or of a feature extractor; `WeightsError` if it is of another shape."""
    if initial is None:
        return None
    if "model" in read_tensors(initial)[1]:
        model, wanted = load_model(initial), ("model", "network", "dimension", "channels", "classes", "members")
        networks, found = model.networks, model.description
    else:
        network, found = load_weights(initial)
        networks, wanted = [network] * description.members, ("dimension", "classes")
        if description.network != "fast" or description.model == "probabilistic" or found.network != "unet":
            raise WeightsError(f"--initial {initial} is a feature extractor; only --network fast can go on from one of size unet.")
    for name in wanted:
        if getattr(found, name) != getattr(description, name):
            raise WeightsError(f"--initial {initial} is for another {name}: {getattr(found, name)}, not {getattr(description, name)}.")
    return [network.state_dict() for network in networks]


def card_facts(
    model: SegmentationModel, config: TrainSegmentationConfig, text: str, best: list[dict[str, float]], seconds: float
) -> dict[str, str]:
    """What a person needs to know before using the model: title -> text."""
    description, size = model.description, sum(map(parameters, model.networks))
    options = ("steps", "batch", "learning_rate", "loss", "augmentation", "precision", "seed")
    return {
        "Model": f"{description.model}, {description.dimension}-D, size {description.network}, {size:,} weights",
        "Structures": ", ".join(description.classes[1:]),
        "Works at": " x ".join(f"{s:g}" for s in description.spacing[: description.dimension]) + " mm (other images are resampled)",
        "Input": f"{description.channels} channel(s), intensities {description.intensity}",
        "Trained on": text,
        "Training": ", ".join(f"{name.replace('_', ' ')} {getattr(config, name)}" for name in options)
        + f"; {seconds / 60:.0f} min, best at step {', '.join(str(int(row['step'])) for row in best)}",
        "License": "that of the data it was trained on",
        "Limits": "validated on pieces of images only; images of other scanners, ages or diseases may fail",
    }


def model_card(facts: dict[str, str], best: list[dict[str, float]]) -> str:
    """The card as Markdown."""
    lines = "\n".join(f"- {title}: {text}" for title, text in facts.items())
    figures = "\n".join(
        f"| {name} | " + " | ".join(f"{row[name]:.4g}" for row in best) + " |" for name in best[0] if name not in ("score", "seconds")
    )
    heads = " | ".join(f"network {k + 1}" for k in range(len(best)))
    return f"# Segmentation model\n\n{lines}\n\nBest validation:\n\n| figure | {heads} |\n|---|{'---|' * len(best)}\n{figures}\n"
