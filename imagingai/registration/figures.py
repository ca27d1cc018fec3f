"""Pictures of a registration, as matplotlib figures: three orthogonal planes side by side, or the one of a 2-D image.

Radiological convention: the patient's right is on the left of axial and coronal planes, the nose points to the left in
sagittal ones. Planes follow the axes of the fixed image that are nearest to right, anterior and superior; all planes
have one scale in mm, so anisotropic voxels have their true shape. Drawn without pyplot: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imagingai.transform import Transform
    from imagingai.volume import Volume

FIXED_COLOR, MOVING_COLOR, GRID_COLOR, FOLD_COLOR, LETTER_COLOR = "#2ec4ff", "#ff9f1c", "#7fe3ff", "#b8ff2e", "#ffd84d"
BACK = "#000000"
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
    directed = grid.ndim == 3 or not np.allclose(np.abs(grid.direction), np.eye(3), atol=1e-6)
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
        _write_letters(axes, cut.letters)
        left += w + gap * scale
    if bar:
        _color_bar(figure, figure.add_axes((0.2, 0.42 / height, 0.6, 0.13 / height)), *bar)
    return figure


def draw_image(cuts: Sequence[Plane], data: np.ndarray, limits: tuple[float, float]) -> Figure:
    """An image (X, Y, Z) in gray."""
    return strip(cuts, lambda axes, cut: _gray(axes, cut, cut.cut(data), limits))


def draw_checkerboard(cuts: Sequence[Plane], a: np.ndarray, b: np.ndarray, limits: Sequence[tuple[float, float]]) -> Figure:
    """Two images (X, Y, Z) in alternating squares, about eight along the longest side; edges must run on across squares."""
    side = max(max(cut.size) for cut in cuts) / 8

    def paint(axes: Axes, cut: Plane) -> None:
        first, second = ((cut.cut(data) - low) / (high - low) for data, (low, high) in zip((a, b), limits, strict=True))
        x, y = cut.points()
        even = (np.floor(x[None, :] / side) + np.floor(y[:, None] / side)) % 2 == 0
        _gray(axes, cut, np.where(even, first, second), (0, 1), "nearest")

    return strip(cuts, paint)


def draw_outlines(
    cuts: Sequence[Plane], data: np.ndarray, limits: tuple[float, float], outlined: Sequence[tuple[np.ndarray, str]]
) -> Figure:
    """An image (X, Y, Z) in gray, and the outlines of all labels of the label images (X, Y, Z), each in one color."""

    def paint(axes: Axes, cut: Plane) -> None:
        _gray(axes, cut, cut.cut(data), limits)
        for labels, color in outlined:
            shown = cut.cut(labels)
            for value in np.unique(shown[shown != 0]):
                _outline(axes, cut, shown == value, color, 1.0)

    return strip(cuts, paint)


def draw_lattice(cuts: Sequence[Plane], data: np.ndarray, limits: tuple[float, float], grid: Volume, transform: Transform) -> Figure:
    """A square lattice painted on the moving image, moved with it; without the affine part, which would only tilt it."""
    from imagingai.transform import apply_to_points

    world = [cut.index.reshape(-1, 3) @ grid.affine[:3, :3].T + grid.origin for cut in cuts]
    mapped = apply_to_points(transform, np.concatenate(world))
    homogeneous = np.column_stack([mapped, np.ones(len(mapped))])
    back = np.linalg.lstsq(homogeneous, np.concatenate(world), rcond=None)[0]  # minimum norm, so one plane is enough
    index = (homogeneous @ back - grid.origin) @ np.linalg.inv(grid.affine[:3, :3]).T
    parts = dict(zip((cut.name for cut in cuts), np.split(index, np.cumsum([len(w) for w in world])[:-1]), strict=True))
    step = max(max(cut.size) for cut in cuts) / 28

    def paint(axes: Axes, cut: Plane) -> None:
        low, high = limits
        _gray(axes, cut, cut.cut(data), (low, high + 0.8 * (high - low)))
        x, y = cut.points()
        for axis in cut.axes:
            lines = parts[cut.name][:, axis].reshape(cut.index.shape[:2]) * grid.spacing[axis]
            levels = np.arange(np.ceil(lines.min() / step), np.floor(lines.max() / step) + 1) * step
            if min(lines.shape) > 1 and len(levels):
                axes.contour(x, y, lines, levels, colors=GRID_COLOR, linewidths=0.7)

    return strip(cuts, paint)


def draw_jacobian(cuts: Sequence[Plane], jacobian: np.ndarray, foreground: np.ndarray) -> Figure:
    """The Jacobian determinant (X, Y, Z) on a log scale around 1; folds (0 or less) in a color of their own."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, to_rgb

    inside = jacobian[foreground] if foreground.any() else jacobian.ravel()
    change = np.abs(np.log(np.clip(inside[:: max(1, inside.size // 200_000)], 1e-3, None)))
    reach = float(np.exp(np.clip(np.percentile(change, 99.5), np.log(1.2), np.log(4.0))))
    color = ScalarMappable(LogNorm(1 / reach, reach), "RdBu_r")

    def paint(axes: Axes, cut: Plane) -> None:
        shown = cut.cut(jacobian)
        picture = color.to_rgba(np.clip(shown, 1 / reach, reach))[..., :3]
        picture[shown <= 0] = to_rgb(FOLD_COLOR)
        axes.imshow(picture, extent=(0, cut.size[0], cut.size[1], 0), interpolation="nearest")
        _outline(axes, cut, cut.cut(foreground), "#222", 0.9)

    return strip(cuts, paint, (color, "Jacobian determinant, log scale"))


def draw_similarity(cuts: Sequence[Plane], values: np.ndarray, foreground: np.ndarray, name: str) -> Figure:
    """A map of the dissimilarity (X, Y, Z); lower is better."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    inside = values[foreground & np.isfinite(values)] if foreground.any() else values[np.isfinite(values)]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 1.0)
    color = ScalarMappable(Normalize(low, high if high > low else low + 1), "magma")

    def paint(axes: Axes, cut: Plane) -> None:
        axes.imshow(color.to_rgba(cut.cut(values)), extent=(0, cut.size[0], cut.size[1], 0), interpolation="nearest")
        _outline(axes, cut, cut.cut(foreground), "#9aa5b1", 0.6)

    return strip(cuts, paint, (color, f"{name} (lower is more alike)"))


def draw_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """The similarity at each iteration, one curve for each stage, one after the other."""
    from matplotlib.figure import Figure

    figure = Figure((10, 3), dpi=100, facecolor=BACK)
    axes = figure.add_axes((0.07, 0.17, 0.91, 0.76), facecolor=BACK)
    start = 0
    for name, values in history.items():
        axes.plot(np.arange(start, start + len(values)), values, lw=1.6, label=name)
        start += len(values)
    axes.set_xlabel("iteration", color="#e6eaef")
    axes.set_ylabel("similarity (lower is better)", color="#e6eaef")
    axes.tick_params(colors="#e6eaef")
    axes.grid(color="#2c333c", lw=0.6)
    axes.spines[:].set_color("#57606a")
    axes.legend(facecolor=BACK, edgecolor="#57606a", labelcolor="#e6eaef", fontsize=9)
    return figure


def _gray(axes: Axes, cut: Plane, pixels: np.ndarray, limits: tuple[float, float], interpolation: str = "bilinear") -> None:
    extent = (0, cut.size[0], cut.size[1], 0)
    axes.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], extent=extent, interpolation=interpolation)


def _outline(axes: Axes, cut: Plane, mask: np.ndarray, color: str, width: float) -> None:
    """The border of a mask (rows, columns), also where it meets the edge of the picture; only its surroundings are worked on."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32), 1)
    x, y = ((np.arange(n) - 0.5 + first[0]) * mm for n, first, mm in zip(part.shape[::-1], (columns, rows), cut.pixel, strict=True))
    axes.contour(x, y, part, [0.5], colors=color, linewidths=width)


def _write_letters(axes: Axes, letters: Sequence[str]) -> None:
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


def _color_bar(figure: Figure, axes: Axes, color: Any, text: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    bar = figure.colorbar(color, cax=axes, orientation="horizontal")
    bar.set_label(text, color="#e6eaef", fontsize=9, labelpad=1)
    low, high = color.norm.vmin, color.norm.vmax
    if low > 0 and np.isclose(low * high, 1):  # around 1
        bar.set_ticks([low, low**0.5, 1, high**0.5, high])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.tick_params(colors="#e6eaef", labelsize=8, length=2, which="both")
    bar.outline.set_edgecolor("#57606a")
