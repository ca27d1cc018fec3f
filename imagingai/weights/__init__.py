"""Networks in safetensors files: the shipped ones lie beside this file, each with its model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from imagingai.errors import WeightsError
from imagingai.networks import NETWORKS, UNet, build

FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names of the weights that come with the library."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


@dataclass(frozen=True)
class Description:
    """What weights are for. kind: seg or ae; classes: the outputs; spacing: mm of the images it was trained on, 0: any."""

    network: str
    kind: str
    dimension: int
    classes: tuple[str, ...]
    spacing: float = 0.0


def save_weights(path: Path, network: UNet, description: Description) -> None:
    """Write the weights in half precision, with their description and a checksum."""
    write_tensors(path, network.state_dict(), asdict(description))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors in half precision, with what they are for (as JSON) and a checksum."""
    from safetensors.torch import save

    halves = {name: value.detach().half().cpu().contiguous() for name, value in tensors.items()}
    path.write_bytes(
        save(halves, {"imagingai": json.dumps({**facts, "sha256": _digest(halves)})})
    )  # save_file leaves it unreadable to others


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file, in single precision, and what they are for; `WeightsError` if it is broken or not of ImagingAI."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("imagingai", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"The weights {path} cannot be read ({error}). Copy or download the file again.") from None
    if not isinstance(facts, dict):
        raise WeightsError(f"{path} holds no network of ImagingAI. Take a file that imagingai has trained.")
    if facts["sha256"] != _digest(tensors):
        raise WeightsError(f"The weights {path} are damaged: their checksum does not fit. Copy or download the file again.")
    return {key: value.float() for key, value in tensors.items()}, facts


def load_weights(name: str | Path) -> tuple[UNet, Description]:
    """The network of a file (.safetensors) or of a shipped name, frozen, on the CPU, and what it is for.

    Raises `WeightsError` if the file is missing, broken, or not made by `save_weights`.
    """
    path = Path(name) if str(name).endswith(".safetensors") else FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise WeightsError(f"There are no weights {name}. Shipped are {', '.join(shipped()) or 'none'}; or give a .safetensors file.")
    tensors, facts = read_tensors(path)
    if "kind" not in facts or facts.get("network") not in NETWORKS:
        raise WeightsError(f"{path} holds no feature extractor. Take a file that imagingai train-features wrote.")
    facts.pop("sha256")
    description = Description(**{**facts, "classes": tuple(facts["classes"])})
    network = build(description.network, description.kind, description.dimension, len(description.classes))
    fill(network, tensors, path)
    return network.eval().requires_grad_(False), description


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give a network its weights; `WeightsError` if they are of another one."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"The weights {path} do not fit their network: {str(error).splitlines()[-1].strip()}.") from None


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
