"""Settings of a federation. Standard library only, so that help and panels need neither torch nor Flower."""

from __future__ import annotations

from dataclasses import dataclass

from imagingai.errors import InputError
from imagingai.options import check, flag, option

# What a federation can learn, and the networks for it; the first one is the default.
NETWORKS = {
    "segmentation": ("fast", "light", "unet"),
    "image-classification": ("small", "resnet10", "resnet18"),
    "roi-classification": ("linear", "mlp"),
    "roi-regression": ("linear", "mlp"),
}
STRATEGIES = ("fedavg", "equal", "fedsgd", "fedprox", "loss", "qfair", "outlier", "median", "trimmed", "krum")
SUMS_ONLY = ("fedavg", "equal", "fedprox")  # strategies that need no more than the sum of the updates
AUGMENTATIONS = ("auto", "none", "basic", "shape", "shape_intensity")


@dataclass(frozen=True)
class ProjectConfig:
    """A federation, as its coordinator writes it into project.toml. Every site sees all of it, signed, before it joins."""

    name: str = option("Our federation", "What the sites see first.")
    coordinator: str = option("", "Who asks: name, institution, mail or telephone.")
    purpose: str = option("", "What the model is for, in a sentence.")
    address: str = option("127.0.0.1:8443", "host:port that the sites reach (HTTPS).")
    listen: str = option("", "host:port that the aggregator opens, if it is another one (behind a reverse proxy).", advanced=True)

    task: str = option("segmentation", "What is learned.", choices=tuple(NETWORKS))
    classes: tuple[str, ...] = option((), "Names of the structures (without background) or of the classes, in the order of their values.")
    values: tuple[int, ...] = option((), "Values of the structures in the label images; 1, 2, 3 ...", limits=(1, 65535), advanced=True)
    features: tuple[str, ...] = option((), "Columns of the table that are learned from (roi tasks).")
    target: str = option("label", "Column of the table with the class or the value to predict.")
    target_range: tuple[float, ...] = option(
        (), "A low and a high value of the target, the scale that roi-regression learns on (20 90 for ages).", limits=(-1e9, 1e9)
    )
    network: str = option(
        "", "Size of the network; the smallest of its task.", choices=("", *sorted({n for row in NETWORKS.values() for n in row}))
    )
    model: str = option(
        "unet",
        "Kind of segmentation model; dropout and probabilistic can tell how sure they are.",
        choices=("unet", "dropout", "probabilistic"),
    )
    initial: str = option("", "Weights that the first round starts from (.safetensors); random without.")
    dimension: int = option(3, "2 for slices and pictures, 3 for volumes.", choices=(2, 3))
    channels: int = option(1, "Images per case.", limits=(1, 4))
    spacing: tuple[float, ...] = option((1.0,), "Spacing to work at in mm, one number or one per axis.", limits=(0.01, 100.0))
    patch: tuple[int, ...] = option(
        (64,), "Size of the images that the network sees in voxels, one number or one per axis.", limits=(8, 1024)
    )
    intensity: str = option("robust", "robust scales each image by its own range, ct keeps Hounsfield units.", choices=("robust", "ct"))
    augmentation: str = option(
        "auto",
        "Random changes of the training images: none, basic (turned, mirrored), shape (+ elastic), shape_intensity (+ contrast, noise).",
        choices=AUGMENTATIONS,
    )
    normalization: str = option(
        "instance",
        "Normalization layers of a classifier: instance, or batch, which keeps statistics of the site's data.",
        choices=("instance", "batch"),
    )
    harmonization: str = option(
        "none",
        "nyul: bring the intensities to the average histogram of the sites; each site shares its histogram.",
        choices=("none", "nyul"),
    )

    strategy: str = option("fedavg", "How the updates become one model.", choices=STRATEGIES)
    rounds: int = option(10, "Exchanges of weights.", limits=(1, 10_000))
    epochs: float = option(1.0, "Passes of a site through its data in a round.", limits=(0.01, 1000.0))
    seconds: float = option(
        0.0,
        "Semi-synchronous: every site trains about so long in a round, whatever its speed; 0: epochs count.",
        limits=(0.0, 86400.0),
        unit="s",
    )
    batch: int = option(8, "Images in one update of the weights.", limits=(1, 1024))
    learning_rate: float = option(0.01, "Step size at the sites.", limits=(1e-7, 10.0))
    optimizer: str = option("sgd", "Optimizer at the sites; starts anew in every round.", choices=("sgd", "adam"))
    server_rate: float = option(1.0, "Step size of the aggregator (fedsgd).", limits=(1e-7, 100.0), advanced=True)
    proximal: float = option(0.1, "FedProx: how strongly a site is held to the global model (mu).", limits=(0.0, 100.0), advanced=True)
    fairness: float = option(
        0.2, "q-fair: 0 is FedAvg, larger numbers favor sites where the model is bad (q).", limits=(0.0, 10.0), advanced=True
    )
    trim: float = option(
        0.2, "Share of the sites that trimmed leaves out at each end, and that krum takes for malicious.", limits=(0.0, 0.49), advanced=True
    )
    private: str = option(
        "none",
        "What never leaves a site: norm (FedBN), statistics (SiloBN), head (the last layers).",
        choices=("none", "norm", "statistics", "head"),
    )
    fourier: float = option(
        0.0,
        "Progressive Fourier aggregation: share of the low frequencies taken from the others in round 1; 1 in the last round. 0: off.",
        limits=(0.0, 1.0),
        advanced=True,
    )
    label_weighting: bool = option(False, "FedSLD: weigh the classes by their share in the whole federation; each site shares its counts.")
    fine_tune: float = option(0.0, "Epochs that a site goes on alone at the end, for a model of its own.", limits=(0.0, 1000.0))
    held_out: float = option(0.2, "Share of a site's cases that only measure.", limits=(0.0, 0.9))
    select: str = option("best", "Which round becomes the result: best by the sites' held-out cases, or last.", choices=("best", "last"))

    min_sites: int = option(2, "Sites that a round needs.", limits=(1, 1000))
    deadline: float = option(3600.0, "A round ends after this; who is late is left out of it.", limits=(1.0, 7 * 86400.0), unit="s")
    quorum: float = option(
        1.0, "Share of the sites after which the others have only `grace` seconds more.", limits=(0.01, 1.0), advanced=True
    )
    grace: float = option(60.0, "Seconds that late sites have once the quorum is reached.", limits=(0.0, 86400.0), unit="s", advanced=True)

    epsilon: float = option(
        0.0, "Differential privacy: the most that one case may tell (epsilon), over all rounds; 0: off.", limits=(0.0, 1000.0)
    )
    delta: float = option(1e-5, "Differential privacy: the probability that the bound fails.", limits=(1e-12, 0.1), advanced=True)
    clip: float = option(1.0, "Differential privacy: the largest gradient of one case.", limits=(1e-4, 1000.0), advanced=True)
    secure_aggregation: bool = option(
        False, "The aggregator sees only the sum of the updates (SecAgg+); no strategy that looks at single sites."
    )
    exchange: str = option("float32", "Numbers that are sent; float16 halves the bytes.", choices=("float32", "float16"))
    seed: int = option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)

    def __post_init__(self) -> None:
        check(self)
        if self.network and self.network not in NETWORKS[self.task]:
            raise InputError(f"--network {self.network} is none of {self.task}. Choose from {', '.join(NETWORKS[self.task])}.")
        if self.secure_aggregation and self.strategy not in SUMS_ONLY:
            raise InputError(
                f"--secure-aggregation shows the aggregator only the sum of the updates, and --strategy {self.strategy} looks at single "
                f"sites. Choose one of {', '.join(SUMS_ONLY)}, or leave secure aggregation out."
            )
        if self.secure_aggregation and self.min_sites < 2:
            raise InputError(f"--min-sites is {self.min_sites}, and --secure-aggregation hides a site among others only. Take 2 or more.")
        for left, right, why in (
            ("epsilon", "label_weighting", "counts are shared without noise"),
            ("seconds", "secure_aggregation", "the aggregator does not see how fast a site is"),
            ("fourier", "secure_aggregation", "each site merges by itself what it must not see"),
            ("epsilon", "seconds", "the privacy budget needs a fixed number of steps"),
        ):
            if getattr(self, left) and getattr(self, right):
                raise InputError(f"{flag(left)} and {flag(right)} exclude each other: {why}. Leave one of them out.")
        if self.epsilon and self.normalization == "batch" and self.task == "image-classification":
            raise InputError("--epsilon needs layers that treat every case by itself, and --normalization is batch. Take instance.")

    @property
    def size(self) -> str:
        """The network, with the default of the task filled in."""
        return self.network or NETWORKS[self.task][0]


