"""The model card of a federation: who trained the model, how, how good it is where, what it does not tell. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagingai import __version__
from imagingai.federated.config import ProjectConfig
from imagingai.federated.project import Project
from imagingai.federated.status import figure, size, snapshot
from imagingai.federated.store import RoundRow, Store, UpdateRow

PAPERS = {  # of the strategies, and of other settings that are not at their default
    "fedavg": "FedAvg: mean of the sites' weights by their cases (McMahan et al. 2017)",
    "equal": "FL-EV: every site has the same vote (Linardos et al. 2022)",
    "fedsgd": "FedSGD: one gradient step of all sites together (McMahan et al. 2017)",
    "fedprox": "FedProx: FedAvg with sites held to the shared model (Li et al. 2020, Federated optimization in heterogeneous networks)",
    "loss": "loss-weighted mean: sites with a high training loss weigh less (after Li et al. 2022)",
    "qfair": "q-FedAvg: sites where the model is bad count more (Li et al. 2020, Fair resource allocation in federated learning)",
    "outlier": "distance-based outlier suppression: updates far from all others lose their weight (Alkhunaizi et al. 2022)",
    "median": "coordinate-wise median (Yin et al. 2018)",
    "trimmed": "coordinate-wise trimmed mean (Yin et al. 2018)",
    "krum": "Krum: the update nearest to the others (Blanchard et al. 2017)",
}
PRIVATE = {
    "norm": "FedBN: the normalization layers stay at the sites (Li et al. 2021)",
    "statistics": "SiloBN: the statistics of the normalization layers stay at the sites (Andreux et al. 2020)",
    "head": "the last layers stay at the sites (Collins et al. 2021)",
}
MORE = {
    "fourier": "progressive Fourier aggregation (Chen et al. 2022)",
    "label_weighting": "FedSLD: classes weigh by the label distribution of all sites (Luo and Wu 2022)",
    "seconds": "semi-synchronous training (Stripelis et al. 2021)",
    "epsilon": "differential privacy by DP-SGD (Abadi et al. 2016, Opacus)",
    "secure_aggregation": "secure aggregation (SecAgg+, Bell et al. 2020)",
}
HOW = {
    "segmentation": "    imagingai segment --image patient.nii.gz --model model.safetensors --output result/",
    "": "    from pathlib import Path\n"
    "    from imagingai.federated.classifier import load_classifier, predict\n"
    '    rows = predict(load_classifier("model.safetensors"), {INPUTS})',
}
ALWAYS = ("strategy", "rounds", "epochs", "batch", "learning_rate", "optimizer", "augmentation", "held_out", "select", "seed")  # are shown
SHOWN = 200  # rounds


def model_card(project: Project, store: Store, facts: Mapping[str, str]) -> str:
    """The card as Markdown. facts: more lines of the coordinator (title -> text).

    The figures are those of the chosen round on the sites' held-out cases: each site measures it at the beginning of the next round.
    """
    config, found, rounds, updates = project.config, snapshot(store), store.rounds(), store.updates()
    chosen = found["chosen"] or found["done"]
    sections = {
        "Who trained it": [*_sites(updates, chosen, found["sites"]), *_labels(config, store)],
        "How good it is": [f"The model of round {chosen} on the held-out cases of the sites:", "", *_figures(*_measured(store, chosen))],
        "How it was trained": [*(f"- {text}" for text in methods(config)), "", *_settings(config)],
        "Rounds": _rounds(found, chosen),
        "What was left out": _left_out(updates),
        "Privacy": [f"- {text}" for text in _privacy(config, updates)],
        "Traffic": [f"{size(found['bytes_down'])} went to the sites and {size(found['bytes_up'])} came from them (weights)."],
        "Limits": [f"- {text}" for text in _limits(config, found["sites"])],
        "License": ["TO BE FILLED IN by the coordinator: who may use this model, for what, and whom to cite."],
        "How to use it": _use(config),
    }
    head = "\n".join([f"# {escape(config.name)}", "", *_what(project, rounds, chosen, facts), ""])
    return head + "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


def methods(config: ProjectConfig) -> list[str]:
    """What was used, with its paper."""
    found = [PAPERS[config.strategy], PRIVATE.get(config.private, "")]
    found += [text for name, text in MORE.items() if getattr(config, name)]
    found.append(
        "intensities harmonized to the average histogram of the sites (Nyul et al. 2000)" if config.harmonization == "nyul" else ""
    )
    return [text for text in found if text]


def escape(text: Any) -> str:
    """Text from outside: one line that makes neither markup nor another cell of a table."""
    line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)


def _what(project: Project, rounds: Sequence[RoundRow], chosen: int, facts: Mapping[str, str]) -> list[str]:
    config = project.config
    row = next((row for row in rounds if row.number == chosen), None)
    when = [time.strftime("%Y-%m-%d", time.gmtime(moment)) for moment in (rounds[0].started, rounds[-1].ended) if moment] if rounds else []
    lines = {
        "Purpose": config.purpose or "not stated",
        "Coordinator": config.coordinator or "not stated",
        "Task": f"{config.task}: {', '.join(config.classes) or config.target}",
        "Network": f"{config.model if config.task == 'segmentation' else ''} {config.size}, {config.dimension}-D".strip(),
        "Trained": f"{' to '.join(dict.fromkeys(when))}, by ImagingAI {__version__} on Flower" if when else "not yet",
        "Result": f"the model of round {chosen} of {config.rounds}, chosen as the {'best' if config.select == 'best' else 'last'}",
        "Settings agreed to (job, SHA-256)": project.job,
        "Shared weights (SHA-256)": row.sha256 if row else "none",
        **facts,
    }
    return [f"- {title}: {escape(text)}" for title, text in lines.items()]


def _sites(updates: Sequence[UpdateRow], chosen: int, sites: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who gave what: cases, rounds that counted, weight in the chosen round, epsilon that was spent."""
    rows = []
    for name in [site["name"] for site in sites]:
        counted = [row for row in updates if row.site == name and row.state == "counted"]
        if not counted:
            continue
        last, weight = counted[-1].metrics, next((row.weight for row in counted if row.round == chosen), None)
        epsilon = max((figure(row.metrics, "epsilon") or 0.0 for row in counted), default=0.0)
        cells = (figure(last, "num-examples"), figure(last, "held_out"), len(counted), weight, epsilon or None)
        rows.append([escape(name), *map(_number, cells)])
    return table(("Site", "Training cases", "Held-out cases", "Rounds counted", f"Weight in round {chosen}", "Epsilon spent"), rows)


