"""Four hospitals to try out a federation: real chest X-rays, dealt out unevenly; how their machines differ is simulated."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from imagingai.volume import as_volume, save

CLASSES = ("normal", "pneumonia")
DATA = Path(__file__).with_name("demo_data") / "chest.npz"
PROJECT: dict[str, Any] = {
    "name": "Pneumonia in chest X-rays",
    "purpose": "A demonstration on one computer with public images of children. Not for diagnosis.",
    "task": "image-classification",
    "classes": CLASSES,
    "network": "small",
    "dimension": 2,
    "patch": (28,),
    "augmentation": "none",
    "rounds": 10,
    "epochs": 3.0,
    "learning_rate": 0.1,
    "held_out": 0.34,
}


@dataclass(frozen=True)
class DemoSite:
    """One hospital. pneumonia: share of its cases; the rest is what its machine does to a picture (0 .. 1)."""

    cases: int
    pneumonia: float
    gamma: float = 1.0
    contrast: float = 1.0
    blur: float = 0.0  # pixels
    noise: float = 0.0


SITES = {
    "north": DemoSite(cases=220, pneumonia=0.75),
    "east": DemoSite(cases=180, pneumonia=0.5, gamma=2.0, contrast=0.6),
    "south": DemoSite(cases=140, pneumonia=0.3, blur=0.7, noise=0.06),
    "west": DemoSite(cases=120, pneumonia=0.5, gamma=0.5, contrast=0.8, blur=0.4),
}


def write_sites(folder: Path) -> dict[str, dict[str, Path]]:
    """Write folder/<site>/images/*.png and folder/<site>/table.csv (case, label) for every site; returns the inputs of each site.

    Which case is where never changes: the images and their order are those of chest.npz.
    """
    with np.load(DATA) as file:
        images, labels = file["images"], file["labels"]
    inputs, first = {}, 0
    for number, (name, site) in enumerate(SITES.items()):
        here = range(first, first + site.cases)
        first += site.cases
        (folder / name / "images").mkdir(parents=True, exist_ok=True)
        random, rows = np.random.default_rng(number), []
        for index in here:
            case = f"{name}_{index - here.start + 1:03d}"
            picture = acquire(images[index] / 255.0, site, random)
            save(as_volume(picture.T), folder / name / "images" / f"{case}.png")
            rows.append((case, CLASSES[labels[index]]))
        with (folder / name / "table.csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([("case", "label"), *rows])
        inputs[name] = {"images": folder / name / "images", "table": folder / name / "table.csv"}
    return inputs


def acquire(picture: np.ndarray, site: DemoSite, random: np.random.Generator) -> np.ndarray:
    """The picture (H, W), 0 .. 1, as the machine of a site would have made it; uint8."""
    seen = gaussian_filter(picture, site.blur) if site.blur else picture
    seen = 0.5 + site.contrast * (seen**site.gamma - 0.5) + site.noise * random.normal(size=picture.shape)
    return np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8)
