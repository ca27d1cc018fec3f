"""Settings of segmentation with uncertainty. Standard library only, so that help and panels need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from imagingai.errors import InputError
from imagingai.options import check, option

MODELS = ("unet", "ensemble", "dropout", "probabilistic")
NETWORKS = ("fast", "light", "unet")
STRATEGIES = ("entropy", "mutual_information", "diversity", "random")
OUTPUTS = ("segmentation", "probability", "entropy", "mutual_information", "expected_entropy", "samples", "border_band", "report")


def _device() -> str:
    return option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))


def _threads() -> int:
    return option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)


def _seed() -> int:
    return option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)


@dataclass(frozen=True)
class TrainSegmentationConfig:
    """How to train a segmentation model. Every field is a command-line option of `imagingai train-segmentation`."""

    model: str = option(
        "dropout",
        "unet: softmax only; ensemble: several U-Nets; dropout: one U-Net, sampled by dropout; probabilistic: learns how readers differ.",
        choices=MODELS,
    )
    network: str = option(
        "fast", "fast works at half resolution inside; unet has the size of the paper, light half of its channels.", choices=NETWORKS
    )
    dimension: int = option(0, "2 works slice by slice, 3 in volumes; 0 decides by the images.", choices=(0, 2, 3))
    members: int = option(4, "U-Nets of an ensemble; with several readers, member i learns reader i.", limits=(2, 16))
    steps: int = option(2000, "Updates of the weights (of each member of an ensemble).", limits=(1, 10_000_000))
    batch: int = option(4, "Images in one update.", limits=(1, 1024))
    patch: tuple[int, ...] = option(
        (), "Size of the training images, one number or one per axis; 128 (2-D) or 64 (3-D).", limits=(16, 1024)
    )
    spacing: tuple[float, ...] = option(
        (), "Spacing to work at in mm, one number or one per axis; the median of the images.", limits=(0.01, 100.0)
    )
    intensity: str = option(
        "auto",
        "robust scales each image by its own range, ct keeps Hounsfield units; auto looks at the images.",
        choices=("auto", "robust", "ct"),
    )
    loss: str = option(
        "auto",
        "auto takes cross_entropy for several readers, otherwise dice_cross_entropy.",
        choices=("auto", "cross_entropy", "dice_cross_entropy"),
    )
    learning_rate: float = option(1e-3, "Highest rate; it warms up and then falls to zero along a cosine.", limits=(1e-7, 1.0))
    augmentation: float = option(1.0, "Strength of random deformation, contrast and noise; 0 is none.", limits=(0.0, 2.0))
    flip: bool = option(True, "Also learn from images mirrored left to right; off when left and right are different structures.")
    held_out: float = option(0.2, "Share of the images that only validate.", limits=(0.0, 0.9))
    names: tuple[str, ...] = option((), "Names of the structures, in the order of their values.", advanced=True)
    dropout: float = option(0.5, "Probability that a channel is dropped (model dropout).", limits=(0.01, 0.9), advanced=True)
    latent: int = option(6, "Dimensions of the latent space (model probabilistic).", limits=(1, 64), advanced=True)
    beta: float = option(
        5e-4, "Weight of the divergence of posterior and prior (model probabilistic).", limits=(0.0, 1000.0), advanced=True
    )
    every: int = option(100, "Steps between validations and checkpoints.", limits=(1, 1_000_000), advanced=True)
    patience: int = option(10, "Stop after so many validations without progress; 0 never stops early.", limits=(0, 10_000), advanced=True)
    precision: str = option(
        "float32", "bfloat16 halves the time on processors and GPUs that know it.", choices=("float32", "bfloat16"), advanced=True
    )
    device: str = _device()
    threads: int = _threads()
    seed: int = _seed()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SegmentConfig:
    """How to segment with uncertainty. Every field is a command-line option of `imagingai segment`."""

    samples: int = option(16, "Segmentations that are drawn; the paper draws 16.", limits=(1, 256))
    tta: bool = option(False, "Test-time augmentation: draw every sample from a slightly turned, scaled and noisy image.")
    interval: float = option(0.9, "Level of the interval of each volume.", limits=(0.5, 0.999))
    dicom: bool = option(False, "Also write DICOM: segmentation, fractional segmentation and the entropy as parametric map.")
    outputs: tuple[str, ...] = option(OUTPUTS, "What to write.", choices=OUTPUTS, advanced=True)
    overlap: float = option(0.25, "Overlap of neighboring windows.", limits=(0.0, 0.9), advanced=True)
    precision: str = option("float32", "bfloat16 is faster on processors that know it.", choices=("float32", "bfloat16"), advanced=True)
    device: str = _device()
    threads: int = _threads()
    seed: int = _seed()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LearnQualityConfig:
    """How to learn what is normal. Every field is a command-line option of `imagingai learn-quality`."""

    samples: int = option(16, "Segmentations that are drawn of each image.", limits=(1, 256))
    coverage: float = option(0.9, "Share of cases that the conformal intervals have to cover.", limits=(0.5, 0.99))
    sensitivity: float = option(0.95, "Share of your own good controls that must stay green; the cut-offs follow.", limits=(0.5, 1.0))
    acceptable: float = option(0.8, "Dice from which a segmentation is good.", limits=(0.0, 1.0))
    device: str = _device()
    threads: int = _threads()
    seed: int = _seed()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CheckQualityConfig:
    """How to sort a cohort. Every field is a command-line option of `imagingai check-quality`."""

    title: str = option("", "Heading of the report; the name of the folder without it.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CompareRatersConfig:
    """How to compare readers. Every field is a command-line option of `imagingai compare-raters`."""

    samples: int = option(16, "Samples that the generalized energy distance draws from each side.", limits=(1, 256))
    seed: int = _seed()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SelectCasesConfig(TrainSegmentationConfig):
    """How to choose the next cases to label. The options of the training are those of `imagingai train-segmentation`."""

    strategy: str = option("mutual_information", "What decides; random is always shown beside it.", choices=STRATEGIES)
    count: int = option(5, "Cases that each side chooses in a round.", limits=(1, 10_000))
    samples: int = option(16, "Segmentations that are drawn of each image.", limits=(2, 256))
    held_out: float = option(0.0, "Always 0: every label is learned from.", limits=(0.0, 0.0), advanced=True)
    patience: int = option(0, "Always 0: both sides take all steps.", limits=(0, 0), advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "unet" and self.strategy in ("mutual_information", "diversity"):
            raise InputError(
                f"--model unet has one sample only, so --strategy {self.strategy} is 0 everywhere. Choose entropy, or another model."
            )
