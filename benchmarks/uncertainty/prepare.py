"""Make the data of the evidence on segmentation with uncertainty: one compact file a data set.

    python benchmarks/uncertainty/prepare.py --data DATA --work uncertainty-work
    python benchmarks/uncertainty/prepare.py --data DATA --work uncertainty-work --folders      # and as images/, labels/<reader>/

DATA (or IMAGINGAI_BENCH_DATA) holds lidc_4rater_masks, hippocampus_msd, cells_t98g and tumour_tcga_5algorithms.

lidc: REAL outlines, SIMULATED images. 464 nodules that each have the outlines of four radiologists (LIDC-IDRI, CC BY 3.0);
the CT itself is not at hand. Each becomes a 64 x 64 image at 0.75 mm: lung with correlated noise, vessels, sometimes the chest
wall, and a nodule made as follows.
- Its shape is ONE contour between those of the readers: the zero of a randomly weighted mean of their signed distances. So no
  reader is right, and the mean of their masks is not in the image.
- Its edge is a ramp whose width follows the readers' disagreement, times a random factor of 0.5 to 2: a soft edge tells that
  readers will differ, not where each of them will draw.
- Its contrast is random. In LIDC one of three nodules is marked by all four readers (Armato 2011: 34.7 %); the file at hand holds
  only such. So here each reader misses a nodule by a coin of his own, the more likely the fainter it is. That nodules are faint can
  be seen; who misses them, and the outline that a reader prefers, cannot.
Training nodules are drawn three times with other texture, contrast and misses. What this can show: whether a model learns a
distribution of outlines and of presence, and where its uncertainty lies. What it cannot show: accuracy on CT; and how far
disagreement comes from what CT shows, because we decided that ourselves. The parts are split by patient.

hippocampus: MR, 60 people, one outline each of the anterior and posterior part (MSD task 4). cells: phase contrast, frames 1 to 3,
with the masks of three networks; the frames show the same cells, so the parts are places of the field. glioma: one person, five
algorithms, whole tumor, every fifth slice: only to measure the agreement.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from imagingai.volume import Volume, load, save

SETS = ("lidc", "hippocampus", "cells", "glioma")
PARTS = ("train", "validation", "test")
SIZE, SPACING = 64, 0.75  # of the nodule images: pixels, mm
LUNG, WATER = -850.0, 0.0  # HU


@dataclass(frozen=True)
class Item:
    """One image. image: (X, Y, Z) float32; labels: (R, X, Y, Z) uint8 class index, one a reader; spacing: (3,) mm."""

    name: str
    subject: str
    part: str
    image: np.ndarray
    labels: np.ndarray
    spacing: np.ndarray

    @property
    def volume(self) -> Volume:
        """The image with its spacing."""
        return Volume.from_array(self.image, spacing=self.spacing)


def write(path: Path, items: list[Item]) -> None:
    """All items as one .npz file."""
    arrays = {"items": np.array([(item.name, item.subject, item.part) for item in items])}
    for item in items:
        arrays |= {f"{item.name}/image": item.image, f"{item.name}/labels": item.labels, f"{item.name}/spacing": item.spacing}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def read(path: Path, *parts: str) -> list[Item]:
    """The items of a file that belong to one of the parts; without parts, all."""
    with np.load(path) as file:
        return [
            Item(name, subject, part, *(file[f"{name}/{key}"] for key in ("image", "labels", "spacing")))
            for name, subject, part in file["items"].tolist()
            if not parts or part in parts
        ]


def write_folders(folder: Path, items: list[Item]) -> None:
    """The same as files: <part>/images/<case>.nii.gz and <part>/labels/<reader>/<case>.nii.gz."""
    for item in items:
        readers = [f"reader{number + 1}" for number in range(len(item.labels))] if len(item.labels) > 1 else [""]
        images = folder / item.part / "images"
        images.mkdir(parents=True, exist_ok=True)
        save(item.volume, images / f"{item.name}.nii.gz")
        for reader, labels in zip(readers, item.labels, strict=True):
            (folder / item.part / "labels" / reader).mkdir(parents=True, exist_ok=True)
            save(item.volume.with_data(labels), folder / item.part / "labels" / reader / f"{item.name}.nii.gz")


def split(subjects: list[str], shares: tuple[float, float], seed: int = 0) -> dict[str, str]:
    """Subject -> part. `shares` are those of training and validation; the rest tests."""
    order = np.random.default_rng(seed).permutation(sorted(set(subjects)))
    bounds = np.cumsum(np.array(shares) * len(order)).astype(int)
    return {str(subject): PARTS[int(np.searchsorted(bounds, number, side="right"))] for number, subject in enumerate(order)}


# --- nodules


def lidc(data: Path) -> list[Item]:
    """Nodule images; see above how they are made."""
    with np.load(data / "lidc_4rater_masks" / "lidc_4rater_masks.npz") as file:
        masks = np.unpackbits(file["masks_packed"], axis=-1).astype(bool)
        patients, spacings = file["patient_id"].tolist(), file["pixel_spacing_mm"]
    part, items = split(patients, (0.6, 0.15)), []
    for number, (readers, patient, spacing) in enumerate(zip(masks, patients, spacings, strict=True)):
        for drawing in range(3 if part[patient] == "train" else 1):
            random = np.random.default_rng((number, drawing))
            image, labels = _nodule(readers, float(spacing), random)
            name = f"{patient}-{number:03d}{'abc'[drawing]}"
            items.append(Item(name, patient, part[patient], image, labels, np.array([SPACING, SPACING, 1.0])))
    return items


def _nodule(readers: np.ndarray, spacing: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (64, 64, 1) in HU and labels (4, 64, 64, 1) from the masks (4, 128, 128) of four readers."""
    where = _places(readers.any(0), spacing, random)
    distances = np.stack([map_coordinates(_signed_distance(mask) * spacing / SPACING, where, order=1, mode="nearest") for mask in readers])
    shape = np.tensordot(random.dirichlet(np.ones(4)), distances, 1)
    disagreement = distances.std(0)[np.abs(shape) < 1.5].mean()
    ramp = np.clip(disagreement * 2 ** random.uniform(-1, 1), 0.3, 4.0)
    contrast, marked = _conspicuity(random)
    density = 1 / (1 + np.exp(-np.clip(shape / ramp, -30, 30)))
    density *= contrast * (1 + 0.15 * _noise(random, 1.5))
    soft = np.maximum(density, _vessels(random))
    if random.random() < 0.25:
        soft = np.maximum(soft, _wall(random))
    hounsfield = LUNG + (WATER - LUNG) * gaussian_filter(soft, 0.6) + 45 * _noise(random, 2.0) + 35 * _noise(random, 0.7)
    labels = (distances > 0) & marked[:, None, None]
    return hounsfield.astype(np.float32)[..., None], labels.astype(np.uint8)[..., None]


