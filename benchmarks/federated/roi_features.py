"""Regional gray-matter volumes of two sites, measured with our registration and an atlas: the table that survey.py learns from.

    python benchmarks/federated/roi_features.py --data DATA --work W

Site "oasis": real T1 scans of seven people (brain_t1_oasis35; CC BY-NC, so that neither scans nor volumes are in this repository).
Site "painted": the anatomy of fourteen other people (synthseg_labelmaps), painted with the contrast, noise and shading of another scanner.
No patients with Alzheimer's disease are at hand. **The disease is simulated**: every person is scanned several times, each time deformed
smoothly at random (people differ), and in half of the scans, drawn at random, hippocampus and amygdala, and less what surrounds them, have
shrunk by a random share (28 ± 7 %; healthy 3 ± 4 %) before anything is measured. Then as in the survey (section 6): registration with an
atlas (Colin27), gray matter from the intensities, its volume in each of the 90 cerebral regions of AAL. One line per scan in W/scans.jsonl
(resumed when interrupted), then W/rois/<site>/table.csv: case, label, 90 volumes in per mille of their sum, so that the size of the head
does not count.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import add_line, begin, parser, read_lines
from scipy.cluster.vq import kmeans2
from scipy.ndimage import binary_closing, gaussian_filter

from imagingai.registration import PRESETS, RegistrationConfig, register
from imagingai.synthesis.geometry import sample, smooth_noise
from imagingai.transform import Transform, jacobian_determinant, warp
from imagingai.volume import Volume, load, resample_like

OASIS = ("1000", "1001", "1002", "1003", "1006", "1107", "1122")  # 1023 is 1003 again
PAINTED = tuple(f"{number:02d}" for number in range(1, 15))  # label maps
REPEATS = {"oasis": 14, "painted": 6}  # scans of each person
CLASSES = ("healthy", "atrophy")
SHRINKAGE = {"healthy": (0.03, 0.04), "atrophy": (0.28, 0.07)}  # share of its volume that a hippocampus loses: mean, deviation
NOISE = {"oasis": 2.0, "painted": 5.0}  # white matter is 110
REGIONS = 90  # of AAL without the cerebellum
CORE = {"oasis": (31, 32, 47, 48), "painted": (17, 18, 53, 54)}  # labels of hippocampus and amygdala
T1 = {  # intensity of the labels of the painted brains
    110: (2, 41, 7, 46),
    102: (13, 52, 16),
    97: (28, 60),
    92: (10, 49),
    84: (11, 12, 50, 51, 26, 58),
    77: (3, 42, 8, 47, 17, 18, 53, 54),
    28: (4, 5, 14, 15, 24, 43, 44),
}
CSF_AROUND = 24


@dataclass(frozen=True)
class Brain:
    """A person. image, core (hippocampus and amygdala): (X, Y, Z), voxels of 2 mm; affine: index -> RAS mm."""

    site: str
    name: str
    image: np.ndarray
    core: np.ndarray
    affine: np.ndarray


# --- people


def read_brain(data: Path, site: str, name: str) -> Brain:
    """One person, skull-stripped, white matter at 110, cropped to the brain."""
    if site == "oasis":
        scan = load(data / "brain_t1_oasis35" / f"{name}_SS.nii.gz")
        labels, image = load(data / "brain_t1_oasis35" / f"{name}_glm.nii.gz", label=True).data[0], scan.data[0].astype(np.float32)
        image *= 110 / np.median(image[np.isin(labels, (44, 45))])
    else:
        scan = load(data / "synthseg_labelmaps" / f"training_seg_{name}.nii.gz")
        labels = scan.data[0].astype(int)
        image = paint(labels)
    inside = np.argwhere(image > 0)
    box = tuple(slice(max(0, low - 8), high + 9) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    affine = scan.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] = (scan.affine @ [*(cut.start + 0.5 for cut in box), 1])[:3]
    return Brain(site, name, halve(image[box]), halve(np.isin(labels, CORE[site])[box]), affine)


def halve(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels, float32."""
    x, y, z = (n // 2 for n in image.shape)
    return image[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5)).astype(np.float32)


def paint(labels: np.ndarray) -> np.ndarray:
    """A T1 image of FreeSurfer labels: the brain with the fluid in its sulci, without the head."""
    values = np.zeros(max(600, labels.max() + 1), np.float32)
    for value, members in T1.items():
        values[list(members)] = value
    brain = binary_closing((values[labels] > 0) & (labels != CSF_AROUND), iterations=4)
    return np.where(brain, gaussian_filter(np.where(values[labels] > 0, values[labels], 28), 0.6), 0)


def people() -> list[tuple[str, str]]:
    """Site and name of everybody."""
    return [("oasis", name) for name in OASIS] + [("painted", name) for name in PAINTED]


# --- scans


def scan_again(brain: Brain, shrinkage: float, seed: int) -> Volume:
    """The person deformed at random, with a smaller hippocampus, as the scanner of the site sees it."""
    random, shape = torch.Generator().manual_seed(seed), brain.image.shape
    grid = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij"), -1)
    others = sum(mm / 2 * smooth_noise(shape, knots, 3, random) for knots, mm in ((5, 2.5), (12, 0.8)))  # people differ
    points = grid + others.movedim(0, -1) + torch.from_numpy(shrink(brain.core, shrinkage)).movedim(0, -1)
    image = sample(torch.from_numpy(brain.image)[None], points)
    shading = 1 + 0.06 * smooth_noise(shape, 4, 1, random)
    seen = image * shading + NOISE[brain.site] * torch.randn(image.shape, generator=random) * (image > 0)
    return Volume(seen.clamp(min=0).numpy(), brain.affine)


