"""Which parts of a network leave a site, and which never do: FedBN, SiloBN, private last layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from imagingai.errors import InputError

COUNTER = "num_batches_tracked"  # of the training so far; a mean of it means nothing, so that it always stays


def is_normalization(layer: nn.Module) -> bool:
    """True for the layers of torch.nn that normalize (batch, instance, layer, group), including those of MONAI made of them."""
    return type(layer).__module__.startswith("torch.nn.modules.") and "Norm" in type(layer).__name__


def private_names(network: nn.Module, private: str, head: Sequence[str]) -> list[str]:
    """Names in the state_dict that stay at the site. head: names of the parameters of the last layers.

    norm: all of the normalization layers (FedBN, Li et al. 2021); statistics: their running means and variances (SiloBN, Andreux et
    al. 2020); head: the last layers, as the decoders of Feng et al. 2022 (the latter two: survey, section 3.2.1); none: nothing.
    Raises InputError if there is nothing of the kind, or if nothing would be left to share.
    """
    names = [name for name in network.state_dict() if not name.endswith(COUNTER)]
    layers = tuple(f"{name}." for name, layer in network.named_modules() if is_normalization(layer))
    of_layers = [name for name in names if name.startswith(layers)] if layers else []
    kept = {
        "none": [],
        "norm": of_layers,
        "statistics": [name for name in of_layers if name.rpartition(".")[2] in ("running_mean", "running_var")],
        "head": [name for name in names if name in set(head)],
    }[private]
    if private != "none" and not kept:
        what = {"norm": "normalization layers with weights", "statistics": "layers that keep statistics", "head": "last layers"}[private]
        raise InputError(f"--private {private}: the network has no {what}. Take --private none{_instead(private)}.")
    if len(kept) == len(names):
        raise InputError(f"--private {private} keeps all {len(names)} tensors of the network at the site. Take --private none.")
    return kept


def shared_names(network: nn.Module, private: str, head: Sequence[str]) -> list[str]:
    """Names in the state_dict that are exchanged, in its order: all but `private_names` and the counters of batches."""
    kept = set(private_names(network, private, head))
    return [name for name in network.state_dict() if name not in kept and not name.endswith(COUNTER)]


def _instead(private: str) -> str:
    return {"norm": "", "statistics": ", or --normalization batch for a classifier", "head": ""}[private]
