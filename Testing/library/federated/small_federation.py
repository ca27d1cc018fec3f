"""A federation of small sites in this process: tables of two features, networks of a few numbers. Used by the tests of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from site_data import CLASSES, table_site

from imagingai.federated.config import ProjectConfig
from imagingai.federated.grid import LocalGrid
from imagingai.federated.learner import Learner, build_network, head_of, open_learner
from imagingai.federated.member import Member
from imagingai.federated.messages import PACKED
from imagingai.federated.rounds import Rounds
from imagingai.federated.sharing import shared_names
from imagingai.federated.site import Site
from imagingai.federated.store import Store

FEATURES = ("volume", "thickness")
Weights = dict[str, torch.Tensor]


def settings(**changes) -> ProjectConfig:
    """Two classes from two features; two sites are needed, and nobody is waited for when the others are there."""
    given = {"task": "roi-classification", "classes": CLASSES, "features": FEATURES, "rounds": 2, "learning_rate": 0.3, "grace": 0.0}
    return ProjectConfig(**{**given, **changes})


def opener(config: ProjectConfig, folder: Path, count: int = 12, seed: int = 0) -> Callable[[list[float] | None], Learner]:
    """How the data of a site is opened."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = table_site(folder, count, seed)
    return lambda histogram: open_learner(config, inputs, histogram=histogram)


def make_site(config: ProjectConfig, folder: Path, count: int = 12, seed: int = 0) -> Site:
    """A site with its data and its memory in a folder."""
    return Site(config, opener(config, folder / "data", count, seed), folder / "memory")


def make_sites(config: ProjectConfig, folder: Path, counts: Mapping[str, int]) -> dict[str, Site]:
    """Several sites; the data of each is its own."""
    return {name: make_site(config, folder / name, count, seed) for seed, (name, count) in enumerate(counts.items())}


def shared(config: ProjectConfig) -> Weights:
    """What is exchanged, as every machine builds it at first."""
    network = build_network(config)
    names = shared_names(network, config.private, head_of(network))
    return {name: value for name, value in network.state_dict().items() if name in names}


def make_rounds(config: ProjectConfig, answers: Mapping[str, Callable], folder: Path, grid=LocalGrid, **more) -> Rounds:
    """The round loop with sites that are functions Message -> reply, by name; it goes on with what the folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes, store = dict(enumerate(answers, start=1)), Store(folder / "federation.db")
    for name in set(answers) - {row.name for row in store.sites()}:
        store.add_site(name, f"key of {name}", "", 0.0)
    line = grid({node: answers[name] for node, name in nodes.items()})
    initial = shared(config)
    shapes = {name: tuple(value.shape) for name, value in initial.items()}
    return Rounds(config, line, store, folder, initial, shapes, lambda: nodes, poll=0.005, **more)


def members(sites: Mapping[str, Site]) -> dict[str, Callable]:
    """What real sites do with a message."""
    return {name: Member(site).answer for name, site in sites.items()}


def reply_to(message: Message, numbers: np.ndarray | None = None, **metrics) -> Message:
    """A reply with these weights, one after the other, and these figures."""
    content = {"metrics": MetricRecord({"num-examples": 10, "loss_before": 1.0, "score_before": 0.5, "loss": 1.0, **metrics})}
    if numbers is not None:
        content["arrays"] = ArrayRecord({PACKED: Array(numbers)})
    return Message(RecordDict(content), reply_to=message)


def moved(message: Message, by: float | np.ndarray = 1.0, **metrics) -> Message:
    """The reply of a site whose training adds `by` to each number that it was sent."""
    if message.content["config"]["kind"] != "train":
        return reply_to(message, **metrics)
    return reply_to(message, numbers_of(message) + np.asarray(by, np.float32), **metrics)


def numbers_of(message: Message) -> np.ndarray:
    """The weights in a message, one after the other."""
    return message.content["arrays"][PACKED].numpy()


def flat(weights: Weights) -> np.ndarray:
    """Weights as they are sent: one after the other, by name."""
    return torch.cat([weights[name].flatten() for name in sorted(weights)]).numpy()