def shrink(core: np.ndarray, share: float) -> np.ndarray:
    """Displacement (3, X, Y, Z) in voxels whose pull-back takes `share` of its volume from the core, and a third of that around it.

    It is the gradient of a potential whose Laplacian is the wanted change of volume (Poisson's equation, solved with the FFT).
    """
    wide = gaussian_filter(core, 4)
    change = gaussian_filter(core, 0.5) + wide / wide.max() / 3
    change *= 1 / (1 - share) - 1
    waves = np.stack(np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in core.shape), indexing="ij")).astype(np.float32)
    square = (waves**2).sum(0)
    square[0, 0, 0] = 1
    potential = np.fft.fftn(change) / -square
    potential[0, 0, 0] = 0
    return np.stack([np.fft.ifftn(1j * wave * potential).real for wave in waves]).astype(np.float32)


# --- measuring


def gray_matter(scan: Volume) -> Volume:
    """Share of gray matter in each voxel: 1 at its typical intensity, 0 at those of fluid and white matter, linear between."""
    image = scan.data[0]
    inside = image[image > 0]
    start = np.percentile(inside, (5, 35, 80))
    fluid, gray, white = np.sort(kmeans2(inside[::7, None], start[:, None], minit="matrix")[0].ravel())
    return scan.with_data(np.interp(image, (fluid, gray, white), (0, 1, 0)).astype(np.float32)[None])


def measure(scan: Volume, fixed: Volume, atlas: np.ndarray, start: Transform) -> list[float]:
    """Milliliters of gray matter in regions 1 .. 90 of the atlas, in the space of the scan. start: affine alignment of the person."""
    transform = register(fixed, scan, RegistrationConfig(**PRESETS["fast"], alignment="none", spacing=3.0), initial=start).transform
    gray = warp(gray_matter(scan), transform, fixed).data[0] * jacobian_determinant(transform, fixed).data[0]
    return (np.bincount(atlas.ravel(), gray.ravel(), minlength=117)[1 : REGIONS + 1] * fixed.voxel_ml).tolist()


def read_atlas(data: Path, spacing: float = 2.0) -> tuple[Volume, np.ndarray, list[str]]:
    """Colin27 at 2 mm, its regions of AAL, their names."""
    image, regions = load(data / "brain_colin27" / "ch2bet.nii.gz"), load(data / "brain_colin27" / "aal.nii.gz", label=True)
    lines = (data / "brain_colin27" / "aal.nii.txt").read_text().split("\n")[:REGIONS]
    names = [line.split()[1] for line in lines]
    shape = np.ceil(np.array(image.shape) / spacing).astype(int)
    grid = Volume(np.zeros((1, *shape), np.uint8), image.affine @ np.diag([spacing] * 3 + [1]))
    fixed = resample_like(image.with_data(gaussian_filter(image.data.astype(np.float32), (0, 0.7, 0.7, 0.7))), grid)
    return fixed, resample_like(regions, grid, interpolation="nearest").data[0].astype(int), names


def measure_all(data: Path, file: Path) -> Iterator[dict]:
    """One row per scan: site, case, label, shrinkage, volumes; what the file has already is not measured again."""
    rows = {row["case"]: row for row in read_lines(file)}
    fixed, atlas, _ = read_atlas(data)
    for number, (site, name) in enumerate(people()):
        cases = [f"{site}_{name}_{k:02d}" for k in range(REPEATS[site])]
        yield from (rows[case] for case in cases if case in rows)
        missing = [case for case in cases if case not in rows]
        if missing:
            brain = read_brain(data, site, name)
            unchanged = Volume(brain.image[None], brain.affine)
            start = register(fixed, unchanged, RegistrationConfig(deformation="none")).transform
        for case in missing:
            seed = 1000 * number + int(case[-2:])
            random = np.random.default_rng(seed)
            label = CLASSES[random.integers(2)]
            shrinkage = float(np.clip(random.normal(*SHRINKAGE[label]), 0, 0.5))
            row = {"site": site, "case": case, "label": label, "shrinkage": shrinkage}
            row["volumes"] = measure(scan_again(brain, shrinkage, seed), fixed, atlas, start)
            add_line(file, row)
            yield row


def main() -> None:
    """Measure, and write a table for each site."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    given = arguments.parse_args()
    begin()
    given.work.mkdir(parents=True, exist_ok=True)
    names = read_atlas(given.data)[2]
    rows = list(measure_all(given.data, given.work / "scans.jsonl"))
    for site in REPEATS:
        folder = given.work / "rois" / site
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "label", *names])
            for row in rows:
                if row["site"] == site:
                    share = 1000 * np.array(row["volumes"]) / np.sum(row["volumes"])
                    writer.writerow([row["case"], row["label"], *np.round(share, 4)])


if __name__ == "__main__":
    main()
