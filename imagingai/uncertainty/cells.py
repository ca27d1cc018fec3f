"""Tables of the pages: what the cells say of volumes, Dice and the border band, as numbers and as small drawings."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from imagingai.pictures import structure_color
from imagingai.report import Html, fold_out, heading, key, table
from imagingai.uncertainty.figures import LIGHT_COLORS

if TYPE_CHECKING:
    from imagingai.uncertainty.segment import Segmentation

MISSING = "–"
ON_PAPER = 16  # structures in the printed table of a case


def structures_table(segmentation: Segmentation, values: Mapping[str, Any]) -> list[Html]:
    """The table of structures; those beyond `ON_PAPER` are folded out."""
    names = segmentation.classes[1:]
    parts = {name: values.get(name) or {} for name in ("volumes", "border_band", "rca")}
    parts["predicted"] = (values.get("quality") or {}).get("predicted_dice") or {}
    parts["measured"] = (values.get("measured") or {}).get("dice") or {}
    level = next((volume["level"] for volume in parts["volumes"].values()), None)
    interval = "Interval" if level is None else f"{100 * level:.0f} % interval"
    unit = next((volume.get("unit", "ml") for volume in parts["volumes"].values()), "ml")
    heads = {"volumes": (f"Volume, {unit}", interval, "−50 % … +50 %"), "border_band": ("Border band, mm", "95 %"),
             "predicted": ("Predicted Dice", "from – to"), "rca": ("Dice by RCA",), "measured": ("Measured Dice",)}  # fmt: skip
    heads = {name: head for name, head in heads.items() if parts[name]}
    columns = ["Structure", *(column for head in heads.values() for column in head)]
    rows = [[_named(k, name), *(cell for head in heads for cell in CELLS[head](parts[head].get(name)))] for k, name in enumerate(names, 1)]
    numbers = range(1, len(columns))
    shown = [heading("Structures"), table("", columns, rows[:ON_PAPER], numbers=numbers)]
    rest = rows[ON_PAPER:]
    return [*shown, fold_out(f"{len(rest)} more structures", table("", columns, rest, numbers=numbers))] if rest else shown


def _named(number: int, name: str) -> Html:
    return key(structure_color(number), name)


def _volume_cells(volume: Mapping[str, Any] | None) -> list[str | Html]:
    if not volume:
        return [MISSING] * 3
    return [
        three_digits(volume["ml"]),
        f"{three_digits(volume['low'])} – {three_digits(volume['high'])}",
        whisker(volume["low"], volume["ml"], volume["high"]),
    ]


def _band_cells(band: Mapping[str, float] | None) -> list[str | Html]:
    return [f"{band['mean_mm']:.1f}", f"{band['p95_mm']:.1f}"] if band else [MISSING] * 2


def _predicted_cells(dice: Mapping[str, float] | None) -> list[str | Html]:
    return [f"{dice['dice']:.2f}", f"{dice['low']:.2f} – {dice['high']:.2f}"] if dice else [MISSING] * 2


def _dice_cell(dice: float | None) -> list[str | Html]:
    return [f"{dice:.3f}" if is_number(dice) else MISSING]


CELLS = {"volumes": _volume_cells, "border_band": _band_cells, "predicted": _predicted_cells, "rca": _dice_cell, "measured": _dice_cell}


def whisker(low: float, value: float, high: float) -> Html:
    """A dot with whiskers, relative to the value, from -50 % to +50 %; what reaches farther ends in an arrow."""
    if not value:
        return Html("")
    ends = [100 * (end / value - 1) for end in (low, high)]
    left, right = (min(max(60 + end, 10.0), 110.0) for end in ends)
    arrows = "".join(
        f'<path d="M{x} 3l{step} 4l{-step} 4" fill="none" stroke="currentColor"/>'
        for end, x, step in ((ends[0], 10, -6), (ends[1], 110, 6))
        if abs(end) > 50
    )
    return Html(
        f'<svg width="120" height="14" role="img" aria-label="{ends[0]:+.0f} % to {ends[1]:+.0f} %"><path d="M60 0v14" stroke="#8a939e" '
        f'stroke-dasharray="2 2"/><path d="M{left:.1f} 7H{right:.1f}" stroke="currentColor" stroke-width="2"/>'
        f'<circle cx="60" cy="7" r="3.5" fill="currentColor"/>{arrows}</svg>'
    )


def three_digits(number: float) -> str:
    """Three significant digits without an exponent."""
    if number and abs(number) < 0.001:
        return "< 0.001"
    return f"{number:.0f}" if abs(number) >= 99.95 or not number else f"{number:#.3g}"


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not missing."""
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def dice_bar(row: Mapping[str, str]) -> str | Html:
    """A bar from 0 to 1 in the color of the light, the number and the structure."""
    number = row["predicted_dice"] or row["agreement"]
    if not number:
        return MISSING
    text = f"{float(number):.2f}" if row["predicted_dice"] else f"({float(number):.2f})"
    bar = f'<rect width="{84 * float(number):.0f}" height="10" fill="{LIGHT_COLORS[row["light"]]}"/>'
    drawn = f'<svg width="84" height="10" aria-hidden="true"><rect width="84" height="10" fill="#d8dee4"/>{bar}</svg>'
    return Html(f'<span class="named">{drawn} {text}</span><br>{escape(row["structure"])}')
