"""Draw the icons of the extension and its modules: python docs/make_icons.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Circle, FancyBboxPatch

ROOT = Path(__file__).parents[1]
NIGHT, PAPER, TEAL, AMBER = "#14213d", "#f4f1ea", "#2ec4b6", "#ff9f1c"


def canvas(pixels: int):
    """Axes that fill a square picture, from -1 to 1, on nothing."""
    figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
    axes.axis("off")
    return figure, axes


def lattice(axes, color: str, width: float, clip, lines: int) -> None:
    """A lattice that swells in the middle, as a deformation is shown."""
    steps = np.linspace(-0.9, 0.9, 200)
    for position in np.linspace(-1, 1, lines):
        x, y = np.full_like(steps, position), steps
        swell = 1 + 0.55 * np.exp(-((x - 0.1) ** 2 + (y - 0.05) ** 2) / 0.35)
        for line in ((0.1 + (x - 0.1) * swell, y), (y, 0.1 + (x - 0.1) * swell)):
            axes.plot(*line, color=color, linewidth=width, solid_capstyle="round", clip_path=clip)


def extension() -> Figure:
    """A lattice in a disk, and the two outlines that it brings together."""
    figure, axes = canvas(128)
    axes.add_patch(FancyBboxPatch((-0.72, -0.72), 1.44, 1.44, boxstyle="round,pad=0.22,rounding_size=0.42", facecolor=NIGHT, linewidth=0))
    disk = axes.add_patch(Circle((0, 0), 0.68, facecolor="#1f3158", linewidth=0))
    lattice(axes, PAPER, 1.1, disk, 8)
    axes.add_patch(Circle((0, 0), 0.68, fill=False, edgecolor=TEAL, linewidth=5))
    angle = np.linspace(0, 2 * np.pi, 300)
    radius = 0.68 + 0.09 * np.sin(3 * angle + 0.6)
    axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=AMBER, linewidth=3)
    return figure


def registration() -> Figure:
    """Two shapes that overlap, the common part with a lattice; clear at 20 pixels too."""
    figure, axes = canvas(128)
    moving = axes.add_patch(Circle((0.3, -0.24), 0.62, facecolor=AMBER, linewidth=0))
    fixed = axes.add_patch(Circle((-0.3, 0.24), 0.62, facecolor=TEAL, linewidth=0))
    common = axes.add_patch(Circle((-0.3, 0.24), 0.62, facecolor=NIGHT, linewidth=0, clip_path=moving))
    common.set_clip_path(moving)
    axes.add_patch(Circle((0.3, -0.24), 0.62, fill=False, edgecolor=AMBER, linewidth=5))
    axes.add_patch(Circle(fixed.center, 0.62, fill=False, edgecolor=TEAL, linewidth=5))
    return figure


def uncertainty() -> Figure:
    """A shape whose samples agree inside and part at the border."""
    figure, axes = canvas(128)
    angle = np.linspace(0, 2 * np.pi, 300)
    for shift, reach in ((0.0, 0.16), (2.1, 0.13), (4.2, 0.16)):
        radius = 0.72 + reach * np.sin(2 * angle + shift)
        axes.fill(radius * np.cos(angle), radius * np.sin(angle), facecolor=AMBER, alpha=0.35, linewidth=0)
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=AMBER, linewidth=4)
    axes.add_patch(Circle((0, 0), 0.46, facecolor=TEAL, linewidth=0))
    return figure


def federation() -> Figure:
    """Three sites around an aggregator: what is inside a site stays there, lines go between them."""
    figure, axes = canvas(128)
    angle = np.pi / 2 + np.arange(3) * 2 * np.pi / 3
    for x, y in zip(0.7 * np.cos(angle), 0.7 * np.sin(angle) - 0.14, strict=True):
        axes.plot([0, x], [-0.14, y], color=NIGHT, linewidth=5, zorder=1)
        axes.add_patch(Circle((x, y), 0.24, facecolor=TEAL, linewidth=0, zorder=2))
    box = {"boxstyle": "round,pad=0.1,rounding_size=0.12", "facecolor": AMBER, "linewidth": 0, "zorder": 2}
    axes.add_patch(FancyBboxPatch((-0.16, -0.3), 0.32, 0.32, **box))
    return figure


def pair() -> Figure:
    """The brains of the sample data: half of the fixed one beside half of the moving one."""
    fixed, moving = (imread(ROOT / f"Testing/Data/slice_{name}.png") for name in ("fixed", "moving"))
    height = min(len(fixed), len(moving))
    middle = fixed.shape[1] // 2
    halves = np.concatenate([fixed[:height, :middle], moving[:height, moving.shape[1] // 2 :]], axis=1)
    figure, axes = canvas(192)
    axes.imshow(halves, cmap="gray")
    axes.set(xlim=(-0.5, halves.shape[1] - 0.5), ylim=(height - 0.5, -0.5))
    axes.axvline(middle - 0.5, color=AMBER, linewidth=2)
    return figure


if __name__ == "__main__":
    for draw, path in (
        (extension, ROOT / "ImagingAI.png"),
        (registration, ROOT / "DeepSimRegistration/Resources/Icons/DeepSimRegistration.png"),
        (uncertainty, ROOT / "UncertaintySeg/Resources/Icons/UncertaintySeg.png"),
        (federation, ROOT / "FederatedClient/Resources/Icons/FederatedClient.png"),
        (pair, ROOT / "ImagingAILib/Resources/BrainPair.png"),
    ):
        draw().savefig(path, metadata={"Software": None})
