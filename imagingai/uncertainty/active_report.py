"""How a campaign of active learning goes: both learning curves, as a picture, a table and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagingai.pictures import structure_color
from imagingai.report import Html, facts, heading, page, paragraph, picture, settings_table, table
from imagingai.uncertainty.active import RANDOM
from imagingai.uncertainty.cells import MISSING
from imagingai.uncertainty.figures import INK, chart, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from imagingai.uncertainty.active_task import Campaign

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
VERDICT = (
    "Choosing by uncertainty did not beat choosing at random in Czolbe et al. (2021), section 4.5 and figure 8: for no model and on no "
    "data set; random choice even learned faster, perhaps because uncertain images are often those on which readers disagree. Believe "
    "the curves of your own images, and only a difference that stays over several rounds: one campaign is one throw of the dice."
)
FAIRNESS = (
    "Both sides began with the same labeled images. Each learns only from its own choice, from scratch in every round, with the same "
    "steps and seed; the validation images take no part in it. They choose in turns among the images without labels, and who "
    "begins alternates; both get the same image only when too few are left. Images that were labeled without "
    "being asked for count for both sides. When most images are labeled, "
    "chance can only choose among those that the strategy has left: the first rounds say most."
)


def draw_curves(curves: Curves) -> Figure:
    """Dice and negative log likelihood on the validation cases against the number of labeled cases, of both arms."""
    figure, axes = chart(2)
    for number, (arm, rows) in enumerate(curves.items()):
        style = {"color": INK, "ls": "--", "marker": "s"} if arm == RANDOM else {"color": structure_color(1 + number), "marker": "o"}
        for part, name in zip(axes, ("score", "nll"), strict=True):
            known = [row for row in rows if row[name] is not None]
            part.plot([row["labeled"] for row in known], [row[name] for row in known], lw=1.8, ms=5, label=words(arm), **style)
    for part, name in zip(axes, ("Dice of the validation cases", "negative log likelihood, nats per voxel"), strict=True):
        part.xaxis.get_major_locator().set_params(integer=True)
        label(part, "labeled cases of each side", name)
    return figure


def campaign_table(campaign: Campaign, message: str) -> str:
    """The rounds as text for a terminal, and what to do now."""
    columns, rows = _rounds(campaign.curves)
    widths = [max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True)]
    lines = ["".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    return "\n".join([*lines, "", message, ""])


def campaign_page(campaign: Campaign, chosen: Sequence[Mapping[str, Any]], message: str, settings: Mapping[str, Any]) -> str:
    """The whole page. chosen: rows of next.csv; message: what to do now; settings: inputs and options."""
    title, arms = "Active learning", list(campaign.curves)
    columns, rows = _rounds(campaign.curves)
    caption = "Dice: mean of the structures, higher is better. NLL: negative log likelihood in nats per voxel, lower is better."
    parts = [
        heading(title, 1),
        facts([("round", str(campaign.round)), ("chosen by", words(arms[0])), ("labeled", rows[-1][1]), ("Dice", rows[-1][2])]),
        paragraph(message),
        *([paragraph(_difference(campaign.curves))] if len(arms) > 1 else []),
        paragraph(VERDICT),
        picture(draw_curves(campaign.curves), "Dice and likelihood against the labeled cases of both sides", caption, name="curves"),
        table("All rounds", columns, rows, numbers=range(len(columns))),
        *_chosen(chosen),
        heading("How the sides are compared"),
        paragraph(FAIRNESS),
        *settings_table(settings),
    ]
    return page(title, parts)


def words(arm: str) -> str:
    """An arm in words."""
    return arm.replace("_", " ")


def _rounds(curves: Curves) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of the rounds; with two arms also the difference of their Dice."""
    arms, both = list(curves), len(curves) > 1
    columns = ["round", "labeled", *(f"{words(arm)} Dice" for arm in arms), *["difference"] * both, *(f"{words(arm)} NLL" for arm in arms)]
    rows = []
    for found in zip(*curves.values(), strict=True):
        scores = [row["score"] for row in found]
        gain = [_show(None if None in scores else scores[0] - scores[1], "+.3f")] if both else []
        figures = [*(_show(score, ".3f") for score in scores), *gain, *(_show(row["nll"], ".4f") for row in found)]
        rows.append([str(found[0]["round"]), str(found[0]["labeled"]), *figures])
    return columns, rows


def _show(value: float | None, digits: str) -> str:
    return MISSING if value is None else f"{value:{digits}}"


def _difference(curves: Curves) -> str:
    """How many rounds were better than chance; the first round is the same for both."""
    chosen, rows = next(iter(curves)), list(zip(*curves.values(), strict=True))[1:]
    gains = [a["score"] - b["score"] for a, b in rows if a["score"] is not None and b["score"] is not None]
    if not gains:
        return "Both sides have learned from the same images so far; they differ from the next round on."
    better, mean = sum(gain > 0 for gain in gains), sum(gains) / len(gains)
    return f"Here, {words(chosen)} was better than random choice in {better} of {len(gains)} rounds; mean difference of Dice {mean:+.3f}."


def _chosen(rows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """The next cases: a row for each, with the slice to look at if the model works on slices."""
    if not rows:
        return []
    slices = any(row["slice"] for row in rows)
    columns = ["case", "chosen by", "rank", "score", *["most informative slice"] * slices]
    lines = [[row["case"], words(row["arm"]), str(row["rank"]), f"{row['score']:.4g}", *[row["slice"]] * slices] for row in rows]
    caption = "Score of entropy and mutual information: sum over the image, in bits; of diversity: mean 1 - IoU of two samples. " + (
        "Slices: voxel axis i, j or k and index, the first is 0." * slices
    )
    return [heading("Next to label"), table(caption, columns, lines, numbers=(2, 3))]
