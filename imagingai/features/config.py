"""Settings of `imagingai train-features`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from imagingai.options import check, option


@dataclass(frozen=True)
class TrainFeaturesConfig:
    """What to train and how long."""

    kind: str = option("seg", "Segmentation network, or auto-encoder (needs no labels).", choices=("seg", "ae"))
    network: str = option("light", "Size of the network; unet is that of the paper.", choices=("light", "unet"))
    dimension: int = option(2, "2-D or 3-D images.", choices=(2, 3))
    steps: int = option(1000, "Steps of training.", limits=(1, 10_000_000))
    batch: int = option(4, "Images in a step.", limits=(1, 1024))
    patch: int = option(96, "Side of the images that are trained on; a multiple of 8.", limits=(16, 512), unit="voxels")
    learning_rate: float = option(1e-3, "Highest learning rate.", limits=(1e-7, 1.0))
    validate_every: int = option(100, "Steps between validations.", limits=(1, 1_000_000), advanced=True)
    patience: int = option(0, "Stop after so many validations without progress; 0 never.", limits=(0, 1000), advanced=True)
    checkpoints: str = option("", "Folder for checkpoints; a training that finds one there goes on from it.")
    device: str = option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))
    threads: int = option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)
    seed: int = option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)
    name: str = option("features.safetensors", "File name of the result in the job folder.", advanced=True)

    def __post_init__(self) -> None:
        check(self)
