"""From how far the linear alignment finds home: scans of different people, turned, shifted, cropped and resampled.

    python benchmarks/registration/affine_capture.py --data DATA --trials 100

DATA holds brain_t1_oasis35, brain_colin27, brain_templates_spm12, stroke_t2_rorden, ms_longitudinal,
brain_multimodal_pgbm and synthseg_labelmaps (heads whose T1-like and T2-like images are made here from the labels).

A trial moves the second image of a pair: rotated 12-40 degrees about a random axis, shifted 18-60 mm, put on a new grid
(1-3 mm anisotropic; RAS, LPS or oblique) with 15-35 % of the field of view cut off one side. The optimum is the result
of the same method on the same images, started at the known answer: the alignment of the unmoved pair (of the brains
alone, where labels allow) after the inverse of the known motion. A trial counts if the searched result is within
2 mm (mean over the foreground of the fixed brain) and 2 degrees of the optimum.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import cache, lru_cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from imagingai.registration.affine import align
from imagingai.registration.config import RegistrationConfig
from imagingai.registration.scans import mean_size, prepare
from imagingai.transform import Affine, warp
from imagingai.volume import Volume, load

PAIRS = [  # kind:who; headT1 and headT2 are made from label maps, brainT1 and brainT2 are the same without skull
    ("oasis:1001", "oasis:1000"),
    ("oasis:1006", "colin:"),
    ("headT1:01", "headT1:02"),
    ("headT1:03", "headT2:04"),
    ("headT1:05", "oasis:1006"),
    ("oasis:1107", "headT1:06"),
    ("headT2:07", "oasis:1001"),
    ("oasis:1122", "headT2:08"),
    ("headT1:09", "brainT2:10"),
    ("spm:T1", "oasis:1002"),
    ("stroke:", "headT1:11"),
    ("stroke:", "oasis:1023"),
    ("ms:T1W", "headT2:12"),
    ("ms:T1W", "headT1:13"),
    ("headT1:14", "ms:T2W"),
    ("pgbm:T1prereg", "headT1:15"),
    ("oasis:1003", "stroke:"),
    ("spm:T2", "headT1:16"),
    ("headT2:17", "spm:T1"),
    ("colin:", "brainT2:18"),
]
HARD = [("headT1:14", "ms:FLAIR")]  # --hard: 4 mm slices with little contrast, two optima 9 mm apart that are as good as equal
FILES = {
    "oasis": "brain_t1_oasis35/{}_SS.nii.gz",
    "colin": "brain_colin27/ch2bet.nii.gz{}",
    "spm": "brain_templates_spm12/avg152{}.nii.gz",
    "stroke": "stroke_t2_rorden/T2.nii.gz{}",
    "ms": "ms_longitudinal/patient01/study1_{}.nii.gz",
    "pgbm": "brain_multimodal_pgbm/Study3/{}.nii.gz",
}
WHITE, GRAY, FLUID = (2, 7, 16, 28, 41, 46, 60), (3, 8, 17, 18, 42, 47, 53, 54), (4, 5, 14, 15, 24, 43, 44)  # FreeSurfer labels
SHADES = {"T1": (110, 75, 25, 88), "T2": (75, 120, 230, 100)}  # white, gray, fluid, deep gray matter
OUTSIDE = 500  # labels from here on are not brain


@lru_cache(maxsize=4)
def image(data: Path, name: str) -> Volume:
    """An image of the data folder, or one made from a label map."""
    kind, _, who = name.partition(":")
    if kind in FILES:
        return load(data / FILES[kind].format(who))
    labels = load(data / f"synthseg_labelmaps/training_seg_{who}.nii.gz", label=True)
    chance, what = np.random.default_rng([int(who), kind.endswith("T2")]), labels.data[0].astype(int)
    white, gray, fluid, deep = SHADES[kind[-2:]]
    table = np.where(np.arange(what.max() + 1) < OUTSIDE, deep, chance.uniform(15, 130, what.max() + 1))
    for group, shade in ((WHITE, white), (GRAY, gray), (FLUID, fluid), ((0,), 0)):
        table[list(group)] = shade
    if kind.startswith("brain"):
        table[OUTSIDE:] = 0
    bias = torch.from_numpy(chance.normal(size=(1, 1, 4, 4, 4)))
    field = 1 + 0.12 * torch.nn.functional.interpolate(bias, what.shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    clean = table[what] * field
    noisy = np.hypot(clean + chance.normal(size=what.shape) * 6, chance.normal(size=what.shape) * 6)
    return labels.with_data((noisy if kind.startswith("head") else noisy * (clean > 0)).astype(np.float32))


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3)."""
    cross = np.cross(np.eye(3), -axis / np.linalg.norm(axis))
    return torch.linalg.matrix_exp(torch.from_numpy(np.deg2rad(degrees) * cross)).numpy()


