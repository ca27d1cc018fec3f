"""The feature extractors of deepsim: encoder levels of a frozen network (Czolbe et al., paper 1, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imagingai.errors import WeightsError
from imagingai.networks import pad_to_multiple
from imagingai.synthesis.appearance import normalize
from imagingai.weights import load_network


def extractor(name: str, dimension: int, device: torch.device | str = "cpu") -> Callable[[Tensor], list[Tensor]]:
    """A function image (1, 1, *grid) -> encoder levels (1, C, *grid / 2), (1, C', *grid / 4) ..., differentiable.

    name: shipped weights or a file. The border is repeated to a multiple of the coarsest stride; what hangs over is cut.
    Raises `WeightsError` if the network was made for another number of dimensions.
    """
    network, facts = load_network(name, device)
    if facts["dimension"] != dimension:
        raise WeightsError(
            f"The extractor {name} is for {facts['dimension']}-D images, these are {dimension}-D. Choose another with --features."
        )

    def extract(image: Tensor) -> list[Tensor]:
        grid = image.shape[2:]
        levels = network.encode(pad_to_multiple(normalize(image), 2 ** len(network.stages)))
        cut = [tuple(slice(0, max(1, -(-n // 2**depth))) for n in grid) for depth in range(1, len(levels) + 1)]
        return [level[(..., *part)] for level, part in zip(levels, cut, strict=True)]

    return extract
