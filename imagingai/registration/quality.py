"""The numbers of a registration in words: what each metric means, whether it looks right, a table for the terminal.

`metrics` is a dictionary; what is missing is left out, what is not known here is shown under its own name:
dice, hd95 and dice_before, hd95_before (each {label: value}), tre and tre_before ({"mean": ...} or a number, mm), sdlogj,
folding_percent, inverse_consistency ({"mean", ...}, mm), seconds, cpu_seconds, peak_memory_mb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Metrics = Mapping[str, Any]
RUN = ("seconds", "cpu_seconds", "peak_memory_mb")  # how it ran, not how good it is
MISSING = "-"


@dataclass(frozen=True)
class Meaning:
    """How a metric is shown. judge(before, after) -> (good, look or bad; remark)."""

    name: str
    text: str
    format: Callable[[float], str]
    judge: Callable[[float | None, float], tuple[str, str]] = lambda before, after: ("", "")


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


def _percent(value: float) -> str:
    return "0 %" if value == 0 else f"{value:.2g} %" if value < 0.1 else f"{value:.2f} %"


def _better(up: bool, margin: float, what: str) -> Callable[[float | None, float], tuple[str, str]]:
    def judge(before: float | None, after: float) -> tuple[str, str]:
        if before is None:
            return "", ""
        gain = after - before if up else before - after
        return ("good", "") if gain > margin else ("look", f"{what} hardly changed.") if gain > -margin else ("bad", f"{what} got worse.")

    return judge


def _limits(look: float, bad: float, remark: str) -> Callable[[float | None, float], tuple[str, str]]:
    return lambda before, after: ("good", "") if after <= look else ("look" if after <= bad else "bad", remark)


MEANINGS = {
    "dice": Meaning(
        "Dice, mean", "Overlap of the structures: 1 is perfect, 0 is none.", "{:.3f}".format, _better(True, 0.002, "The overlap")
    ),
    "hd95": Meaning(
        "HD95, mean", "Distance of the structures' surfaces, the worst 5 % left out.", _mm, _better(False, 0.05, "The distance")
    ),
    "tre": Meaning("Landmark error (TRE)", "Distance of corresponding landmarks.", _mm, _better(False, 0.05, "The landmark error")),
    "sdlogj": Meaning(
        "Roughness (SDlogJ)",
        "Spread of the local change of volume (standard deviation of log J): 0 is rigid, lower is smoother.",
        "{:.3f}".format,
        _limits(0.6, 1.0, "A rough deformation; a smoother preset or more smoothing may be more plausible."),
    ),
    "folding_percent": Meaning(
        "Folding",
        "Voxels where the map turns space inside out (J at or below 0).",
        _percent,
        _limits(0.0, 0.1, "Tissue cannot fold. See where in the Jacobian map; a smoother preset avoids it."),
    ),
    "inverse_consistency": Meaning(
        "Inverse consistency",
        "Mean distance from where a point started after going there and back.",
        _mm,
        _limits(0.5, 2.0, "The inverse is not exact; use it with care."),
    ),
    "seconds": Meaning("time", "", "{:.1f} s".format),
    "cpu_seconds": Meaning("CPU time", "", "{:.1f} s".format),
    "peak_memory_mb": Meaning("peak memory", "", "{:.0f} MB".format),
}


def rows(metrics: Metrics) -> list[tuple[str, Meaning, float | None, float]]:
    """The metrics about quality: (key, meaning, before, after), structures averaged; unknown ones last."""
    names = [name for name in MEANINGS if name in metrics and name not in RUN]
    names += [name for name in metrics if name not in MEANINGS and not name.endswith("_before")]
    found = []
    for name in names:
        after, before = _mean(metrics[name]), _mean(metrics.get(f"{name}_before"))
        if after is not None:
            found.append((name, MEANINGS.get(name, Meaning(name.replace("_", " "), "", "{:.4g}".format)), before, after))
    return found


def structures(metrics: Metrics, names: Mapping[int, str]) -> list[tuple[str, list[float | None]]]:
    """(name, [dice before, after, HD95 before, after]) of each structure, and last their mean; empty without labels."""
    columns = [metrics.get(column) or {} for column in ("dice_before", "dice", "hd95_before", "hd95")]
    values = list(dict.fromkeys(label for column in columns[1::2] for label in column))
    found = [(names.get(int(label), f"label {label}"), [_number(column.get(label)) for column in columns]) for label in values]
    if found:
        found.append((f"mean of {len(found)}", [_mean(column) for column in columns]))
    return found


def losses(metrics: Metrics, names: Mapping[int, str], margin: float = 0.02) -> list[str]:
    """The structures whose Dice went down by more than the margin."""
    found = structures(metrics, names)[:-1]
    return [name for name, (before, after, *_) in found if before is not None and after is not None and after < before - margin]


def table_text(metrics: Metrics, label_names: Mapping[int, str] | None = None) -> str:
    """The metrics as text for a terminal."""
    lines, found = [], structures(metrics, label_names or {})
    if found:
        width = max(len(name) for name, _ in found) + 2
        lines.append(
            f"{'':{width}}{'Dice before':>12}{'after':>8}{'change':>9}" + (f"{'HD95 before':>14}{'after':>9}" if "hd95" in metrics else "")
        )
        for name, (dice_before, dice, hd95_before, hd95) in found:
            change = None if dice is None or dice_before is None else dice - dice_before
            line = f"{name:{width}}{show('{:.3f}', dice_before):>12}{show('{:.3f}', dice):>8}{show('{:+.3f}', change):>9}"
            lines.append(line + (f"{show('{:.2f} mm', hd95_before):>14}{show('{:.2f} mm', hd95):>9}" if "hd95" in metrics else ""))
        lines.append("")
    scalars = [
        (m.name, m.format(after) if before is None else f"{m.format(before)} -> {m.format(after)}")
        for key, m, before, after in rows(metrics)
        if key not in ("dice", "hd95")
    ]
    scalars += [(MEANINGS[name].name, MEANINGS[name].format(metrics[name])) for name in RUN if metrics.get(name) is not None]
    return "\n".join([*lines, *(f"{name:28}{value}" for name, value in scalars)]) + "\n"


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _mean(value: Any) -> float | None:
    """A number as it is, the entry `mean` of a summary, or the mean over the structures."""
    if isinstance(value, Mapping):
        numbers = [number for number in map(_number, [value["mean"]] if "mean" in value else value.values()) if number is not None]
        return float(np.mean(numbers)) if numbers else None
    return _number(value) if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else None


def show(form: str, value: float | None) -> str:
    """A number, or a dash where there is none."""
    return MISSING if value is None else form.format(value)
