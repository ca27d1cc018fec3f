"""Pictures of images, as matplotlib figures: three orthogonal planes side by side, or the one of a 2-D image.

Radiological convention: the patient's right is on the left of axial and coronal planes, the nose points to the left in
sagittal ones. Planes follow the axes of the image that are nearest to right, anterior and superior; all planes have one
scale in mm, so anisotropic voxels have their true shape. Drawn without pyplot: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imagingai.volume import Volume

LETTER_COLOR, BACK = "#ffd84d", "#000000"
STRUCTURE_COLORS = (  # bright on gray images, neighbors far apart also for the color-blind, dark enough for paper
    *("#f23d3d", "#29b6f6", "#f7d716", "#4cd137", "#b388ff", "#ff8a1c", "#00c9a7", "#ff6ec7", "#a6b91a", "#5b7cff"),
    *("#c98b5a", "#8ee3ff", "#ffb3a7", "#007f5f", "#d1d5db", "#c2185b", "#d9f24b", "#7e57c2", "#a1887f", "#00838f"),
)
NAMES = ("sagittal", "coronal", "axial")  # by the axis they are cut across: right, anterior, superior
LETTERS = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))  # left, right, top, bottom


@dataclass(frozen=True)
class Plane:
    """One cut. index: (rows, columns, 3) voxel indices into the grid, rows from the top; pixel: (width, height) mm."""

    name: str
    letters: tuple[str, str, str, str]
    index: np.ndarray
    pixel: tuple[float, float]
    axes: tuple[int, int]  # array axes that run along the columns and the rows

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) in mm."""
        return self.index.shape[1] * self.pixel[0], self.index.shape[0] * self.pixel[1]

    def cut(self, data: np.ndarray) -> np.ndarray:
        """The pixels (rows, columns) of data (X, Y, Z)."""
        return data[tuple(np.moveaxis(self.index, -1, 0))]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """mm from the left (columns,) and from the top (rows,) of the centers of the pixels."""
        rows, columns = self.index.shape[:2]
        return (np.arange(columns) + 0.5) * self.pixel[0], (np.arange(rows) + 0.5) * self.pixel[1]


def nearest_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Which array axis is nearest to right, anterior, superior, and its sign (1: the index grows that way)."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda order: sum(abs(direction[world, axis]) for world, axis in enumerate(order)))
    return best, tuple(1 if direction[world, axis] >= 0 else -1 for world, axis in enumerate(best))


def planes(grid: Volume, center: Sequence[int]) -> list[Plane]:
    """Axial, coronal and sagittal plane through a voxel; of a 2-D image the one it has.

    A 2-D image without a direction of its own, such as a photograph, gets no letters.
    """
    order, sign = nearest_axes(grid.affine)
    directed = _is_directed(grid)
    found = []
    for across in (2, 1, 0) if grid.ndim == 3 else (order.index(2),):
        horizontal, vertical = (axis for axis in range(3) if axis != across)
        column, row = order[horizontal], order[vertical]
        index = np.empty((grid.shape[row], grid.shape[column], 3), int)
        index[...] = center
        index[..., column] = _falling(grid.shape[column], sign[horizontal])[None, :]
        index[..., row] = _falling(grid.shape[row], sign[vertical])[:, None]
        letters = LETTERS[across] if directed else ("",) * 4
        name = NAMES[across] if directed else ""
        found.append(Plane(name, letters, index, (grid.spacing[column], grid.spacing[row]), (column, row)))
    return found


def _is_directed(grid: Volume) -> bool:
    return grid.ndim == 3 or not np.allclose(np.abs(grid.direction), np.eye(3), atol=1e-6)


def describe_orientation(grid: Volume) -> str:
    """How to read the letters, for captions."""
    if not _is_directed(grid):
        return "The image has no anatomical orientation; it is shown as it is stored."
    text = "Radiological convention: the patient's right is on the left of axial and coronal planes. "
    text += "R right, L left, A front, P back, S head, I feet."
    order, _ = nearest_axes(grid.affine)
    cosine = min(abs(grid.direction[world, axis]) for world, axis in enumerate(order))
    angle = np.degrees(np.arccos(min(cosine, 1.0)))
    return text + (f" The image is oblique by up to {angle:.0f}°: letters name the nearest direction." if angle > 1 else "")


def _falling(size: int, sign: int) -> np.ndarray:
    """Indices from right, anterior or superior to the other end."""
    return np.arange(size)[::-sign]


# --- what to look at


