"""Pictures of a segmentation and its uncertainty, and charts of trainings and controls, as matplotlib figures.

Pictures are in native space and radiological convention (`imagingai/pictures.py`); every map has a color bar with its unit
and a scale that is the same for all cases where that is possible. Charts are dark on white, for paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imagingai.pictures import BACK, Plane, center_of, color_bar, gray, outline, planes, structure_color, window, write_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imagingai.uncertainty.segment import Segmentation

Place = tuple[int, int, int]  # voxel
LIGHT_COLORS = {"good": "#2e9e5b", "look": "#e0a100", "bad": "#c9372c", "": "#8a939e"}
BITS = {False: 1.0, True: 2.0}  # end of the scale of maps in bits, for few and many classes, so that cases can be compared
MANY = 4  # classes
RING = "#3dffb0"
INK, SOFT, LINE = "#1b1f24", "#57606a", "#d8dee4"


# --- where to look


def most_uncertain(segmentation: Segmentation) -> Place:
    """The voxel with the highest entropy within about 4 mm; the middle of the image if there is no uncertainty at all."""
    from scipy.ndimage import gaussian_filter

    sigma = [2.0 / mm if n > 1 else 0.0 for mm, n in zip(segmentation.image.spacing, segmentation.image.shape, strict=True)]
    smooth = gaussian_filter(segmentation.entropy, sigma, mode="constant")
    return np.unravel_index(int(smooth.argmax()), smooth.shape) if smooth.any() else center_of(smooth > 0)


def largest_structure(segmentation: Segmentation) -> Place:
    """The voxel of the largest structure that lies nearest to its middle; the middle of the image if nothing was found."""
    sizes = np.bincount(segmentation.segmentation.ravel(), minlength=len(segmentation.classes))
    mask = segmentation.segmentation == 1 + int(sizes[1:].argmax()) if sizes[1:].any() else np.zeros(segmentation.image.shape, bool)
    middle, inside = center_of(mask), np.argwhere(mask)
    if not len(inside):
        return middle
    return tuple(int(i) for i in inside[(((inside - middle) * segmentation.image.spacing) ** 2).sum(1).argmin()])


def around(cut: Plane, segmentation: Segmentation, place: Place, reach: float) -> Plane:
    """The part of a plane within `reach` mm of a voxel."""
    box = np.ceil(reach / segmentation.image.spacing)
    near = np.abs(cut.index - np.array(place)) <= box
    return replace(cut, index=cut.index[near[..., cut.axes[1]].all(1)][:, near[..., cut.axes[0]].all(0)])


# --- pictures of one case


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: its plane, what is drawn, and its title."""

    cut: Plane
    paint: Callable[[Axes, Plane], None]
    title: str


def draw_case(segmentation: Segmentation, band: np.ndarray | None = None) -> Figure:
    """The whole case on one sheet.

    Outlines of the segmentation through the largest structure; entropy through the most uncertain place (ringed); around
    that place the samples and the two parts of the entropy, and `band`, the local width of the border band in mm (X, Y, Z).
    """
    scene = Scene(segmentation)
    place, many = most_uncertain(segmentation), len(segmentation.samples) > 1
    typical = planes(segmentation.image, largest_structure(segmentation))
    cuts = planes(segmentation.image, place)
    closer = around(cuts[0], segmentation, place, 0.2 * max(max(cut.size) for cut in cuts))
    segmented = [Panel(cut, scene.outlines, f"Segmentation, {cut.name}".strip(", ")) for cut in typical]
    entropy = [Panel(cut, scene.map(segmentation.entropy, scene.bits, place), f"Entropy, {cut.name}".strip(", ")) for cut in cuts]
    near = [Panel(closer, scene.samples, f"{len(segmentation.samples)} samples")] if many else []
    if many:
        near.append(Panel(closer, scene.map(segmentation.mutual_information, scene.bits), "Model does not know"))
        near.append(Panel(closer, scene.map(segmentation.expected_entropy, scene.bits), "Image does not tell"))
    bars = [(scene.bits, "entropy and its two parts, bits")]
    if band is not None and band.any():
        width = colors(0, max(1.0, float(np.percentile(band[band > 0], 99))), "viridis")
        near.append(Panel(closer, scene.map(band, width), "Border band"))
        bars.append((width, "width of the border band, mm"))
    rows = [segmented, entropy, near] if len(cuts) > 1 else [segmented + entropy, near]
    return sheet([row for row in rows if row], bars)


