"""`imagingai train-features`: from images of a folder, from label maps of brains, or from random shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagingai.device import choose_device, use_threads
from imagingai.errors import InputError
from imagingai.features.config import TrainFeaturesConfig
from imagingai.job import Report
from imagingai.networks import build, parameters
from imagingai.synthesis.appearance import degrade, normalize
from imagingai.synthesis.brain import CLASSES, SyntheticBrains
from imagingai.synthesis.shapes import RandomShapes
from imagingai.training import Schedule, dice_cross_entropy, dice_per_class, train
from imagingai.volume import load
from imagingai.weights import save_network

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".jpg")
VALIDATION = 10**9  # seeds from here on are for validation
Source = Callable[[int], tuple[Tensor, Tensor]]  # seed -> image (1, *shape), classes (*shape)


def train_features(inputs: dict[str, Path], config: TrainFeaturesConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Train an extractor and write it as safetensors; figures of every validation are in the result."""
    use_threads(config.threads)
    if config.patch % 8:
        raise InputError(f"--patch is {config.patch}; it must be a multiple of 8.")
    source, classes, held_out = _source(inputs, config)
    torch.manual_seed(config.seed)
    outputs = classes if config.kind == "seg" else 1
    network = build(config.network, config.kind, config.dimension, outputs).to(choose_device(config.device))
    schedule = Schedule(config.steps, config.learning_rate, config.validate_every, config.patience)
    loss = dice_cross_entropy if config.kind == "seg" else torch.nn.functional.mse_loss
    checkpoints = Path(config.checkpoints) if config.checkpoints else folder / "checkpoints"
    history = train(
        network,
        lambda step: _batch(source, config, config.seed + step * config.batch),
        loss,
        schedule,
        checkpoints,
        validate=lambda net: _validate(net, held_out, config, outputs),
        report=report,
    )
    facts = {key: getattr(config, key) for key in ("network", "kind", "dimension", "steps", "batch", "patch", "seed")}
    best = max(figures["score"] for figures in history)
    save_network(
        network, folder / config.name, {**facts, "outputs": outputs, "score": best, "trained_on": sorted(inputs) or ["random shapes"]}
    )
    if not config.checkpoints:
        for file in checkpoints.iterdir():
            file.unlink()
        checkpoints.rmdir()
    return {"outputs": [config.name], "history": history, "summary": {"score": best, "parameters": parameters(network)}}


def _batch(source: Source, config: TrainFeaturesConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Images (B, 1, *shape) and what to predict from them: classes (B, *shape), or the images again."""
    images, classes = (torch.stack(part) for part in zip(*(source(seed + k) for k in range(config.batch)), strict=True))
    return (images, classes) if config.kind == "seg" else (images, images)


@torch.no_grad()
def _validate(network: torch.nn.Module, source: Source, config: TrainFeaturesConfig, outputs: int) -> dict[str, float]:
    """The mean Dice of the classes, or minus the mean squared error, of images that training never sees."""
    device, scores = next(network.parameters()).device, []
    for seed in range(4):
        images, target = (x.to(device) for x in _batch(source, config, VALIDATION + seed * config.batch))
        found = network(images)
        scores.append(dice_per_class(found, target)[1:] if config.kind == "seg" else -(found - target).square().mean()[None])
    return {"score": float(torch.stack(scores).nanmean())}


def _source(inputs: dict[str, Path], config: TrainFeaturesConfig) -> tuple[Source, int, Source]:
    """Where images come from: (training, number of classes, validation)."""
    shape = (config.patch,) * config.dimension
    if "label_maps" in inputs:
        if config.dimension != 3:
            raise InputError("--label-maps are brains in 3-D: add --dimension 3.")
        maps = SyntheticBrains.from_folder(inputs["label_maps"], shape).maps
        last = max(1, len(maps) // 10)
        return SyntheticBrains(maps[:-last] or maps, shape), len(CLASSES), SyntheticBrains(maps[-last:], shape)
    if "images" in inputs:
        return _Folder.read(inputs["images"], inputs.get("labels"), config)
    if config.dimension == 3 and config.kind == "seg":
        raise InputError("3-D needs --label-maps or --images with --labels; random shapes are for 2-D.")
    shapes = RandomShapes(shape)
    return shapes, shapes.classes, shapes


class _Folder:
    """Random patches of a user's images, mirrored and with a random appearance."""

    def __init__(self, cases: list[tuple[Tensor, Tensor]], shape: tuple[int, ...]) -> None:
        self.cases, self.shape = cases, shape

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        pick = lambda high: int(torch.randint(high, (), generator=random))  # noqa: E731
        image, labels = self.cases[pick(len(self.cases))]
        begin = [pick(max(1, n - m + 1)) for n, m in zip(labels.shape, self.shape, strict=True)]
        part = tuple(slice(a, a + m) for a, m in zip(begin, self.shape, strict=True))
        image, labels = image[(0, *part)], labels[part]
        if pick(2):
            image, labels = image.flip(0), labels.flip(0)
        return degrade(image[None], random, noise=0.03), labels

    @staticmethod
    def read(images: Path, labels: Path | None, config: TrainFeaturesConfig) -> tuple[Source, int, Source]:
        """The last tenth of the cases, one at least, is for validation."""
        if config.kind == "seg" and labels is None:
            raise InputError("A segmentation network needs --labels too; without labels train --kind ae.")
        files = sorted(file for file in Path(images).iterdir() if file.name.endswith(ENDINGS)) if Path(images).is_dir() else []
        if len(files) < 2:
            raise InputError(f"{images} holds {len(files)} images; at least two are needed. Give a folder of {', '.join(ENDINGS)} files.")
        cases = [_read_case(file, labels, config) for file in files]
        shape, last = (config.patch,) * config.dimension, max(1, len(cases) // 10)
        count = 1 + max(int(case[1].max()) for case in cases)
        return _Folder(cases[:-last], shape), count, _Folder(cases[-last:], shape)


def _read_case(file: Path, labels: Path | None, config: TrainFeaturesConfig) -> tuple[Tensor, Tensor]:
    """(1, *grid) image 0..1 and (*grid) labels, enlarged to the patch by repeating the border."""
    image = load(file)
    if image.ndim != config.dimension:
        raise InputError(f"{file} is {image.ndim}-D; --dimension is {config.dimension}.")
    target = image.data[0] * 0
    if labels is not None:
        if not (partner := labels / file.name).exists():
            raise InputError(f"{file.name} has no labels: there is no file {partner}.")
        target = load(partner, label=True).data[0]
        if target.shape != image.shape:
            raise InputError(f"The labels {partner} have {target.shape} voxels, the image {image.shape}.")
    tensors = [torch.as_tensor(x.astype("float32")) for x in (image.data[0], target)]
    tensors = [x[..., 0] if config.dimension == 2 else x for x in tensors]
    grow = [side for n in reversed(tensors[0].shape) for side in (0, max(0, config.patch - n))]
    first, second = (torch.nn.functional.pad(x[None, None], grow, mode="replicate")[0] for x in tensors)
    return normalize(first), second[0].long()
