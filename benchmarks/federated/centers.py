"""Synthetic cine MRI of the heart from four centers, for the experiments of Linardos et al. (2022): linardos.py.

    python benchmarks/federated/centers.py --work W       # writes W/centers/<center>/{images,labels,table.csv} and W/centers.png

**No patient is in these data.** M&M and ACDC may not be passed on, so that hearts are drawn: a stack of short-axis slices at end-diastole
with the blood of the left ventricle (1), its muscle (2), the blood of the right ventricle (3), and lung, liver, chest wall around them.
Numbers of healthy (NOR) and hypertrophic (HCM) people, voxel sizes and vendors are those of table 1 of the paper. In
hypertrophic hearts the wall is thicker, most of all the septum, and the cavity smaller; the groups overlap. The centers differ in contrast,
noise, sharpness, shading, scale of the intensities, and **ACDC also in the disease, on purpose**: ACDC calls a large mass HCM, the others a
thick wall (paper, "Diagnosis rules"), so that its hypertrophic hearts are larger, not smaller.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import parser
from scipy.ndimage import gaussian_filter, zoom

from imagingai.volume import Volume, load, save

CLASSES = ("NOR", "HCM")
STRUCTURES = ("left ventricle", "myocardium", "right ventricle")
FIELD = (128.0, 128.0, 90.0)  # mm
FINE = 1.0  # mm, of the grid that is drawn on


@dataclass(frozen=True)
class Center:
    """A row of table 1 (people, voxel sizes in mm), and a scanner. tissues: LV, muscle, RV, lung, liver, fat, of blood 1."""

    normal: int
    hypertrophic: int
    pixel: tuple[float, float]
    slices: tuple[float, float]
    tissues: tuple[float, ...]
    scale: float
    noise: float
    blur: float  # mm
    shading: float
    wall: tuple[float, float] = (8.0, 10.5)  # mm: healthy, hypertrophic
    radius: tuple[float, float] = (25.0, 22.5)  # mm, of the cavity


CENTERS = {
    "Vall d'Hebron": Center(21, 25, (1.1516, 1.2362), (10, 10), (1.0, 0.40, 0.95, 0.10, 0.45, 1.10), 400, 0.04, 0.8, 0.2),
    "Sagrada Familia": Center(33, 37, (0.9765, 1.62), (8, 10), (1.0, 0.50, 0.90, 0.15, 0.55, 1.30), 900, 0.06, 1.2, 0.3),
    "ACDC": Center(20, 20, (1.34, 1.68), (5, 10), (1.0, 0.60, 1.05, 0.25, 0.60, 0.90), 200, 0.10, 1.6, 0.5, (8.5, 10.5), (24.5, 26.0)),
    "SantPau": Center(14, 10, (0.7955, 1.8228), (10, 10), (1.0, 0.45, 0.90, 0.10, 0.50, 1.20), 1500, 0.05, 1.0, 0.4),
}


def folder_of(center: str) -> str:
    """Name of a folder: vall_dhebron."""
    return center.lower().replace("'", "").replace(" ", "_")


# --- one heart


def draw(wall: float, radius: float, hypertrophic: bool, random: np.random.Generator) -> np.ndarray:
    """Labels (X, Y, Z) of 1 mm: 1 LV, 2 muscle, 3 RV, 4 lung, 5 liver, 6 chest wall. wall, radius: mm."""
    axes = [np.arange(int(size / FINE)) * FINE - size / 2 for size in FIELD]
    x, y, z = np.meshgrid(*(axis - random.normal(0, 3) for axis in axes), indexing="ij")
    tilt, length = random.normal(0, 0.15, 2), random.normal(80, 6)
    x, y = x - tilt[0] * z, y - tilt[1] * z
    depth = (z + 38) / length  # 0 at the base, 1 at the apex
    profile = np.sqrt(np.clip(1 - np.clip(depth, 0, None) ** 2, 0, None)) * (depth > -0.05)
    angle, septum = np.arctan2(y, x), random.normal(np.pi * 0.85, 0.2)
    uneven = random.uniform(0.1, 0.7) if hypertrophic else random.uniform(0.0, 0.2)
    thick = wall * (1 + uneven * np.clip(np.cos(angle - septum), 0, None) ** 2)
    lobes = 1 + 0.05 * np.cos(2 * (angle - random.uniform(0, np.pi))) + 0.03 * np.cos(3 * (angle - random.uniform(0, np.pi)))
    distance, cavity = np.hypot(x, y), radius * lobes * profile
    shift = radius + 0.6 * wall
    right = np.hypot((x - shift * np.cos(septum)) / 30, (y - shift * np.sin(septum)) / random.normal(26, 2)) < profile
    labels = np.where((y < -38 + 8 * np.sin(x / 20)) | (np.hypot(x, y) > 60), 6, 4)
    labels[(z > 18) & (x + y > 30)] = 5
    labels[right & (depth < 0.85)] = 3
    labels[(distance < cavity + thick * np.sqrt(profile)) & (profile > 0)] = 2
    labels[(distance < cavity) & (depth < 0.92)] = 1
    return labels


def scan(labels: np.ndarray, center: Center, random: np.random.Generator) -> tuple[Volume, Volume]:
    """Image and structures (1, 2, 3) as the center's scanner sees them: its voxels, contrast, noise, shading, scale."""
    tissues = np.array([0, *center.tissues]) * random.normal(1, 0.05, 7)
    step = np.array([random.uniform(*center.pixel)] * 2 + [random.uniform(*center.slices)]) * (2, 2, 1)  # half the paper's resolution
    sharp = gaussian_filter(tissues[labels], np.array([center.blur, center.blur, 0.3 * step[2]]) / FINE)
    places = [np.arange(0, n - 1, s / FINE).astype(int) for n, s in zip(labels.shape, step, strict=True)]
    seen = sharp[np.ix_(*places)]
    shading = zoom(random.normal(size=(3, 3, 3)), np.array(seen.shape) / 3, order=1)
    seen = seen * np.exp(center.shading * shading / 2)
    seen = np.hypot(seen + center.noise * random.normal(size=seen.shape), center.noise * random.normal(size=seen.shape))
    image = Volume.from_array((center.scale * seen).astype(np.float32), spacing=step)
    structures = labels[np.ix_(*places)]
    return image, image.with_data(np.where(structures < 4, structures, 0).astype(np.uint8)[None])