class Scene:
    """What the panels of a case share: gray window and color scale; methods that paint."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.segmentation = segmentation
        self.window = window(segmentation.image.data[0])
        self.bits = colors(0, BITS[len(segmentation.classes) >= MANY], "plasma")

    def outlines(self, axes: Axes, cut: Plane) -> None:
        """The segmentation, each structure in its color."""
        self._gray(axes, cut)
        self._structures(axes, cut, self.segmentation.segmentation, 1.1)

    def samples(self, axes: Axes, cut: Plane) -> None:
        """All samples as thin lines, each structure in its color."""
        self._gray(axes, cut)
        for sample in self.segmentation.samples:
            self._structures(axes, cut, sample, 0.5)

    def map(self, values: np.ndarray, color: Any, place: Place | None = None) -> Callable[[Axes, Plane], None]:
        """A map (X, Y, Z) over the image, clear where it is 0, with the outline of the segmentation and a ring at a place."""

        def paint(axes: Axes, cut: Plane) -> None:
            self._gray(axes, cut)
            shown = cut.cut(values)
            pixels = color.to_rgba(shown)
            pixels[..., 3] = 0.9 * np.clip(shown / (0.2 * color.norm.vmax), 0, 1)
            axes.imshow(pixels, extent=(0, cut.size[0], cut.size[1], 0), interpolation="nearest")
            for k in range(1, len(self.segmentation.classes)):
                outline(axes, cut, cut.cut(self.segmentation.segmentation) == k, "#ffffff90", 0.4)
            if place is not None:
                x, y = (np.flatnonzero((cut.index == place)[..., axis].all(other))[0] for axis, other in zip(cut.axes, (0, 1), strict=True))
                at = ((x + 0.5) * cut.pixel[0], (y + 0.5) * cut.pixel[1])
                for width, ring in ((3.0, "#000000"), (1.4, RING)):
                    axes.scatter(*at, s=260, facecolors="none", edgecolors=ring, linewidths=width)

        return paint

    def _gray(self, axes: Axes, cut: Plane) -> None:
        gray(axes, cut, cut.cut(self.segmentation.image.data[0]), self.window)

    def _structures(self, axes: Axes, cut: Plane, labels: np.ndarray, width: float) -> None:
        shown = cut.cut(labels)
        for k in np.unique(shown[shown > 0]):
            outline(axes, cut, shown == k, structure_color(int(k)), width)


def colors(low: float, high: float, name: str) -> Any:
    """A color scale; what is beyond its end has the color of the end."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(low, high), name)


def sheet(rows: Sequence[Sequence[Panel]], bars: Sequence[tuple[Any, str]]) -> Figure:
    """Rows of pictures on black, each row at one scale and as wide as the sheet where its height allows; color bars below."""
    from matplotlib.figure import Figure

    gap, low, whole, title = 0.06, 0.75, 10.0, 0.26  # inches
    sizes = [(sum(p.cut.size[0] for p in row), max(p.cut.size[1] for p in row)) for row in rows]
    scales = [min((whole - gap * (len(row) - 1)) / w, (3.2 if len(row) > 2 else 4.8) / h) for row, (w, h) in zip(rows, sizes, strict=True)]
    height = low + sum(scale * size[1] + gap + title for scale, size in zip(scales, sizes, strict=True))
    figure, top = Figure((whole, height), dpi=130, facecolor=BACK), height
    for row, scale, (wide, high) in zip(rows, scales, sizes, strict=True):
        top -= title
        left = (whole - scale * wide - gap * (len(row) - 1)) / 2
        for panel in row:
            w, h = (scale * size for size in panel.cut.size)
            figure.text((left + w / 2) / whole, (top + 0.06) / height, panel.title, color="#e6eaef", ha="center", fontsize=12)
            _place(figure, (left / whole, (top - (scale * high + h) / 2) / height, w / whole, h / height), panel)
            left += w + gap
        top -= scale * high + gap
    for number, (color, text) in enumerate(bars):
        wide = 0.8 / len(bars)
        color_bar(figure, figure.add_axes((0.1 + number * wide + 0.03, 0.5 / height, wide - 0.06, 0.13 / height)), color, text, 11)
    return figure


def _place(figure: Figure, box: tuple[float, float, float, float], panel: Panel) -> None:
    axes = figure.add_axes(box)
    axes.axis("off")
    panel.paint(axes, panel.cut)
    axes.set(xlim=(0, panel.cut.size[0]), ylim=(panel.cut.size[1], 0), aspect="auto")
    write_letters(axes, panel.cut.letters)


# --- charts


