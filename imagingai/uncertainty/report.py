"""Self-contained HTML pages: one case, a cohort, a training, and what is normal for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from imagingai import __version__
from imagingai.pictures import describe_orientation, structure_color
from imagingai.report import STATES, Html, facts, heading, join, key, page, paragraph, picture, settings_table, side_by_side, state, table
from imagingai.uncertainty import figures
from imagingai.uncertainty.cells import MISSING, ON_PAPER, dice_bar, is_number, structures_table, three_digits
from imagingai.uncertainty.features import IMAGE_FEATURES

if TYPE_CHECKING:
    from imagingai.uncertainty.segment import Segmentation

WORDS = {"ged": "energy distance to the readers", "diversity": "diversity of the samples"}
PRINT = Html(
    "<style>@page{size:A4;margin:10mm}@media print{body{font-size:9pt;line-height:1.3}h1{font-size:14pt}h2{font-size:11pt;margin:8px 0 4px}"
    "p{max-width:none}table{font-size:8.5pt}th,td{padding:1px 6px}td:not(.n):last-child{min-width:0}"
    ".key{height:.6em}.facts{margin:6px 0!important;gap:4px}.facts li{padding:1px 8px}.facts b{font-size:9pt}.facts span{font-size:7.5pt}"
    "figure{margin:0 0 6px}figure img{border-radius:0}figcaption{font-size:8pt;padding:2px 0 0}"
    "details,h2:has(+details){display:none}}svg{vertical-align:middle}thead .n{white-space:normal}.facts{margin-bottom:10px}</style>"
)

# --- one case


def case_page(
    segmentation: Segmentation, values: Mapping[str, Any], settings: Mapping[str, Any], border_band: np.ndarray | None = None
) -> str:
    """The page of one case; without what is folded out it is one printed page for up to 16 structures.

    border_band: (X, Y, Z) mm, the largest over the structures. Keys that are used; every one may be missing:
    values["volumes"]: {structure: {"ml", "low", "high", "level", "unit"}}; values["border_band"]: {structure: {"mean_mm", "p95_mm"}};
    values["quality"]: what `quality.judge` returns; values["rca"]: {structure: Dice or None};
    values["measured"]: {"dice": {structure: Dice}, and any number of other figures}.
    settings: "image" (name), "model", "started"; all of them, nested ones too, are listed at the end.
    """
    quality = values.get("quality") or {}
    title = f"Segmentation of {settings.get('image', 'an image')}"
    measured = values.get("measured") or {}
    found = [(WORDS.get(name, name.replace("_", " ")), f"{number:.3f}") for name, number in measured.items() if is_number(number)]
    head = [("when", str(settings["started"]))] if "started" in settings else []
    head += [("model", str(settings["model"]))] if "model" in settings else []
    head += [("samples", str(len(segmentation.samples))), *found, ("ImagingAI", __version__)]
    parts = [
        PRINT,
        _fit_paper(min(len(segmentation.classes) - 1, ON_PAPER)),
        heading(title, 1),
        *_light(quality),
        facts(head),
        *_case_picture(segmentation, border_band),
        *structures_table(segmentation, values),
        *settings_table(settings),
    ]
    return page(title, parts)


def _fit_paper(structures: int) -> Html:
    """The picture may be as high as the table of structures leaves room for."""
    return Html(f"<style>@media print{{#case{{max-height:{222 - 5 * structures}mm;width:auto;margin:auto}}}}</style>")


def _light(quality: Mapping[str, Any]) -> list[Html]:
    """The traffic light with its reasons; a scan unlike those of the training is said first."""
    if "light" not in quality:
        return []
    strange = "Unlike the images that the model was trained on: do not rely on it without looking. " if quality.get("out_of_domain") else ""
    return [paragraph(join(state(quality["light"]), "  ", Html(f"<b>{escape(strange)}</b>"), " ".join(quality.get("reasons", []))))]


def _case_picture(segmentation: Segmentation, band: np.ndarray | None) -> list[Html]:
    names = [name for k, name in enumerate(segmentation.classes) if k and np.any(segmentation.segmentation == k)]
    lines = [key(structure_color(segmentation.classes.index(name)), name) for name in names]
    text = f"{describe_orientation(segmentation.image)} Ring: the most uncertain place. White: outline of the segmentation."
    if len(segmentation.samples) > 1:
        text += " Entropy = what the model does not know (mutual information) + what the image does not tell (expected entropy)."
    figure = figures.draw_case(segmentation, band)
    alt = f"Outlines of {', '.join(names) or 'nothing'}, and maps of the uncertainty in bits through the most uncertain place"
    return [picture(figure, alt, join(*(lines or ["Nothing was found."]), Html("<br>"), text), name="case")]


# --- a cohort


def cohort_page(rows: Sequence[Mapping[str, str]], title: str) -> str:
    """The queue of a cohort in the order of the rows, which are those of `queue.collect`: worst first.

    Keys that are used: case, light, predicted_dice and agreement (numbers as text, or ""), structure, reason, decision, reader, date,
    note, folder (of the result, whose report.html is linked; or "").
    """
    lights = [(name, sum(row["light"] == light for row in rows)) for light, name in STATES.items() if light]
    decided = sum(bool(row["decision"]) for row in rows)
    dice = {light: [float(row["predicted_dice"]) for row in rows if row["light"] == light and row["predicted_dice"]] for light in STATES}
    parts = [
        PRINT,
        heading(title, 1),
        facts([("cases", str(len(rows))), *((name, str(count)) for name, count in lights), ("decided", f"{decided} of {len(rows)}")]),
    ]
    if any(dice.values()):
        text = "Cases by the lowest predicted Dice of their structures"
        parts.append(picture(figures.draw_queue(dice), text, text, name="queue"))
    columns = ("Case", "Light", "Lowest predicted Dice", "Decision", "Why")
    text = "Worst first. Where no Dice was predicted, the bar in brackets is how far the samples agree (lowest mean Dice)."
    parts += [heading("Queue"), table(text, columns, [_queue_row(row) for row in rows])]
    return page(title, parts)


def _queue_row(row: Mapping[str, str]) -> list[str | Html]:
    case = Html(f'<a href="{escape(_address(row["folder"]))}">{escape(row["case"])}</a>') if row["folder"] else row["case"]
    decision = " ".join(part for part in (row["decision"], row["reader"] and f"by {row['reader']}", row["date"][:10]) if part)
    return [
        case,
        state(row["light"]),
        dice_bar(row),
        decision or MISSING,
        row["reason"] + (f" Note: {row['note']}" if row["note"] else ""),
    ]


def _address(folder: str) -> str:
    report = Path(folder) / "report.html"
    return report.as_uri() if report.is_absolute() else quote(report.as_posix())


# --- a training, and what was learned from controls


def training_page(
    histories: Sequence[Sequence[Mapping[str, float]]], card: Mapping[str, str], title: str = "Training of a segmentation model"
) -> str:
    """The curves of a training and the facts of the model card.

    histories: of each network the rows of its validations, {"step", "loss", "seconds", "score", "loss_validation", "dice" (mean),
    "dice <structure>"}; the weights that are kept are those with the highest score. card: title -> text.
    """
    best = [max(rows, key=lambda row: row["score"]) for rows in histories]
    names = [name for name in best[0] if name.startswith("dice ")]
    parts = [
        PRINT,
        heading(title, 1),
        facts(
            [
                ("networks", str(len(histories))),
                ("best at step", ", ".join(f"{row['step']:.0f}" for row in best)),
                *([("mean Dice there", ", ".join(f"{row['dice']:.3f}" for row in best))] if "dice" in best[0] else []),
                ("time", f"{sum(rows[-1]['seconds'] for rows in histories) / 60:.0f} min"),
            ]
        ),
        picture(
            figures.draw_training(histories),
            "Loss and Dice against the step",
            "Training loss (smoothed) and loss on held-out views; Dice on held-out views.",
            name="training",
        ),
    ]
    if names:
        heads = [f"network {k}" for k in range(1, len(best) + 1)] if len(best) > 1 else ["Dice"]
        lines = [[name.removeprefix("dice "), *(f"{row[name]:.3f}" for row in best)] for name in names]
        parts += [
            heading("Structures"),
            table("Dice on held-out views, best weights", ("Structure", *heads), lines, numbers=range(1, len(heads) + 1)),
        ]
    parts += [heading("Model card"), table("", ("Fact", ""), [[name, str(text)] for name, text in card.items()])]
    return page(title, parts)


def quality_page(quality: Mapping[str, Any], title: str = "What is normal for the model") -> str:
    """What was learned from labeled controls. quality: the content of quality.json (`dataclasses.asdict(Quality)`).

    Used are controls, coverage, measured, volumes, image, cutoffs, cases, and of calibration (may be empty): "before", "after"
    (tables of `calibration.reliability`), "ece_before", "ece_after" and "temperature".
    """
    parts = [PRINT, heading(title, 1), facts(_quality_facts(quality)), side_by_side(_quality_pictures(quality))]
    cut = quality["cutoffs"]
    ranges = {name: tuple(np.exp([m - cut["volume"] * s, m, m + cut["volume"] * s])) for name, (m, s) in quality["volumes"].items()}
    if ranges:
        text = f"Volumes that are normal: median of the controls (dot) and {cut['volume']:.1f} robust deviations to each side."
        parts += [
            heading("Normal volumes"),
            picture(figures.draw_ranges(ranges), "Normal volume of each structure in ml", text, name="volumes"),
        ]
    lines = [
        ["predicted Dice of every structure", f"{cut['dice']:.2f} or more"],
        ["distance from the training images", f"{cut['domain']:.2g} or less"],
    ]
    lines += [[f"volume of {name}, ml", f"{three_digits(low)} – {three_digits(high)}"] for name, (low, _, high) in ranges.items()]
    for name, (middle, spread) in quality["image"].items():
        low, high = max(0.0, middle - cut["image"] * spread), middle + cut["image"] * spread
        lines.append([IMAGE_FEATURES[name], f"{three_digits(low)} – {three_digits(high)}"])
    text = f"Cut-offs of the traffic light, from your {quality['controls']} controls; what lies outside must be looked at."
    return page(title, [*parts, heading("Cut-offs"), table(text, ("What", "Normal"), lines)])


def _quality_facts(quality: Mapping[str, Any]) -> list[tuple[str, str]]:
    table, measured = quality["calibration"], quality["measured"]
    found = [("controls", str(quality["controls"])), ("intervals hold", f"{100 * quality['coverage']:.0f} % of the cases")]
    names = {"mean_absolute_error": "mean error of predicted Dice", "correlation": "correlation with true Dice"}
    found += [(text, f"{measured[name]:.3f}") for name, text in names.items() if is_number(measured.get(name))]
    if "temperature" in table:
        found += [
            ("temperature", f"{table['temperature']:.2f}"),
            ("calibration error", f"{table['ece_before']:.4f} → {table['ece_after']:.4f}"),
        ]
    return found


def _quality_pictures(quality: Mapping[str, Any]) -> list[Html]:
    table, pairs = quality["calibration"], {}
    for case in quality["cases"]:
        for name, dice in case["dice"].items():
            if dice is not None and case["predicted"].get(name) is not None:
                pairs.setdefault(name, []).append((dice, case["predicted"][name]))
    found = []
    if pairs:
        text = "Predicted against true Dice; each control was left out when its own was predicted"
        found.append(picture(figures.draw_dice(pairs), text, text, name="dice"))
    if "before" in table:
        curves = {"before": table["before"], f"after, temperature {table['temperature']:.2f}": table["after"]}
        text = "Reliability: how often voxels of a confidence are right; below the line the model is too sure"
        found.append(picture(figures.draw_reliability(curves), text, text, name="reliability"))
    return found