def displaced(volume: Volume, seed: int) -> tuple[Volume, np.ndarray]:
    """The volume moved, cropped and resampled, and the matrix P of it: displaced(p) = volume(P p)."""
    chance = np.random.default_rng(seed)
    shift = chance.normal(size=3)
    shift *= chance.uniform(18, 60) / np.linalg.norm(shift)
    motion, turn, center = np.eye(4), rotation(chance.normal(size=3), chance.uniform(12, 40)), volume.center
    motion[:3, :3], motion[:3, 3] = turn, center - turn @ (center + shift)
    extent = np.minimum(np.abs(turn.T @ volume.affine[:3, :3]) @ volume.shape, 260)
    axis, cut, side = chance.integers(3), chance.uniform(0.15, 0.35), chance.choice([-1, 1])
    middle = center + shift
    middle[axis] += side * extent[axis] * cut / 2
    extent[axis] *= 1 - cut
    spacing = chance.uniform(1, 3, 3)
    axes = [np.eye(3), np.diag([-1.0, -1, 1]), rotation(chance.normal(size=3), chance.uniform(10, 30))][chance.integers(3)]
    shape = np.maximum(8, np.ceil(extent / spacing)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    return warp(volume, Affine(motion), Volume(np.zeros((1, *shape), np.float32), affine)), motion


def difference(one: np.ndarray, two: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Mean distance in mm and angle in degrees between two matrices."""
    change = one - two
    distance = np.linalg.norm(points @ change[:3, :3].T + change[:3, 3], axis=1).mean()
    (a, _, b), (c, _, d) = (np.linalg.svd(matrix[:3, :3]) for matrix in (one, two))
    return float(distance), float(np.degrees(np.arccos(np.clip((np.trace(a @ b @ (c @ d).T) - 1) / 2, -1, 1))))


@cache
def truth(data: Path, pair: tuple[str, str]) -> np.ndarray:
    """The alignment of an unmoved pair, without skulls where the labels of both or a stripped partner allow it."""
    real_head = any(name.split(":")[0] in ("stroke", "ms", "pgbm", "spm") for name in pair)
    names = pair if real_head else tuple(name.replace("head", "brain") for name in pair)
    return align(image(data, names[0]), image(data, names[1]))


def trial(data: Path, pairs: list[tuple[str, str]], number: int) -> tuple[str, tuple[float, float], tuple[float, float], float]:
    """Name, error to the optimum, error to the truth, CPU seconds of one trial."""
    pair = pairs[number % len(pairs)]
    fixed, (moving, motion) = image(data, pair[0]), displaced(image(data, pair[1]), 1000 + number)
    known = np.linalg.inv(motion) @ truth(data, pair)
    brain = image(data, pair[0].replace("head", "brain"))
    ground = prepare(brain, None, mean_size(brain), torch.device("cpu")).foreground
    points = ground.points(ground.stack[0] > 0.5).double().numpy()[::17]
    began = time.process_time()
    found = align(fixed, moving)
    seconds = time.process_time() - began
    optimum = align(fixed, moving, RegistrationConfig(), initial=known)
    return " <- ".join(pair), difference(found, optimum, points), difference(found, known, points), seconds


def main() -> None:
    """Run the trials and print one row each and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("IMAGINGAI_BENCH_DATA"), required="IMAGINGAI_BENCH_DATA" not in os.environ
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--hard", action="store_true", help="pairs that are not counted, see HARD")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| trial | fixed <- moving | to optimum mm | degrees | to truth mm | degrees | CPU s | |\n|" + "---|" * 8, flush=True)
    results = []
    for number in range(arguments.first, arguments.first + arguments.trials):
        name, optimum, known, seconds = trial(arguments.data, HARD if arguments.hard else PAIRS, number)
        home = max(optimum) < 2
        results.append((home, *optimum, *known, seconds))
        figures = " | ".join(f"{x:.2f}" for x in (*optimum, *known, seconds))
        print(f"| {number} | {name} | {figures} | {'home' if home else 'LOST'} |", flush=True)
    home, *columns = np.array(results, float).T
    median = " | ".join(f"{np.median(column):.2f}" for column in columns)
    print(f"| median | | {median} | {int(home.sum())} of {len(home)} home |")


if __name__ == "__main__":
    main()