def _places(mask: np.ndarray, spacing: float, random: np.random.Generator) -> np.ndarray:
    """(2, 64, 64): the pixels of the new grid in those of the mask, the nodule up to 6 pixels off the middle."""
    middle = np.argwhere(mask).mean(0) + random.uniform(-6, 6, 2)
    grid = np.indices((SIZE, SIZE)).reshape(2, -1) - (SIZE - 1) / 2
    return (grid * SPACING / spacing + middle[:, None]).reshape(2, SIZE, SIZE)


def _conspicuity(random: np.random.Generator) -> tuple[float, np.ndarray]:
    """Contrast (1 is water in lung) and which of four readers mark the nodule, at least one; 35 % of the nodules are marked by all."""
    while True:
        contrast = random.uniform(0.12, 1.0)
        marked = random.random(4) < 1 / (1 + np.exp(-(contrast - 0.54) / 0.13))
        if marked.any():
            return contrast, marked


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the outline, positive inside."""
    return np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))


def _noise(random: np.random.Generator, sigma: float) -> np.ndarray:
    """Correlated noise of standard deviation 1."""
    noise = gaussian_filter(random.normal(size=(SIZE, SIZE)), sigma, mode="wrap")
    return noise / noise.std()


def _vessels(random: np.random.Generator) -> np.ndarray:
    """Bright bent lines and spots, of density 0 to 1."""
    grid, density = np.indices((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for number in range(random.integers(3, 9)):
        width, brightness, length = random.uniform(0.7, 2.2), random.uniform(0.3, 0.9), 1 if number % 2 else 60
        start, along, bend = random.uniform(-4, SIZE + 4, 2), random.normal(size=2), random.normal(size=2) * 12
        t = np.linspace(0, 1, length)[:, None]
        line = start + 60 * t * along / np.linalg.norm(along) + t**2 * bend
        squared = ((grid[:, None] - line.T[:, :, None, None]) ** 2).sum(0).min(0)
        density = np.maximum(density, brightness * np.exp(-squared / (2 * width**2)))
    return density


def _wall(random: np.random.Generator) -> np.ndarray:
    """The chest wall: a half-plane at the border of the image."""
    angle, grid = random.uniform(0, 2 * np.pi), np.indices((SIZE, SIZE)) - SIZE / 2
    beyond = grid[0] * np.cos(angle) + grid[1] * np.sin(angle) - random.uniform(22, 34)
    return 1.04 / (1 + np.exp(-np.clip(2 * beyond, -30, 30)))


# --- the others


def hippocampus(data: Path) -> list[Item]:
    """60 people: 28 train, 4 validate, 28 test (half of those are the controls of quality.py)."""
    folder = data / "hippocampus_msd"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "images").glob("*.nii.gz"))
    part, items = split(names, (28.01 / 60, 4 / 60)), []
    for name in names:
        image, labels = load(folder / "images" / f"{name}.nii.gz"), load(folder / "labels" / f"{name}.nii.gz", label=True)
        items.append(Item(name, name, part[name], image.data[0].astype(np.float32), labels.data.astype(np.uint8), image.spacing))
    return items


def cells(data: Path, size: int = 128) -> list[Item]:
    """Crops at half resolution, every 64 pixels; left half of the field trains, the upper right validates, the lower right tests."""
    items = []
    for frame in (1, 2, 3):
        base = data / "cells_t98g" / "sequence" / f"t{frame:02d}"
        image = _half(_png(base.with_suffix(".png")))
        readers = np.stack([_half(_png(Path(f"{base}_net{number}.png")) > 0) > 0.5 for number in (1, 2, 3)])
        for x in range(0, image.shape[0] - size + 1, size // 2):
            for y in range(0, image.shape[1] - size + 1, size // 2):
                part = _place(x, y, size)
                if part:
                    window = (slice(x, x + size), slice(y, y + size))
                    labels = readers[(slice(None), *window)][..., None].astype(np.uint8)
                    items.append(Item(f"t{frame}-{x}-{y}", f"{x}-{y}", part, image[window][..., None], labels, np.ones(3)))
    return items


def _place(x: int, y: int, size: int) -> str:
    """Part of the crop at (x, y); none where it would lie in two."""
    if y + size <= 256:
        return "train"
    if y < 256:
        return ""
    return "validation" if x + size <= 192 else "test" if x >= 192 else ""


def _png(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path)).astype(np.float32)


def _half(image: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 pixels."""
    x, y = (length // 2 * 2 for length in image.shape)
    return image[:x, :y].reshape(x // 2, 2, y // 2, 2).astype(np.float32).mean((1, 3))


def glioma(data: Path) -> list[Item]:
    """FLAIR slices with the whole tumor of five algorithms."""
    items = []
    for folder in sorted(path for path in (data / "tumour_tcga_5algorithms").iterdir() if path.is_dir()):
        algorithms = [load(path, label=True) for path in sorted((folder / "segmentation").glob("*.nii.gz"))]
        tumor = np.stack([volume.data[0] > 0 for volume in algorithms])
        scans = sorted(folder.glob("raw_bet/*_fla_bet.nii.gz"))
        flair = load(scans[0]).data[0] if scans else np.zeros(tumor.shape[1:])
        for z in np.flatnonzero(tumor.any((0, 1, 2)))[::5]:
            image, labels = flair[..., z : z + 1].astype(np.float32), tumor[..., z : z + 1].astype(np.uint8)
            items.append(Item(f"{folder.name}-{z:03d}", folder.name, "test", image, labels, np.ones(3)))
    return items


def main() -> None:
    """Make the data sets that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("IMAGINGAI_BENCH_DATA"), help="folder of the data")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--folders", action="store_true", help="also write NIfTI files, as `imagingai train-segmentation` reads them")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or IMAGINGAI_BENCH_DATA")
    for name in arguments.sets:
        path = arguments.work / "data" / f"{name}.npz"
        if not path.exists():
            write(path, globals()[name](Path(arguments.data)))
        items = read(path)
        if arguments.folders:
            write_folders(arguments.work / "data" / name, items)
        counts = {part: sum(item.part == part for item in items) for part in PARTS}
        print(f"{name}: {counts}, {len(items[0].labels)} reader(s), images of {items[0].image.shape}, in {path}")


if __name__ == "__main__":
    main()
