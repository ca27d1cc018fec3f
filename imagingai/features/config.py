"""Settings of the training of a feature extractor. Standard library only, so that help and panels need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from imagingai.options import check, option


@dataclass(frozen=True)
class TrainFeaturesConfig:
    """How to train. Every field is a command-line option of `imagingai train-features`."""

    kind: str = option("seg", "Learn to segment (needs labels or synthetic images), or to reconstruct the image.", choices=("seg", "ae"))
    network: str = option("light", "unet has the size of the paper, light about a quarter of its weights.", choices=("light", "unet"))
    dimension: int = option(2, "Of the random shapes; images and label maps bring their own.", choices=(2, 3))
    steps: int = option(2000, "Updates of the weights.", limits=(1, 10_000_000))
    batch: int = option(1, "Images in one update.", limits=(1, 1024))
    patch: tuple[int, ...] = option((), "Size of the training images, one number or one per axis; 96 (2-D) or 64 (3-D).", limits=(16, 1024))
    spacing: float = option(
        0.0, "Spacing of the training images; 0 takes 2 mm for label maps, and images as they are.", limits=(0.0, 100.0), unit="mm"
    )
    learning_rate: float = option(1e-3, "Highest rate; it warms up and then falls to zero along a cosine.", limits=(1e-7, 1.0))
    every: int = option(100, "Steps between validations and checkpoints.", limits=(1, 1_000_000), advanced=True)
    patience: int = option(0, "Stop after so many validations without progress; 0 never stops early.", limits=(0, 10_000), advanced=True)
    precision: str = option(
        "float32", "bfloat16 halves the time on processors and GPUs that know it.", choices=("float32", "bfloat16"), advanced=True
    )
    device: str = option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))
    threads: int = option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)
    seed: int = option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)

    def __post_init__(self) -> None:
        check(self)
