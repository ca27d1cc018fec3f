"""A segmentation model in a file: its networks, and all that is needed to use them on an image of anybody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from imagingai.errors import WeightsError
from imagingai.uncertainty.networks import ProbabilisticUNet, make_unet
from imagingai.weights import fill, read_tensors, write_tensors

SHIPPED = Path(__file__).parent / "weights" / "brain.safetensors"


@dataclass(frozen=True)
class ModelDescription:
    """What a model is and what it expects. classes[0] is the background; values: of the classes in label files; spacing: mm.

    patch: voxels of the windows that it sees; domain: figures of the training images, to know one that is unlike them;
    about: where the model comes from.
    """

    model: str
    network: str
    dimension: int
    channels: int
    classes: tuple[str, ...]
    values: tuple[int, ...]
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    intensity: str = "robust"
    flip: bool = True
    members: int = 1
    dropout: float = 0.5
    latent: int = 6
    temperature: float = 1.0
    domain: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class SegmentationModel:
    """Networks with their description. An ensemble has several, the other models one."""

    description: ModelDescription
    networks: list[nn.Module]

    def sample(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits (B, S, K, *grid), divided by the temperature; seed s of an ensemble is member s modulo their number."""
        import torch

        if len(self.networks) == 1:
            return self.networks[0].sample(image, seeds) / self.description.temperature
        members = {s % len(self.networks) for s in seeds}
        logits = {m: self.networks[m](image) / self.description.temperature for m in members}
        return torch.stack([logits[s % len(self.networks)] for s in seeds], 1)

    def to(self, device: Any) -> SegmentationModel:
        """The same model on a device, ready to segment."""
        return SegmentationModel(self.description, [network.to(device).eval() for network in self.networks])

    @property
    def identity(self) -> str:
        """Tells models apart: a checksum of the description and the weights' sums."""
        sums = [[float(p.detach().double().sum()) for p in network.parameters()] for network in self.networks]
        return sha256(json.dumps([asdict(self.description), sums]).encode()).hexdigest()[:16]


def build_network(description: ModelDescription) -> nn.Module:
    """One network of the model, with random weights."""
    size = (description.dimension, description.channels, len(description.classes), description.network)
    if description.model == "probabilistic":
        return ProbabilisticUNet(*size, description.latent)
    return make_unet(*size, description.dropout if description.model == "dropout" else 0.0)


def save_model(path: Path, model: SegmentationModel) -> None:
    """Write .safetensors: half precision, one prefix per network, the description as JSON."""
    tensors = {f"{k}.{name}": value for k, network in enumerate(model.networks) for name, value in network.state_dict().items()}
    write_tensors(path, tensors, asdict(model.description))


def load_model(path: str | Path | None = None) -> SegmentationModel:
    """The model of a .safetensors file, frozen, on the CPU; without a file the brain model that comes along.

    Raises `WeightsError` if the file is missing, broken, or not made by `save_model`.
    """
    path = Path(path) if path else SHIPPED
    if not path.is_file():
        raise WeightsError(f"There is no model {path}. Train one with imagingai train-segmentation, or leave it out for the brain model.")
    tensors, facts = read_tensors(path)
    known = {item.name for item in fields(ModelDescription)}
    if "model" not in facts or not set(facts) - {"sha256"} <= known:
        raise WeightsError(f"{path} holds no segmentation model. Take a file that imagingai train-segmentation wrote.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items() if name in known}
    description = ModelDescription(**values)
    networks = []
    for k in range(description.members):
        network = build_network(description)
        fill(network, {name.removeprefix(f"{k}."): value for name, value in tensors.items() if name.startswith(f"{k}.")}, path)
        networks.append(network.eval().requires_grad_(False))
    return SegmentationModel(description, networks)