def otsu(data: np.ndarray) -> float:
    """The threshold that separates dark from bright best (Otsu 1979), from at most 200,000 voxels; a constant image is all dark."""
    values = data.ravel()[:: max(1, data.size // 200_000)].astype(float)
    counts, edges = np.histogram(np.clip(values, *np.percentile(values, (0.1, 99.5))), 128)
    centers, below = (edges[:-1] + edges[1:]) / 2, np.cumsum(counts)
    mass, above = np.cumsum(counts * centers), counts.sum() - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(edges[1:][np.nanargmax(between)]) if np.isfinite(between).any() else float(edges[-1])


def center_of(foreground: np.ndarray) -> tuple[int, int, int]:
    """The voxel in the middle of a mask (X, Y, Z), or of the grid if the mask is empty."""
    if not foreground.any():
        return tuple(n // 2 for n in foreground.shape)
    profiles = [foreground.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return tuple(round(np.average(np.arange(len(p)), weights=p)) for p in profiles)


def window(data: np.ndarray) -> tuple[float, float]:
    """Intensities for black and white: percentiles 0.5 and 99.5, of the voxels that are not zero for white."""
    values = data.ravel()[:: max(1, data.size // 200_000)].astype(float)
    bright = values[values != 0] if np.any(values) else values
    low, high = np.percentile(values, 0.5), np.percentile(bright, 99.5)
    return float(low), float(high if high > low else low + 1)


# --- drawing


def strip(cuts: Sequence[Plane], paint: Callable[[Axes, Plane], None], bar: tuple[Any, str] | None = None) -> Figure:
    """All planes side by side on black, at one scale. bar: (what to make a color bar of, its text)."""
    from matplotlib.figure import Figure

    gap = 0.02 * sum(cut.size[0] for cut in cuts)
    total, tallest = sum(cut.size[0] for cut in cuts) + gap * (len(cuts) - 1), max(cut.size[1] for cut in cuts)
    scale = min((10.0 if len(cuts) > 1 else 5.0) / total, 5.0 / tallest)  # inches per mm
    low = 0.62 if bar else 0.0
    width, height, left = max(total * scale, 3.0), tallest * scale + low, max(0.0, (3.0 - total * scale) / 2)
    figure = Figure((width, height), dpi=100, facecolor=BACK)
    for cut in cuts:
        w, h = cut.size[0] * scale, cut.size[1] * scale
        axes = figure.add_axes((left / width, (low + (tallest * scale - h) / 2) / height, w / width, h / height))
        axes.axis("off")
        paint(axes, cut)
        axes.set(xlim=(0, cut.size[0]), ylim=(cut.size[1], 0), aspect="auto")
        write_letters(axes, cut.letters)
        left += w + gap * scale
    if bar:
        color_bar(figure, figure.add_axes((0.2, 0.42 / height, 0.6, 0.13 / height)), *bar)
    return figure


def draw_image(cuts: Sequence[Plane], data: np.ndarray, limits: tuple[float, float]) -> Figure:
    """An image (X, Y, Z) in gray."""
    return strip(cuts, lambda axes, cut: gray(axes, cut, cut.cut(data), limits))


def draw_outlines(
    cuts: Sequence[Plane], data: np.ndarray, limits: tuple[float, float], outlined: Sequence[tuple[np.ndarray, str]]
) -> Figure:
    """An image (X, Y, Z) in gray, and the outlines of all labels of the label images (X, Y, Z), each in one color."""

    def paint(axes: Axes, cut: Plane) -> None:
        gray(axes, cut, cut.cut(data), limits)
        for labels, color in outlined:
            shown = cut.cut(labels)
            for value in np.unique(shown[shown != 0]):
                outline(axes, cut, shown == value, color, 1.0)

    return strip(cuts, paint)


def gray(axes: Axes, cut: Plane, pixels: np.ndarray, limits: tuple[float, float], interpolation: str = "bilinear") -> None:
    """Pixels (rows, columns) of a plane in gray."""
    extent = (0, cut.size[0], cut.size[1], 0)
    axes.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], extent=extent, interpolation=interpolation)


def outline(axes: Axes, cut: Plane, mask: np.ndarray, color: str, width: float) -> None:
    """The border of a mask (rows, columns), also where it meets the edge of the picture; only its surroundings are worked on."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32), 1)
    x, y = ((np.arange(n) - 0.5 + first[0]) * mm for n, first, mm in zip(part.shape[::-1], (columns, rows), cut.pixel, strict=True))
    axes.contour(x, y, part, [0.5], colors=color, linewidths=width)


def write_letters(axes: Axes, letters: Sequence[str]) -> None:
    """The letters of a plane at the left, right, top and bottom edge."""
    from matplotlib.patheffects import withStroke

    at = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, across, up) in zip(letters, at, strict=True):
        effects = [withStroke(linewidth=2.5, foreground="black")]
        axes.text(
            x,
            y,
            letter,
            color=LETTER_COLOR,
            ha=across,
            va=up,
            transform=axes.transAxes,
            weight="bold",
            fontsize=11,
            path_effects=effects,
            zorder=10,
        )


def color_bar(figure: Figure, axes: Axes, color: Any, text: str, size: float = 9) -> None:
    """A color bar with its name and unit, on black; `axes` gives its place."""
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    bar = figure.colorbar(color, cax=axes, orientation="horizontal")
    bar.set_label(text, color="#e6eaef", fontsize=size, labelpad=1)
    low, high = color.norm.vmin, color.norm.vmax
    if low > 0 and np.isclose(low * high, 1):  # around 1
        bar.set_ticks([low, low**0.5, 1, high**0.5, high])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.tick_params(colors="#e6eaef", labelsize=size - 1, length=2, which="both")
    bar.outline.set_edgecolor("#57606a")


def structure_color(number: int) -> str:
    """The color of structure 1, 2, ...; they repeat after the last one."""
    return STRUCTURE_COLORS[(number - 1) % len(STRUCTURE_COLORS)]
