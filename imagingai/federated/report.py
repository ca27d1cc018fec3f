"""The pages of federated training: what a site took part in, its data check, and a comparison of methods over sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from imagingai.federated import figures
from imagingai.federated.audit import read_audit, verify
from imagingai.federated.config import ProjectConfig
from imagingai.federated.status import size
from imagingai.report import Html, facts, fold_out, heading, join, page, paragraph, picture, settings_table, side_by_side, state, table

NAMES = {"auc": "AUC", "mae": "Mean absolute error", "r2": "R²", "score": "Score (higher is better)", "loss": "Loss (lower is better)"}
MODELS = {"global": "shared", "personal": "own"}
ON_PAPER = 30  # rows of a table that are not folded out
PRIVATE = {
    "none": "nothing",
    "norm": "the normalization layers",
    "statistics": "the statistics of the normalization layers",
    "head": "the last layers",
}


# --- what a site took part in


def site_page(found: Mapping[str, Any], audit: Path) -> str:
    """The page of a join. found: federation, site, rounds, history (rows of history.json: figures of the shared model that came, with
    the suffix _before, and of the local training), figures {"global": ..., "personal": ...} on the held-out cases, project (settings).
    """
    rows, history = read_audit(audit), found["history"]
    sent, received = ([row for row in rows if row["event"] == event] for event in ("sent", "received"))
    trained = [row for row in history if "loss" in row]
    boxes = [
        ("rounds", f"{len(trained)} of {found['rounds']}"),
        *([("cases to learn from", str(history[-1]["num-examples"]))] if history and "num-examples" in history[-1] else []),
        ("sent", size(sum(row["bytes"] for row in sent))),
        ("received", size(sum(row["bytes"] for row in received))),
        *[(f"score of the {MODELS[name]} model", _number(model["score"])) for name, model in found["figures"].items() if "score" in model],
    ]
    parts = [heading(found["federation"], 1), paragraph(f"How {found['site']} took part in this federation.", soft=True), facts(boxes)]
    if history:
        text = "Left: mean loss while training here, and loss of the shared model. Right: score of the shared model. Both on this site's "
        text += "held-out cases, before it trained; round 0 is the start."
        parts += [
            heading("Curves"),
            picture(figures.draw_history(history, found["figures"]), "Loss and score against the round", text, name="curves"),
        ]
    parts += [heading("The models on this site's held-out cases"), _models_table(found["figures"])]
    parts += [*_exchanges(rows, audit), heading("Privacy"), _privacy_table(found["project"], history), *settings_table(found["project"])]
    return page(f"{found['federation']}: {found['site']}", parts)


def _models_table(models: Mapping[str, Mapping[str, float]]) -> Html:
    shared, own = models.get("global", {}), models.get("personal", {})
    lines = []
    for name in dict.fromkeys([*shared, *own]):
        line = [_name(name), *(_number(model.get(name)) for model in ([shared, own] if own else [shared]))]
        both = name in shared and name in own
        lines.append([*line, *([f"{own[name] - shared[name]:+.3f}" if both else "–"] if own else [])])
    columns = ["Figure", "Shared model", *(["Own model", "Difference"] if own else [])]
    text = "Own: the shared model with what stays here (private layers, further training)." if own else ""
    return table(text, columns, lines, numbers=range(1, len(columns)))


def _exchanges(rows: Sequence[Mapping[str, Any]], audit: Path) -> list[Html]:
    """What left the site and what came: tables from the audit log, and whether the log is whole."""
    verdict = verify(audit)
    sign = state("bad" if verdict.broken else "good")
    parts = [heading("What left this site"), paragraph(join(sign, f" {verdict}"))]
    columns = ("Time (UTC)", "Round", "For", "Size", "SHA-256", "Figures")
    lines = [
        [
            _time(row),
            str(row["round"]),
            row["kind"],
            size(row["bytes"]),
            row["sha256"][:16],
            _told(row),
        ]
        for row in rows
        if row["event"] == "sent"
    ]
    parts += _long_table("Everything that was sent: weights (numbers only) and the figures in the last column.", columns, lines, (1, 3))
    refused = [[_time(row), str(row["round"]), row["kind"], row["reason"]] for row in rows if row["event"] == "refused"]
    if refused:
        parts += _long_table("Asked for, and refused by this site", ("Time (UTC)", "Round", "For", "Why"), refused, (1,))
    came = [
        [_time(row), str(row["round"]), row["kind"], size(row["bytes"]), row["sha256"][:16]] for row in rows if row["event"] == "received"
    ]
    columns = ("Time (UTC)", "Round", "For", "Size", "SHA-256")
    return [*parts, fold_out(f"What came: {len(came)} messages", table("", columns, came, numbers=(1, 3)))]


def _long_table(caption: str, columns: Sequence[str], lines: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[Html]:
    parts = [table(caption, columns, lines[:ON_PAPER], numbers=numbers)]
    rest = lines[ON_PAPER:]
    return [*parts, fold_out(f"{len(rest)} more", table("", columns, rest, numbers=numbers))] if rest else parts


def _told(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in row.get("figures", {}).items())


def _privacy_table(project: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> Html:
    spent = max((row.get("epsilon", 0.0) for row in history), default=0.0)
    bound = f"epsilon {spent:.3g} spent of {project['epsilon']:g} (delta {project['delta']:g}), for the weights of all rounds together"
    lines = [
        ["Differential privacy", bound if project["epsilon"] else "none: who has this site's weights may learn about single cases"],
        [
            "Secure aggregation",
            "on: the aggregator saw only sums" if project["secure_aggregation"] else "off: the aggregator saw this site's weights",
        ],
        ["Layers that stayed here", PRIVATE[project["private"]]],
        ["Numbers were sent as", project["exchange"]],
    ]
    return table("", ("What", ""), lines)


# --- the data check


def check_page(found: Mapping[str, Any]) -> str:
    """The page of a data check.

    found: verdict (good, look, bad), problems (sentences), rows [(what, value)], labels {class: count} with label_unit (cases, voxels),
    intensities and features {column: ...} (edges, shares: histograms), spacing [mm of each case], project_spacing, cases [{case, state,
    reason}]; all but the first three may be missing or empty.
    """
    words = {
        "good": "The data fits the project.",
        "look": "The data can be used; look at this first.",
        "bad": "The data cannot be used as it is.",
    }
    parts = [heading("Data check", 1), paragraph(join(state(found["verdict"]), f" {words[found['verdict']]}"))]
    odd = [row for row in found.get("cases", ()) if row["state"] != "good"]
    reasons = {row["reason"] for row in odd}
    problems = [f"{len(odd)} cases do not fit; the reasons are below."] if odd else []
    problems += [problem for problem in found["problems"] if problem not in reasons]
    if problems:
        parts.append(Html("<ul>" + "".join(f"<li>{paragraph(problem).text}</li>" for problem in problems) + "</ul>"))
    parts += [table("", ("What", "Found"), [[what, str(value)] for what, value in found["rows"]])]
    pictures = []
    if found.get("labels"):
        text = f"{found['label_unit']} of each class".capitalize()
        pictures.append(picture(figures.draw_counts(found["labels"], found["label_unit"]), text, f"{text}.", name="labels"))
    histograms = {"intensity": found.get("intensities"), **found.get("features", {})}
    for name, histogram in histograms.items():
        if histogram:
            figure = figures.draw_histogram(histogram, " ".join(filter(None, (name, histogram.get("unit")))))
            pictures.append(picture(figure, f"Histogram of {name}", f"All values of {name}."))
    if found.get("spacing"):
        text = "Size of the voxels, a dot per image; the line is what the project works at."
        pictures.append(
            picture(figures.draw_spacing(found["spacing"], found.get("project_spacing", ())), "Spacing of the images", text, name="spacing")
        )
    parts += [heading("Distributions"), side_by_side(pictures)] if pictures else []
    if odd:
        lines = [[row["case"], state(row["state"]), row["reason"]] for row in odd]
        parts += [heading("Cases that do not fit"), *_long_table("", ("Case", "", "Why"), lines, ())]
    if good := [row["case"] for row in found.get("cases", ()) if row["state"] == "good"]:
        parts.append(fold_out(f"{len(good)} cases fit", paragraph(", ".join(good))))
    return page("Data check", parts)


# --- a simulation


def simulation_page(
    rows: Sequence[Mapping[str, Any]], config: ProjectConfig, title: str, curves: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> str:
    """Methods beside each other at each site. rows: method, trained_at, site, seed (if there are several) and figures of the model.

    curves: name -> [round, mean score of the sites] of federations, if they are shown.
    """
    methods, sites = (list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "site"))
    seeds = len({row.get("seed") for row in rows})
    names = [name for name in rows[0] if isinstance(rows[0][name], float)]
    names.sort(key=lambda name: (name != "score", name == "loss"))
    text = f"{config.rounds} rounds of {config.epochs:g} epochs; {seeds} seed{'s' * (seeds > 1)}, {len(sites)} sites."
    parts = [heading(title, 1), paragraph(text, soft=True)]
    several = any(len(figures.values_of(rows, method, site, "score")) > 1 for method in methods for site in sites)
    caption = "Mean ± standard deviation over seeds and places of training" if several else "One run"
    parts.append(picture(figures.draw_methods(rows, methods, sites, "score"), "Score of each method at each site", caption, name="methods"))
    if curves:
        parts.append(picture(figures.draw_curves(curves), "Score against the round", "Mean over the sites' held-out cases.", name="curves"))
    for name in names:
        lines = [[method, *_cells(rows, method, sites, name)] for method in methods]
        parts += [
            heading(_name(name)),
            table(caption, ("Method", *sites, "all sites"), lines, numbers=range(1, len(sites) + 2)),
        ]
    return page(title, [*parts, *settings_table(vars(config))])


def _cells(rows: Sequence[Mapping[str, Any]], method: str, sites: Sequence[str], name: str) -> list[str]:
    """Of each site, and of the mean of the sites (every site counts the same)."""
    found = [figures.values_of(rows, method, site, name) for site in sites]
    means = [mean(values) for values in found if values]
    return [*(_mean_and_deviation(values) for values in found), _number(mean(means)) if means else "–"]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


# --- words


def _name(figure: str) -> str:
    return NAMES.get(figure, figure[:1].upper() + figure[1:])


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return f"({len(value)} numbers)"
    return "–" if value is None else str(value)


def _time(row: Mapping[str, Any]) -> Html:
    return Html(f'<span class="named">{datetime.fromisoformat(row["time"]):%Y-%m-%d %H:%M:%S}</span>')
