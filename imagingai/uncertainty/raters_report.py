"""How far readers agree, as one self-contained HTML page with pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imagingai import __version__, pictures
from imagingai.report import Html, facts, heading, join, key, page, paragraph, picture, side_by_side, table
from imagingai.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imagingai.uncertainty.raters_task import Readers

MEANINGS = {  # key of the summary: name, what it says
    "dice": ("Dice of two readers", "Overlap of the structures, mean over all pairs of readers: 1 is the same, 0 is nothing in common."),
    "unanimous_percent": ("Unanimous, %", "Voxels where all readers say the same, of those that any reader marked."),
    "diversity": ("Diversity of the readers", "Mean 1 - IoU of two readers, drawn with replacement: 0 if all are the same."),
    "ged": (
        "Energy distance to the samples",
        "Squared generalized energy distance (Czolbe et al. 2021, eq. 3): 0 if the samples vary as the readers do.",
    ),
    "diversity_samples": ("Diversity of the samples", "The same mean among the samples; best near that of the readers."),
}
MARGIN = 0.25  # of the size of what was marked, shown around it


def raters_page(title: str, readers: Readers, found: dict[str, Any], entropy: np.ndarray) -> str:
    """The whole page. found: what compare_raters returns; entropy: (X, Y, Z) bits, of the votes."""
    head = [("readers", str(len(readers.names))), ("structures", str(len(readers.structures) - 1))]
    head += [("samples", str(len(readers.samples)))] if len(readers.samples) else []
    parts = [
        heading(f"Agreement of readers: {title}", 1),
        facts([*head, ("ImagingAI", __version__)]),
        *([paragraph(_left_out(readers))] if readers.left_out else []),
        *_pictures(readers, entropy),
        heading("Numbers"),
        table("", ("Measure", "Value", "What it says"), [_row(name, value) for name, value in found["summary"].items()], numbers=(1,)),
        heading("Structures"),
        _structures(found),
        *_matrix(readers, found),
        *_curve(found),
    ]
    return page(f"Agreement of readers: {title}", parts)


def show(value: float | None) -> str:
    """Three digits after the point, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _row(name: str, value: float | None) -> list[str]:
    return [MEANINGS[name][0], show(value), MEANINGS[name][1]]


def _left_out(readers: Readers) -> str:
    return f"The samples also hold {', '.join(map(str, readers.left_out))}, which no reader drew; they count as background here."


def show_size(size: float) -> str:
    """A volume or an area: four digits."""
    return f"{size:.0f}" if size >= 1000 else f"{size:.4g}"


def _structures(found: dict[str, Any]) -> Html:
    """Overlap and the volumes of the readers, a row for each structure."""
    rows = [
        [name, show(found["pair_dice"][name]), *map(show_size, sizes.values()), f"{_spread(list(sizes.values())):.0f} %"]
        for name, sizes in found["volumes"].items()
    ]
    columns = ("Structure", "Dice of two", *found["readers"], "Range")
    what = "Volume" if found["unit"] == "ml" else "Area"
    caption = f"{what} in {found['unit']} of every reader; the range is the largest minus the smallest, in percent of the mean."
    return table(caption, columns, rows, numbers=range(1, len(columns)))


def _spread(volumes: list[float]) -> float:
    mean = float(np.mean(volumes))
    return 100 * (max(volumes) - min(volumes)) / mean if mean else 0.0


def _matrix(readers: Readers, found: dict[str, Any]) -> list[Html]:
    """Dice of every pair of readers."""
    if len(readers.names) == 1:
        return []
    rows = [
        [name, *("" if i == j else show(value) for j, value in enumerate(row))]
        for i, (name, row) in enumerate(zip(readers.names, found["dice_mean"], strict=True))
    ]
    caption = "Mean over the structures that at least one of the two marked; a dash: both marked nothing."
    return [heading("Dice of every pair"), table(caption, ("", *readers.names), rows, numbers=range(1, len(rows) + 1))]


