"""Pictures of a registration: checkerboards, the warped lattice, the Jacobian, the similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imagingai.pictures import BACK, Plane, gray, outline, strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imagingai.transform import Transform
    from imagingai.volume import Volume

FIXED_COLOR, MOVING_COLOR, GRID_COLOR, FOLD_COLOR = "#2ec4ff", "#ff9f1c", "#7fe3ff", "#b8ff2e"


def draw_checkerboard(cuts: Sequence[Plane], a: np.ndarray, b: np.ndarray, limits: Sequence[tuple[float, float]]) -> Figure:
    """Two images (X, Y, Z) in alternating squares, about eight along the longest side; edges must run on across squares."""
    side = max(max(cut.size) for cut in cuts) / 8

    def paint(axes: Axes, cut: Plane) -> None:
        first, second = ((cut.cut(data) - low) / (high - low) for data, (low, high) in zip((a, b), limits, strict=True))
        x, y = cut.points()
        even = (np.floor(x[None, :] / side) + np.floor(y[:, None] / side)) % 2 == 0
        gray(axes, cut, np.where(even, first, second), (0, 1), "nearest")

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
        gray(axes, cut, cut.cut(data), (low, high + 0.8 * (high - low)))
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
        outline(axes, cut, cut.cut(foreground), "#222", 0.9)

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
        outline(axes, cut, cut.cut(foreground), "#9aa5b1", 0.6)

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
