"""The pairs of the bench: real labeled brains of different people, aligned by one neutral affine for every method.

    python benchmarks/registration/pairs.py --data DATA --work bench-work

DATA/brain_t1_oasis35 holds `<id>_SS.nii.gz` (skull-stripped T1), `<id>_glm.nii.gz` (134 manual labels) and
`<id>_tissues.nii.gz` of the MICCAI 2012 challenge (OASIS + Neuromorphometrics, CC BY-NC: for measuring only).
Writes `<pair>_{fixed,moving,fixed_labels,moving_labels}.nii.gz`:
six pairs at 2 mm, two at 1 mm, three with a T2-like moving image (`mm`), one person scanned twice
(`rescan`), and four that are rotated and shifted, for the affine stage (`aff`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, zoom
from scipy.spatial.transform import Rotation

MONO = ["1000-1001", "1001-1002", "1002-1006", "1006-1107", "1107-1122", "1122-1000"]
RESCAN = "1003-1023"
REFERENCE = "1001"
SHAPE = (168, 208, 168)
WHITE_MATTER = 3


def load_subject(data: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image scaled so that white matter is 110, labels, affine; cropped to the brain, RAS axes."""
    read = lambda kind: nib.as_closest_canonical(nib.load(data / f"{name}_{kind}.nii.gz"))  # noqa: E731
    image = np.asarray(read("SS").dataobj).astype(np.float32)
    labels, tissues = (np.asarray(read(kind).dataobj).astype(int) for kind in ("glm", "tissues"))
    white = image[(image > 0) & (tissues == WHITE_MATTER)]
    image = np.clip(image * (110 / (np.median(white) if white.size else np.percentile(image[image > 0], 90))), 0, 255)
    inside = np.argwhere(image > 0)
    low, high = np.maximum(inside.min(0) - 8, 0), inside.max(0) + 9
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = read("SS").affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return image[box], labels[box], affine


def simulate_t2(image: np.ndarray, seed: int = 7) -> np.ndarray:
    """T2-like contrast of a T1 whose white matter is 110: not monotone, with bias field and Rician noise."""
    random = np.random.default_rng(seed)
    inside = image > 0
    t2 = np.interp(image, [0, 12, 30, 60, 78, 100, 125, 255], [0, 235, 225, 150, 120, 70, 50, 40]) * inside
    bias = zoom(random.normal(size=(5, 6, 5)), [n / m for n, m in zip(image.shape, (5, 6, 5), strict=True)], order=3)
    t2 = gaussian_filter(t2 * (1 + 0.15 * bias / np.abs(bias).max()), 0.4)
    noisy = np.hypot(t2 + random.normal(size=image.shape) * 5, random.normal(size=image.shape) * 5)
    return noisy * (gaussian_filter(inside.astype(float), 0.5) > 0.3)


def halve(image: np.ndarray) -> np.ndarray:
    """2 x 2 x 2 block mean."""
    return _blocks(image).mean(-1)


def halve_labels(labels: np.ndarray) -> np.ndarray:
    """2 x 2 x 2 block majority."""
    blocks = _blocks(labels)
    counts = (blocks[..., :, None] == blocks[..., None, :]).sum(-1)
    return np.take_along_axis(blocks, counts.argmax(-1)[..., None], -1)[..., 0]


def _blocks(image: np.ndarray) -> np.ndarray:
    x, y, z = (n // 2 for n in image.shape)
    cut = image[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, 8)


def save(image: np.ndarray, path: Path, spacing: float) -> None:
    nib.save(nib.Nifti1Image(np.clip(np.rint(image), 0, 255).astype(np.uint8), np.diag([spacing] * 3 + [1.0])), path)


def align_all(subjects: dict[str, tuple]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bring everybody to the reference's grid with one affine (ANTs, fixed seed), so that every method starts alike."""
    pad = lambda a: np.pad(a, [(0, max(0, n - s)) for s, n in zip(a.shape, SHAPE, strict=True)])[tuple(map(slice, SHAPE))]  # noqa: E731
    to_ants = lambda a, affine: ants.from_nibabel_nifti(nib.Nifti1Image(a.astype(np.float32), affine))  # noqa: E731
    image, labels, _ = subjects[REFERENCE]
    fixed, aligned = to_ants(pad(image), np.eye(4)), {REFERENCE: (pad(image), pad(labels))}
    for name, (image, labels, affine) in subjects.items():
        if name != REFERENCE:
            found = ants.registration(fixed, to_ants(image, affine), "Affine", random_seed=1)["fwdtransforms"]
            warp = lambda a, how, affine=affine, found=found: ants.apply_transforms(fixed, to_ants(a, affine), found, interpolator=how)  # noqa: E731
            aligned[name] = (warp(image, "linear").numpy(), warp(labels, "genericLabel").numpy().astype(int))
    return aligned


def write_pair(name: str, fixed: tuple, moving: tuple, folder: Path, spacing: float, t2: bool = False) -> None:
    (a, la), (b, lb) = fixed, moving
    b = simulate_t2(b) if t2 else b
    if spacing == 2:
        a, la, b, lb = halve(a), halve_labels(la), halve(b), halve_labels(lb)
    for kind, image in (("fixed", a), ("fixed_labels", la), ("moving", b), ("moving_labels", lb)):
        save(image, folder / f"{name}_{spacing:g}mm_{kind}.nii.gz", spacing)


def write_turned(name: str, subject: tuple, degrees: float, seed: int, folder: Path) -> None:
    """The moving image of an affine pair: turned about a random axis, shifted, on a larger grid."""
    image, labels = halve(subject[0]), halve_labels(subject[1])
    random = np.random.default_rng(seed)
    axis = random.normal(size=3)
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(degrees)).as_matrix()
    shape = [n + 24 for n in image.shape]
    shift = (np.array(image.shape) - 1) / 2 - turn @ ((np.array(shape) - 1) / 2 + random.uniform(-8, 8, 3))
    save(affine_transform(image, turn, shift, shape, order=1), folder / f"{name}_2mm_moving.nii.gz", 2)
    save(affine_transform(labels, turn, shift, shape, order=0), folder / f"{name}_2mm_moving_labels.nii.gz", 2)


def prepare(data: Path, folder: Path) -> None:
    """Write all pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for pair in [*MONO, RESCAN] for name in pair.split("-")})
    subjects = {name: load_subject(data / "brain_t1_oasis35", name) for name in names}
    aligned = align_all(subjects)
    for number, pair in enumerate(MONO):
        fixed, moving = (aligned[name] for name in pair.split("-"))
        write_pair(pair, fixed, moving, folder, 2)
        if number < 2:
            write_pair(pair, fixed, moving, folder, 1)
        if number < 3:
            write_pair(pair + "mm", fixed, moving, folder, 2, t2=True)
    write_pair("rescan", *(aligned[name] for name in RESCAN.split("-")), folder, 2)
    for i, name in enumerate(("1107", "1122")):
        for j, degrees in enumerate((15, 30)):
            pair = f"aff{name}-{degrees}"
            save(halve(aligned[REFERENCE][0]), folder / f"{pair}_2mm_fixed.nii.gz", 2)
            save(halve_labels(aligned[REFERENCE][1]), folder / f"{pair}_2mm_fixed_labels.nii.gz", 2)
            write_turned(pair, subjects[name], degrees, 10 * i + j, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    options = parser.parse_args()
    prepare(options.data, options.work / "pairs")