# --- pictures


def _pictures(readers: Readers, entropy: np.ndarray) -> list[Html]:
    """The outlines of the readers, and where they disagree; planes through the most disagreement."""
    marked = (readers.labels > 0).any(0)
    box = _around(marked)
    where = entropy if entropy.any() else marked
    center = [int(where[box].sum(tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]
    cuts = pictures.planes(Volume(marked[box][None], readers.grid.affine), center)  # the place in the world does not matter
    share = (readers.labels > 0).mean(0)[box]
    colors = [pictures.structure_color(k + 1) for k in range(len(readers.names))]
    outlined = [(labels[box], color) for labels, color in zip(readers.labels, colors, strict=True)]
    lines = join("Outlines of the readers on the share of them that marked anything.", *map(key, colors, readers.names))
    shown = [picture(pictures.draw_outlines(cuts, share, (0, 2), outlined), "Outlines of all readers", lines)]
    if entropy.any():
        text = "Entropy of the votes in bits: 0 where all readers agree, 1 where they are split in two halves."
        shown.append(picture(_draw_entropy(cuts, entropy[box], marked[box]), "Map of the entropy of the votes", text))
    return [heading("Where they agree"), *(shown if len(cuts) > 1 else [side_by_side(shown)])]


def _around(marked: np.ndarray) -> tuple[slice, ...]:
    """The part of the grid that holds what was marked, with a margin."""
    sides = []
    for index, size in zip(np.nonzero(marked), marked.shape, strict=True):
        room = int(np.ceil(MARGIN * (index.max() - index.min() + 1)))
        sides.append(slice(max(0, index.min() - room), min(size, index.max() + room + 1)))
    return tuple(sides)


def _draw_entropy(cuts: list[pictures.Plane], entropy: np.ndarray, marked: np.ndarray) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    color = ScalarMappable(Normalize(0, max(1.0, float(entropy.max()))), "magma")

    def paint(axes: Axes, cut: pictures.Plane) -> None:
        axes.imshow(color.to_rgba(cut.cut(entropy)), extent=(0, cut.size[0], cut.size[1], 0), interpolation="nearest")
        pictures.outline(axes, cut, cut.cut(marked), "#9aa5b1", 0.8)

    return pictures.strip(cuts, paint, (color, "entropy of the votes, bits"))


def _curve(found: dict[str, Any]) -> list[Html]:
    """The energy distance by the number of segmentations that are drawn."""
    if "ged_curve" not in found:
        return []
    from matplotlib.figure import Figure

    curve, text = found["ged_curve"], "#e6eaef"
    counts = np.arange(1, len(curve["median"]) + 1)
    figure = Figure((10, 3), dpi=100, facecolor=pictures.BACK)
    axes = figure.add_axes((0.07, 0.17, 0.91, 0.76), facecolor=pictures.BACK)
    axes.fill_between(counts, curve["low"], curve["high"], color="#2ec4ff", alpha=0.3, label="middle half of the draws")
    axes.plot(counts, curve["median"], color="#2ec4ff", lw=1.8, marker="o", ms=4, label="median")
    axes.axhline(found["summary"]["ged"], color="#ff9f1c", lw=1.2, ls="--", label="all of them")
    axes.set_xlabel("segmentations drawn from both sides", color=text)
    axes.set_ylabel("squared energy distance", color=text)
    axes.set_xlim(0.5, len(counts) + 0.5)
    axes.tick_params(colors=text)
    axes.grid(color="#2c333c", lw=0.6)
    axes.spines[:].set_color("#57606a")
    axes.legend(facecolor=pictures.BACK, edgecolor="#57606a", labelcolor=text, fontsize=9)
    caption = "Lower is better. A few draws look further apart than all of them, as in figure 6 of Czolbe et al. 2021."
    return [heading("Distance to the samples"), picture(figure, "Energy distance by the number of samples", caption)]