def people(name: str) -> Iterator[tuple[str, str, Volume, Volume]]:
    """Case, class, image, structures of everybody at a center; the healthy ones come first."""
    center, number = CENTERS[name], list(CENTERS).index(name)
    for k in range(center.normal + center.hypertrophic):
        random = np.random.default_rng((number, k))
        hypertrophic = k >= center.normal
        wall = random.normal(center.wall[hypertrophic], (1.2, 2.2)[hypertrophic])
        radius = random.normal(center.radius[hypertrophic], 2.5)
        labels = draw(max(wall, 5.0), radius, hypertrophic, random)
        yield f"{folder_of(name)}_{k:02d}", CLASSES[hypertrophic], *scan(labels, center, random)


def write_centers(folder: Path) -> None:
    """Write everybody, unless it was done before."""
    for name in CENTERS:
        here = folder / folder_of(name)
        if (here / "table.csv").exists():
            continue
        rows = []
        for case, label, image, structures in people(name):
            for kind, volume in (("images", image), ("labels", structures)):
                (here / kind).mkdir(parents=True, exist_ok=True)
                save(volume, here / kind / f"{case}.nii.gz")
            rows.append((case, label))
        with (here / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("case", "label"), *rows])


def show(folder: Path, file: Path) -> None:
    """Two healthy and two hypertrophic hearts of each center, middle slice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 11), layout="constrained")
    for row, name in enumerate(CENTERS):
        for column, k in enumerate((0, 1, CENTERS[name].normal, CENTERS[name].normal + 1)):
            data = load(folder / folder_of(name) / "images" / f"{folder_of(name)}_{k:02d}.nii.gz").data[0]
            axis = figure.add_subplot(4, 4, 4 * row + column + 1)
            axis.imshow(data[:, :, data.shape[2] // 2].T, cmap="gray", origin="lower")
            axis.set_title(f"{name}, {CLASSES[k > 1]}", fontsize=9)
            axis.axis("off")
    figure.savefig(file, dpi=80)


def main() -> None:
    """Write all hearts and a picture of some."""
    given = parser(__doc__).parse_args()
    write_centers(given.work / "centers")
    show(given.work / "centers", given.work / "centers.png")


if __name__ == "__main__":
    main()