def chart(columns: int = 1, height: float = 3.2, width: float = 10.0) -> tuple[Figure, list[Axes]]:
    """Empty axes side by side, dark on white."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=130, facecolor="#ffffff", layout="constrained")
    found = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in found:
        axes.tick_params(colors=SOFT, labelsize=9)
        axes.grid(color=LINE, lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[:].set_color(LINE)
    return figure, found


def label(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    """Names of the axes, and the legend."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    if legend:
        axes.legend(fontsize=8, labelcolor=INK, edgecolor=LINE, ncols=1 + len(axes.get_legend_handles_labels()[0]) // 8)


def draw_training(histories: Sequence[Sequence[Mapping[str, float]]]) -> Figure:
    """Loss (training, validation) and Dice at each validation; of one network each structure, of several the mean of each."""
    figure, (left, right) = chart(2)
    single = len(histories) == 1
    for number, rows in enumerate(histories, 1):
        steps = [row["step"] for row in rows]
        name, color = ("", structure_color(2)) if single else (f"network {number}: ", structure_color(number))
        left.plot(steps, [row["loss"] for row in rows], color=color, lw=1.6, marker=".", label=f"{name}training")
        if "loss_validation" in rows[-1]:
            validation = [row["loss_validation"] for row in rows]
            left.plot(steps, validation, "--", color=INK if single else color, lw=1.6, label=f"{name}validation")
        shown = [key for key in rows[-1] if key.startswith("dice")] if single else ["dice"]
        for k, key in enumerate(shown):
            style = {"color": INK, "lw": 2.4, "label": "mean"} if single else {"color": color, "label": f"network {number}"}
            style = style if key == "dice" else {"color": structure_color(k), "lw": 1.2, "label": key.removeprefix("dice ")}
            right.plot(steps, [row[key] for row in rows], marker=".", **style)
    label(left, "step", "loss")
    label(right, "step", "Dice on held-out views")
    right.set_ylim(0, 1)
    return figure


def draw_reliability(tables: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Accuracy against confidence, a line for each table of `calibration.reliability`; bars show the share of the voxels."""
    figure, (axes,) = chart(height=4.2, width=5)
    axes.plot([0, 1], [0, 1], ":", color=SOFT, label="perfect")
    for (name, rows), color, mark in zip(tables.items(), ("#d9480f", "#1971c2"), ("o", "s"), strict=False):
        total, filled = sum(row["count"] for row in rows), [row for row in rows if row["count"]]
        at = [row["confidence"] for row in filled]
        axes.plot(at, [row["accuracy"] for row in filled], marker=mark, ms=4, color=color, label=name)
        share = [row["count"] / max(total, 1) for row in rows]
        axes.bar([row["from"] for row in rows], share, [row["to"] - row["from"] for row in rows], 0, align="edge", color=color, alpha=0.18)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label(axes, "confidence", "share that is right (bars: share of the voxels)")
    return figure


def draw_dice(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Predicted against true Dice of held-out controls: structure -> (true, predicted); the gray band is 0.05 wide to each side."""
    figure, (axes,) = chart(height=4.2, width=5)
    low = max(0.0, min((value for points in pairs.values() for point in points for value in point), default=0.0) - 0.05)
    ends = np.array([low, 1.0])
    axes.fill_between(ends, ends - 0.05, ends + 0.05, color=LINE, label="± 0.05")
    axes.plot(ends, ends, ":", color=SOFT)
    for number, (name, points) in enumerate(pairs.items(), 1):
        true, predicted = zip(*points, strict=True)
        mark = "osD^v<>P*X"[(number - 1) % 10]
        axes.scatter(true, predicted, s=22, marker=mark, color=structure_color(number), edgecolors=INK, linewidths=0.4, label=name)
    axes.set(xlim=(low, 1), ylim=(low, 1))
    label(axes, "true Dice", "predicted Dice, case left out")
    return figure


def draw_ranges(ranges: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Normal volume of each structure in ml (low, middle, high), on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (axes,) = chart(height=0.8 + 0.28 * len(ranges))
    for row, (low, middle, high) in enumerate(ranges.values()):
        axes.plot([low, high], [row, row], color=structure_color(row + 1), lw=5, solid_capstyle="butt")
        axes.plot(middle, row, "o", color=INK, ms=4)
    axes.set(xscale="log", ylim=(len(ranges) - 0.5, -0.5), yticks=range(len(ranges)), yticklabels=list(ranges))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    label(axes, "volume, ml", "", legend=False)
    return figure


def draw_queue(dice: Mapping[str, Sequence[float]]) -> Figure:
    """How many cases have which predicted Dice, stacked by light: light -> predicted Dice of the worst structure."""
    figure, (axes,) = chart(height=2.2)
    shown = {light: values for light, values in dice.items() if len(values)}
    names = {"good": "good", "look": "look at it", "bad": "problem", "": "not judged"}
    axes.hist(list(shown.values()), np.linspace(0, 1, 41), stacked=True, color=[LIGHT_COLORS[light] for light in shown],
              label=[names[light] for light in shown], edgecolor="#ffffff", linewidth=0.4)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.yaxis.get_major_locator().set_params(integer=True)
    label(axes, "lowest predicted Dice of a case", "cases")
    return figure