def _device() -> str:
    return option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))


def _threads() -> int:
    return option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)


@dataclass(frozen=True)
class CheckConfig:
    """How to look at the data of a site before it joins."""

    threads: int = _threads()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class JoinConfig:
    """How a site takes part. Every field is a command-line option of `imagingai federated join`."""

    accept: str = option("", "Fingerprint of the invitation that you agree to, at least its first 8 characters.")
    key: str = option("", "Private key of this site; the one that `imagingai federated key` made.")
    patience: float = option(600.0, "Keep trying so long when the aggregator cannot be reached.", limits=(0.0, 7 * 86400.0), unit="s")
    device: str = _device()
    threads: int = _threads()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PredictConfig:
    """How to use a classifier on new cases. Every field is an option of `imagingai federated predict`."""

    own_scale: bool = option(False, "Bring the features to mean 0 and deviation 1 by the new cases: for another site than the model's.")
    threads: int = _threads()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SimulateConfig:
    """How to run a federation on this computer, without a network. Every field is an option of `imagingai federated simulate`."""

    seeds: int = option(1, "Repeat with so many seeds, beginning with that of the project.", limits=(1, 1000))
    compare: tuple[str, ...] = option(
        (),
        "Also run for comparison: cross (train at one site, test at the others), single (each by itself), mix (all data in one place).",
        choices=("cross", "single", "mix"),
    )
    leave_out: bool = option(False, "Leave each site out in turn, and measure on it.")
    device: str = _device()
    threads: int = _threads()

    def __post_init__(self) -> None:
        check(self)