def _labels(config: ProjectConfig, store: Store) -> list[str]:
    shares = store.get("survey", {}).get("label_distribution")
    if not shares:
        return ["", "The sites did not share how many cases they have of each class."] if config.classes else []
    text = ", ".join(f"{escape(name)} {share:.1%}" for name, share in zip(config.classes, shares, strict=True))
    return ["", f"Label distribution of all sites together: {text}."]


def _measured(store: Store, chosen: int) -> tuple[dict[str, Mapping[str, Any]], Mapping[str, float]]:
    """Figures of the model of a round: of each site (none with secure aggregation), and the mean of all."""
    after = next((row for row in store.rounds() if row.number == chosen + 1 and row.ended), None)
    if after is None:
        final = store.get("final", {"mean": {}, "sites": {}})
        return final["sites"], final["mean"]
    return {row.site: row.metrics for row in store.updates(chosen + 1) if row.state == "counted"}, after.metrics


def _figures(sites: Mapping[str, Mapping[str, Any]], means: Mapping[str, float]) -> list[str]:
    names = sorted(name for name in means if name.endswith("_before"))
    if not names:
        return ["It was not measured."]
    rows = [(escape(site), row) for site, row in sites.items() if figure(row, names[0]) is not None]
    cells = [[site, *(_number(figure(row, name)) for name in names)] for site, row in [*rows, ("mean, weighted by cases", means)]]
    return table(("Site", *(name.removesuffix("_before") for name in names)), cells)


def _settings(config: ProjectConfig) -> list[str]:
    default, rows = vars(ProjectConfig()), []
    for name, value in vars(config).items():
        if value != default[name] or name in ALWAYS:
            rows.append([name, escape(", ".join(map(str, value)) if isinstance(value, tuple) else value)])
    return [f"All other settings are the defaults of ImagingAI {__version__}:", "", *table(("Setting", "Value"), rows)]


def _rounds(found: Mapping[str, Any], chosen: int) -> list[str]:
    score, loss = (dict(map(tuple, found[name])) for name in ("score", "loss"))
    rows = []
    for row in found["history"][-SHOWN:]:
        number, states = row["number"], [update["state"] for update in row["sites"].values()]
        cells = (score.get(number), loss.get(number), states.count("counted"), len(states) - states.count("counted"), row["seconds"])
        rows.append([f"**{number}**" if number == chosen else str(number), *map(_number, cells)])
    return table(("Round", "Score of its model", "Loss", "Sites counted", "Left out", "Seconds"), rows)


def _left_out(updates: Sequence[UpdateRow]) -> list[str]:
    out = [f"- round {row.round}, {escape(row.site)}: {row.state}: {escape(row.reason)}" for row in updates if row.state != "counted"]
    return [*out[:SHOWN], *([f"- and {len(out) - SHOWN} more"] if len(out) > SHOWN else [])] or ["Nothing."]


def _privacy(config: ProjectConfig, updates: Iterable[UpdateRow]) -> list[str]:
    spent = max((figure(row.metrics, "epsilon") or 0.0 for row in updates), default=0.0)
    lines = ["Images, labels and tables never left the sites; numbers of cases, losses and scores of every round did."]
    if config.epsilon:
        bound = f"epsilon {spent:.3g} of at most {config.epsilon:g} (delta {config.delta:g})"
        lines.append(f"Differential privacy: {bound} for one case and the weights of all rounds; numbers, losses and scores have no noise.")
    else:
        lines.append("No differential privacy: whoever has the model or an update may be able to tell that a case was in the training.")
    if config.secure_aggregation:
        return [*lines, "Secure aggregation: the aggregator saw only the sum of the updates."]
    return [*lines, "No secure aggregation: the aggregator saw the update of each site."]


def _limits(config: ProjectConfig, sites: Sequence[Mapping[str, Any]]) -> list[str]:
    counted = sum(site["examples"] is not None for site in sites)
    lines = [f"Measured only on held-out cases of the {counted} sites that trained it: other scanners, protocols and patients may differ."]
    if config.select == "best":
        lines.append("The round was chosen by these same cases, so that the figures are slightly too good.")
    if config.private != "none":
        lines.append("Layers stayed at the sites: no complete shared model exists, and each site was measured with its own.")
    return [*lines, "For research. It is not a medical device."]


def _use(config: ProjectConfig) -> list[str]:
    if config.private != "none":
        return ["Each site uses its own personal.safetensors, as below with that name.", "", *_how(config)]
    return _how(config)


def _how(config: ProjectConfig) -> list[str]:
    inputs = '"images": Path("images/")' if "image" in config.task else '"table": Path("table.csv")'
    return [HOW.get(config.task, HOW[""]).replace("INPUTS", inputs)]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def _number(value: float | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
