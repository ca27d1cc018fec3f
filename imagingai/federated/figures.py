"""Charts of federated training: curves of a site, counts and histograms of its data, methods beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from imagingai.pictures import structure_color
from imagingai.uncertainty.figures import INK, LINE, chart, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "osD^v<>P*X"


def draw_history(history: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]]) -> Figure:
    """Loss and score against the round; in a round the model of the round before is measured. A mark for the model of the site's own."""
    figure, (left, right) = chart(2)
    trained = [row for row in history if "loss" in row]
    left.plot([row["round"] for row in trained], [row["loss"] for row in trained], color="#d9480f", marker=".", label="training here")
    for axes, name in ((left, "loss"), (right, "score")):
        points = [(row["round"] - 1, row[f"{name}_before"]) for row in history if f"{name}_before" in row]
        axes.plot(*zip(*points, strict=True) if points else ([], []), color=INK, lw=2.2, marker=".", label="shared model")
        if name in figures.get("personal", {}):
            axes.plot(max(row["round"] for row in history), figures["personal"][name], "D", color="#1971c2", label="own model")
        axes.xaxis.get_major_locator().set_params(integer=True)
        label(axes, "round", name)
    return figure


def draw_counts(counts: Mapping[str, int], unit: str) -> Figure:
    """A bar per class, with its number."""
    figure, (axes,) = chart(height=1.2 + 0.34 * len(counts), width=4.4)
    bars = axes.barh(list(counts), list(counts.values()), color=[structure_color(k) for k in range(1, len(counts) + 1)])
    axes.bar_label(bars, [f"{count:,}" for count in counts.values()], padding=3, color=INK, fontsize=9)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    label(axes, unit, "", legend=False)
    return figure


def draw_histogram(histogram: Mapping[str, Any], name: str) -> Figure:
    """A histogram that is there already: edges (n + 1), shares (n)."""
    figure, (axes,) = chart(height=3, width=4.4)
    axes.stairs(histogram["shares"], histogram["edges"], fill=True, color="#1971c2", alpha=0.75)
    label(axes, name, "share", legend=False)
    return figure


def draw_spacing(spacing: Sequence[Sequence[float]], wanted: Sequence[float]) -> Figure:
    """Spacing of each image along x, y, z in mm, and that of the project."""
    figure, (axes,) = chart(height=3, width=4.4)
    for k, name in enumerate("xyz"[: len(spacing[0])]):
        near = [k + 0.5 * (n / max(1, len(spacing) - 1) - 0.5) for n in range(len(spacing))]
        axes.plot(near, [row[k] for row in spacing], "o", ms=4, color=structure_color(k + 1), alpha=0.7, label=name)
        if k < len(wanted):
            axes.hlines(wanted[k], k - 0.4, k + 0.4, color=INK, lw=1.6)
    axes.set(xticks=range(len(spacing[0])), xticklabels="xyz"[: len(spacing[0])])
    axes.set_ylim(bottom=0)
    label(axes, "axis of the image", "spacing, mm", legend=False)
    return figure


def draw_methods(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], sites: Sequence[str], name: str) -> Figure:
    """A dot with an error bar for each method at each site."""
    figure, (axes,) = chart(height=3.8)
    for k, method in enumerate(methods):
        found = [values_of(rows, method, site, name) for site in sites]
        at = [n + 0.7 * ((k + 0.5) / len(methods) - 0.5) for n, values in enumerate(found) if values]
        bars = [stdev(values) if len(values) > 1 else 0.0 for values in found if values]
        middle = [mean(values) for values in found if values]
        axes.errorbar(
            at, middle, bars, fmt=MARKS[k % len(MARKS)], ms=6, capsize=3, color=structure_color(k + 1), mec=INK, mew=0.4, label=method
        )
    axes.set(xticks=range(len(sites)), xticklabels=sites, xlim=(-0.5, len(sites) - 0.5))
    axes.vlines([n + 0.5 for n in range(len(sites) - 1)], 0, 1, transform=axes.get_xaxis_transform(), color=LINE)
    axes.grid(axis="x", visible=False)
    label(axes, "site", name)
    return figure


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Mean score against the round, a line per federation."""
    figure, (axes,) = chart(height=3.2)
    for k, (name, points) in enumerate(curves.items(), 1):
        axes.plot(*zip(*points, strict=True), marker=".", color=structure_color(k), label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    label(axes, "round", "score")
    return figure


def values_of(rows: Sequence[Mapping[str, Any]], method: str, site: str, name: str) -> list[float]:
    """A figure of a method at a site: one for each seed and place of training."""
    return [row[name] for row in rows if row["method"] == method and row["site"] == site and math.isfinite(row.get(name, math.nan))]
