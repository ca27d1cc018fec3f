"""Synthetic brain MRI of any contrast, with and without skull, from label maps in the style of FreeSurfer.

Made for the 20 public maps that SynthSeg was trained on (Apache-2.0). Left and right share a class and a contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import InputError
from imagingai.synthesis.appearance import degrade, random_contrast
from imagingai.synthesis.geometry import random_points, sample, uniform
from imagingai.volume import load

CLASSES = (
    "background",
    "csf",
    "cerebral cortex",
    "cerebral white matter",
    "lateral ventricle",
    "third and fourth ventricle",
    "thalamus",
    "caudate and accumbens",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
    "brainstem and ventral DC",
    "cerebellar cortex",
    "cerebellar white matter",
)

# tissue: labels of the maps, class, mean and spread of its T1 intensity (0..255, from SynthSeg's prior_means_t1.npy)
TISSUES = (
    ((0,), 0, 7, 2),
    ((24,), 1, 44, 11),
    ((3, 42), 2, 96, 12),
    ((2, 41), 3, 160, 22),
    ((4, 43, 5, 44), 4, 44, 11),
    ((136, 163, 137, 164), 4, 60, 10),  # choroid plexus
    ((14, 15, 72), 5, 44, 11),
    ((10, 49), 6, 130, 18),
    ((11, 50, 26, 58), 7, 96, 12),
    ((12, 51), 8, 124, 16),
    ((13, 52), 9, 152, 20),
    ((17, 53), 10, 96, 12),
    ((18, 54), 11, 96, 12),
    ((16,), 12, 130, 12),
    ((28, 60), 12, 143, 16),
    ((8, 47), 13, 88, 11),
    ((7, 46), 14, 136, 13),
    ((25, 57), 3, 116, 15),  # white-matter lesion
    ((30, 62), 0, 87, 17),  # vessel
    ((85,), 0, 160, 22),  # optic chiasm
    ((502,), 0, 126, 25),
    ((506,), 0, 18, 4),
    ((507,), 0, 94, 9),
    ((508,), 0, 117, 12),
    ((509,), 0, 70, 9),
    ((511,), 0, 114, 12),
    ((512,), 0, 68, 11),
    ((514,), 0, 48, 9),
    ((515,), 0, 30, 7),
    ((516,), 0, 94, 18),
    ((530,), 0, 144, 16),
)
CLASS_OF = torch.tensor([row[1] for row in TISSUES])
PRIOR = torch.tensor([row[2:] for row in TISSUES]) / 160.0
MARGIN = 24  # mm of head kept around the brain


def load_tissues(path: Path) -> Tensor:
    """A label map as tissue numbers (X, Y, Z) uint8 in RAS order, 1 mm, cropped to the brain and some of the head."""
    volume = load(path)
    labels = torch.as_tensor(volume.data[0].astype("int64"))
    table = torch.zeros(1000, dtype=torch.uint8)
    for tissue, row in enumerate(TISSUES):
        table[list(row[0])] = tissue
    if int(labels.amin()) < 0 or int(labels.amax()) >= 1000:
        raise InputError(f"{path} is not a label map in the style of FreeSurfer: its values reach {int(labels.amax())}.")
    tissues = _to_ras(table[labels], volume.affine)
    brain = CLASS_OF[tissues.long()] > 1
    if not brain.any():
        raise InputError(f"{path} has no brain labels of FreeSurfer (2, 3, 4 ... 60).")
    for axis in range(3):
        inside = brain.any(dim=tuple(a for a in range(3) if a != axis)).nonzero()[[0, -1], 0]
        begin = max(0, int(inside[0]) - MARGIN)
        tissues = tissues.narrow(axis, begin, min(tissues.shape[axis], int(inside[1]) + MARGIN + 1) - begin)
        brain = brain.narrow(axis, begin, tissues.shape[axis])
    return tissues.contiguous()


def _to_ras(data: Tensor, affine) -> Tensor:
    """Permute and flip (X, Y, Z) so that the axes run to the right, the front and the top."""
    matrix = torch.as_tensor(affine, dtype=torch.float64)[:3, :3]
    order = [int(matrix[row].abs().argmax()) for row in range(3)]
    flips = [row for row in range(3) if matrix[row, order[row]] < 0]
    return data.permute(order).flip(flips)


@dataclass(frozen=True)
class SyntheticBrains:
    """Endless synthetic brain images. Calling it with a seed gives (image (1, *shape) float, classes (*shape) long)."""

    maps: list[Tensor]
    shape: tuple[int, ...] = (80, 96, 80)
    spacing: int = 2  # mm; the maps have 1 mm

    @staticmethod
    def from_folder(folder: Path, shape: tuple[int, ...] = (80, 96, 80), spacing: int = 2, leave_out: int = 0) -> SyntheticBrains:
        """Read the label maps of a folder, in order of their names, without the last `leave_out`."""
        files = sorted(p for p in Path(folder).iterdir() if p.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha")))
        if len(files) <= leave_out:
            raise InputError(f"{folder} holds {len(files)} label maps (.nii.gz, .nrrd, .mha); more than {leave_out} are needed.")
        return SyntheticBrains([load_tissues(file) for file in files[: len(files) - leave_out]], shape, spacing)

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        """The image of a seed; the same on every machine and in any order."""
        random = torch.Generator().manual_seed(seed)
        tissues = self.maps[int(torch.randint(len(self.maps), (), generator=random))]
        center = (torch.tensor(tissues.shape) - 1) / 2 + (torch.rand(3, generator=random) * 2 - 1) * 16
        points = random_points(self.shape, center, self.spacing, random, deformation=3.0 / self.spacing)
        means, deviations = random_contrast(len(TISSUES), random, PRIOR)
        air = uniform(0, 0.1, random) if uniform(0, 1, random) < 0.5 else 0.0
        means[0], deviations[0] = air, air / 3
        image = sample(_average(means[tissues.int()], self.spacing), (points - (self.spacing - 1) / 2) / self.spacing)
        label = sample(tissues[None].float(), points, mode="nearest")[0].long()
        image = (image + deviations[label] * torch.randn(self.shape, generator=random)).clamp_(min=0)
        classes = CLASS_OF[label]
        if uniform(0, 1, random) < 0.6:  # without skull
            inside = _grow(classes > 1, int(uniform(0, 3, random)))
            image, classes = image * inside, classes * inside
        return degrade(image, random), classes


def _average(image: Tensor, factor: int) -> Tensor:
    """Mean of blocks of voxels, (X, Y, Z) to (1, X/f, Y/f, Z/f): the partial volume of larger voxels."""
    return F.avg_pool3d(image[None], factor) if factor > 1 else image[None]


def _grow(mask: Tensor, steps: int) -> Tensor:
    """Grow a mask (*shape) by some voxels, the last one smoothed."""
    grown = mask[None].float()
    for _ in range(steps):
        grown = F.max_pool3d(grown, 3, 1, 1)
    if steps:
        grown = F.avg_pool3d(grown, 3, 1, 1, count_include_pad=False) > 0.5
    return grown[0].bool()
