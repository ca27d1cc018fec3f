"""Random shapes in 2-D and 3-D: cells with nuclei and membranes, vessels, patches of ground. No data at all is needed.

Made for feature extractors that must work on anything with structure (microscopy, slices, photographs).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagingai.synthesis.appearance import degrade, random_contrast
from imagingai.synthesis.geometry import Random, smooth_noise, uniform

CLASSES = ("ground", "cell", "nucleus", "membrane", "vessel")
CLASS_OF = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])  # tissues: three grounds, two cells, two nuclei, membrane, vessel
GROUND, CELL, NUCLEUS, MEMBRANE, VESSEL = 0, 3, 5, 7, 8


def random_shapes(shape: tuple[int, ...], random: Random) -> Tensor:
    """Tissue numbers (*shape), uint8, of a random scene."""
    grounds = int(uniform(1, 4, random))
    tissues = smooth_noise(shape, int(uniform(3, 7, random)), grounds, random).argmax(0).to(torch.uint8)
    if uniform(0, 1, random) < 0.6:
        _add_vessels(tissues, random)
    if uniform(0, 1, random) < 0.85:
        _add_cells(tissues, random)
    return tissues


def _add_vessels(tissues: Tensor, random: Random) -> None:
    """Thin curves (surfaces in 3-D: sheets cut by a second noise) where smooth noise crosses zero."""
    shape = tuple(tissues.shape)
    noise = smooth_noise(shape, int(uniform(4, 9, random)), len(shape) - 1, random)
    slope = torch.stack([sum(d**2 for d in torch.gradient(n)) for n in noise]).sqrt().clamp(min=1e-3)
    distance = (noise / slope).square().sum(0).sqrt()
    tissues[distance < uniform(1, 3, random)] = VESSEL


def _add_cells(tissues: Tensor, random: Random) -> None:
    """Cells around random centers, pressed against each other, with a membrane and a nucleus, their outlines bent."""
    shape = tuple(tissues.shape)
    size = min(shape)
    radius = uniform(0.06, 0.25, random) * size
    count = max(2, min(60, int(0.25 * tissues.numel() / (3 * radius) ** len(shape) * 8)))
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    grid = torch.stack(axes, -1) + radius * uniform(0, 0.4, random) * smooth_noise(shape, 9, len(shape), random).movedim(0, -1)
    centers = torch.rand(count, len(shape), generator=random) * torch.tensor(shape)
    radii = radius * (0.6 + 0.8 * torch.rand(count, generator=random))
    near = torch.cdist(grid.reshape(-1, len(shape)), centers).div_(radii)
    (first, second), (owner, _) = (part.T for part in near.topk(2, largest=False))
    first, second, owner = (x.reshape(shape) for x in (first, second, owner))
    variant = (torch.rand(count, generator=random) < 0.3).to(torch.uint8)[owner]
    inside = (first < 1) & (first < second)
    tissues[inside] = CELL + variant[inside]
    width = uniform(0.8, 2.5, random) / radius
    if uniform(0, 1, random) < 0.7:
        tissues[inside & ((first > 1 - width) | (second - first < width))] = MEMBRANE
    shift = (torch.rand(count, len(shape), generator=random) - 0.5) * 0.5 * radii[:, None]
    core = (grid - (centers + shift)[owner]).norm(dim=-1) / radii[owner] < uniform(0.2, 0.5, random)
    tissues[core & inside & (tissues != MEMBRANE)] = NUCLEUS
    tissues[core & inside & (tissues != MEMBRANE) & (variant > 0)] = NUCLEUS + 1


@dataclass(frozen=True)
class SyntheticShapes:
    """Endless images of random shapes. Calling it with a seed gives (image (1, *shape) float, classes (*shape) long)."""

    shape: tuple[int, ...] = (128, 128)

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        tissues = random_shapes(self.shape, random).long()
        means, deviations = random_contrast(len(CLASS_OF), random)
        image = means[tissues] + deviations[tissues] * torch.randn(self.shape, generator=random)
        return degrade(image[None].clamp_(min=0), random), CLASS_OF[tissues]
