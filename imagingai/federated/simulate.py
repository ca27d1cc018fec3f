"""A federation in this process, without sockets: the same sites, strategies and round loop as with a network. For research."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.grid import LocalGrid
from imagingai.federated.learner import Learner, build_network, open_learner
from imagingai.federated.member import Member
from imagingai.federated.nyul import average_histogram
from imagingai.federated.rounds import Rounds
from imagingai.federated.site import Site
from imagingai.federated.store import Store
from imagingai.job import Report, ignore, part

Data = Mapping[str, Path]  # images, labels, table
Figures = dict[str, float]


@dataclass
class Outcome:
    """What a federation ended with: shared weights of the chosen round, the sites (with their networks and data), and its store."""

    weights: dict[str, Tensor]
    sites: dict[str, Site]
    store: Store

    def figures(self) -> dict[str, Figures]:
        """site -> figures of the global model on its held-out cases."""
        return {name: site.handle("evaluate", self.weights, {"server-round": site.config.rounds})[1] for name, site in self.sites.items()}


def federate(
    config: ProjectConfig,
    sites: Mapping[str, Callable[[list[float] | None], Learner]],
    folder: Path,
    device: str = "cpu",
    report: Report = ignore,
) -> Outcome:
    """Run a federation. sites: name -> how its data is opened (as for `Site`); folder: gets its state.

    Goes on where an earlier call in the same folder stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, min_sites=min(config.min_sites, len(sites)))
    members = {name: Site(config, open_data, folder / "sites" / name, device) for name, open_data in sorted(sites.items())}
    nodes = dict(enumerate(members, start=1))
    grid = LocalGrid({node: Member(members[name]).answer for node, name in nodes.items()})
    store = Store(folder / "federation.db")
    for name in members:
        if name not in [row.name for row in store.sites()]:
            store.add_site(name, f"simulated {name}", "", 0.0)
    network = build_network(config)
    shapes = next(iter(members.values())).shapes
    initial = {name: value for name, value in network.state_dict().items() if name in shapes}

    def tick() -> None:
        done = store.get("round", 0)
        report(done / config.rounds, f"Round {done} of {config.rounds}")

    weights = Rounds(config, grid, store, folder, initial, shapes, lambda: nodes, tick, poll=0.0).run()
    return Outcome(weights, members, store)


class Pooled:
    """The learners of several sites as one, as if all data were in one place (mix)."""

    def __init__(self, learners: list[Learner]) -> None:
        self.learners, self.network = learners, learners[0].network
        self.places = [(learner, k) for learner in learners for k in range(learner.examples)]
        self.examples, self.held_out = len(self.places), sum(learner.held_out for learner in learners)
        self.labels = {name: sum(learner.labels[name] for learner in learners) for name in learners[0].labels}

    def example(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        learner, k = self.places[index]
        return learner.example(k, seed)

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.learners[0].loss(network, inputs, targets, weights)

    def evaluate(self, network: nn.Module) -> Figures:
        """Means of the sites' figures, weighted by their cases."""
        rows = [(learner.evaluate(network), learner.examples) for learner in self.learners]
        names = [name for name in rows[0][0] if all(name in row for row, _ in rows)]  # a site without cases of a class has no AUC
        return {name: sum(row[name] * n for row, n in rows) / self.examples for name in names}

    def histogram(self) -> list[float]:
        return average_histogram([(learner.histogram(), learner.examples) for learner in self.learners])

    def save(self, path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
        self.learners[0].save(path, network, facts)


def compare(
    config: ProjectConfig,
    data: Mapping[str, Data],
    methods: tuple[str, ...],
    folder: Path,
    *,
    leave_out: str = "",
    device: str = "cpu",
    report: Report = ignore,
) -> list[dict[str, Any]]:
    """Train by `methods` (federated, single, cross, mix) and measure each model at each site: rows of method, trained_at, site, figures.

    single, cross and mix train as long as the federation (rounds x epochs), with FedAvg at one site, which is local training.
    leave_out: a site that only measures, with all of its cases. The data is the same for all methods, as are its held-out cases.
    """
    if leave_out and len(data) < 3:
        raise InputError(f"To leave a site out, at least 3 are needed, and there are {len(data)}.")
    training = [name for name in data if name != leave_out]
    strategy = "fedprox" if config.strategy == "fedprox" and config.rounds == 1 else "fedavg"
    alone = replace(config, strategy=strategy, min_sites=1, secure_aggregation=False)  # nobody to hide from
    runs: list[tuple[str, str, ProjectConfig, dict[str, Callable]]] = []
    openers = {name: partial(_open, config, data[name]) for name in training}
    if "federated" in methods:
        runs.append(("federated", "all", config, openers))
    if {"single", "cross"} & set(methods):
        runs += [("single", name, alone, {name: openers[name]}) for name in training]
    if "mix" in methods:
        pooled = lambda histogram: Pooled([openers[name](histogram) for name in training])  # noqa: E731
        runs.append(("mix", "all", alone, {"mix": pooled}))
    rows = []
    for number, (method, trained_at, settings, members) in enumerate(runs):
        step = part(report, number / len(runs), (number + 1) / len(runs))
        outcome = federate(settings, members, folder / f"{method}-{trained_at}", device, step)
        rows += _measure(outcome, method, trained_at, config, data, leave_out, methods)
    return rows


def _open(config: ProjectConfig, data: Data, histogram: list[float] | None) -> Learner:
    return open_learner(config, data, histogram=histogram)


def _measure(
    outcome: Outcome,
    method: str,
    trained_at: str,
    config: ProjectConfig,
    data: Mapping[str, Data],
    leave_out: str,
    methods: tuple[str, ...],
) -> list[dict[str, Any]]:
    """The model of a run at each site: on the held-out cases, or on all cases of the site that was left out."""
    histogram = outcome.store.get("survey", {}).get("histogram")
    rows = []
    for name in [leave_out] if leave_out else data:
        label = "cross" if method == "single" and name != trained_at else method
        if label not in methods:
            continue
        if name in outcome.sites:
            site = outcome.sites[name]
            figures = {
                key.removesuffix("_before"): value
                for key, value in site.handle("evaluate", outcome.weights, {"server-round": 1})[1].items()
            }
        else:
            settings = replace(config, held_out=0.0) if leave_out else config
            learner = _open(settings, data[name], histogram)
            network = learner.network
            network.load_state_dict({**network.state_dict(), **outcome.weights})
            with torch.no_grad():
                figures = learner.evaluate(network)
        rows.append({"method": label, "trained_at": trained_at, "site": name, **figures})
    return rows


def find_sites(folder: Path) -> dict[str, dict[str, Path]]:
    """The sites in a folder: each a folder with images/, labels/ or table.csv. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the folder that holds one folder per site.")
    found = {}
    for place in sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")):
        parts = {"images": place / "images", "labels": place / "labels", "table": place / "table.csv"}
        if data := {name: path for name, path in parts.items() if path.exists()}:
            found[place.name] = data
    if not found:
        raise InputError(f"{folder} has no sites. Each is a folder in it, with images/, labels/ or table.csv.")
    return found
