"""The rounds of a federation: ask the sites, wait as long as agreed, check what they send, make one model of it, keep a checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagingai.errors import InputError, JobFailed
from imagingai.federated.config import ProjectConfig
from imagingai.federated.messages import LOST, TYPES, plain, question, read_answer, to_arrays
from imagingai.federated.nyul import average_histogram
from imagingai.federated.site import digest, size
from imagingai.federated.store import Store
from imagingai.federated.strategies import aggregate, make_strategy, weights_of

Weights = dict[str, Tensor]
ATTEMPTS = 3  # of a round that too few sites answer


@dataclass
class Answer:
    """What a site sent: its reply for the strategy, and the same as plain values."""

    reply: Message
    weights: Weights
    metrics: dict[str, Any]
    seconds: float  # from the question to the answer


@dataclass
class Rounds:
    """The round loop. grid: Flower's, on sockets or local; names: node -> site, asked anew whenever we wait; shapes: of what is shared.

    initial: weights that the first round starts from. tick(): called some times a second; raises Cancelled to stop.
    """

    config: ProjectConfig
    grid: Any
    store: Store
    folder: Path
    initial: Weights
    shapes: Mapping[str, tuple[int, ...]]
    names: Callable[[], dict[int, str]]
    tick: Callable[[], None] = lambda: None
    poll: float = 0.25
    busy: dict[int, tuple[str, float]] = field(
        default_factory=dict
    )  # late sites: the question that they still work on, and when it was sent

    def run(self) -> Weights:
        """All rounds that are left; returns the shared weights of the chosen one."""
        logging.getLogger("flwr").setLevel(logging.WARNING)  # its strategies tell about every call
        self.strategy = make_strategy(self.config)
        done, weights = self.resume()
        self.store.set("rounds", self.config.rounds)
        self.values = self._survey()
        for number in range(done + 1, self.config.rounds + 1):
            weights = self._round(number, weights)
        self._evaluate(self.config.rounds, weights)
        chosen = self.choose()
        self.store.set("chosen", chosen)
        weights = self.checkpoint(chosen)
        self._ask("finish", chosen, weights)
        return weights

    def finished(self) -> None:
        """Say that all is done; to be called when the model is on the disk."""
        self._state("finished", f"All {self.config.rounds} rounds are done; the model is that of round {self.store.get('chosen')}.")

    # --- the parts of a federation

    def resume(self) -> tuple[int, Weights]:
        """The last round whose checkpoint is there and whole, with its weights; round 0 are the initial ones."""
        for row in reversed([row for row in self.store.rounds() if row.ended]):
            try:
                weights = self.checkpoint(row.number)
            except (OSError, SafetensorError):
                weights = {}
            if weights and digest(weights) == row.sha256:
                self.store.forget_rounds_after(row.number)
                self.store.event(f"Going on after round {row.number}.")
                return row.number, weights
            self.store.event(f"The checkpoint of round {row.number} is broken; going back one round.", "warning")
        self.store.forget_rounds_after(0)
        return 0, self.initial

    def _survey(self) -> dict[str, Any]:
        """What the sites share before the first round, averaged; kept, so that a federation that goes on uses the same."""
        if not self.config.label_weighting and self.config.harmonization == "none":
            return {}
        if known := self.store.get("survey"):
            return known
        answers = self._ask("survey", 0, {})
        values: dict[str, Any] = {}
        if self.config.label_weighting:
            counts = torch.tensor([answer.metrics["label_counts"] for answer in answers.values()], dtype=torch.float64).sum(0)
            values["label_distribution"] = (counts / counts.sum()).tolist()
        if self.config.harmonization == "nyul":
            sites = [(answer.metrics["histogram"], answer.metrics["num-examples"]) for answer in answers.values()]
            values["histogram"] = [float(share) for share in average_histogram(sites)]
        self.store.set("survey", values)
        return values

    def _round(self, number: int, weights: Weights) -> Weights:
        """One round: its model is on the disk before the next one begins."""
        for _ in range(ATTEMPTS):
            answers = self._ask("train", number, weights)
            if len(answers) >= self.config.min_sites:
                break
            self.store.event(
                f"Round {number}: {len(answers)} updates can be used, {self.config.min_sites} are needed; it is repeated.", "warning"
            )
        else:
            raise JobFailed(
                f"Round {number} was tried {ATTEMPTS} times and never had the {self.config.min_sites} updates that it needs. "
                "The log says why; look after the sites, and go on with: imagingai federated resume."
            )
        current, replies = to_arrays(weights, "float32"), [answer.reply for answer in answers.values()]
        arrays, _ = aggregate(self.strategy, number, current, replies)
        shares = weights_of(self.strategy, replies) or {}
        for site, answer in answers.items():
            weight = shares.get(answer.reply.metadata.src_node_id)
            self.store.add_update(number, site, "counted", "", size(answer.weights), answer.seconds, answer.metrics, weight)
        merged = dict(arrays.to_torch_state_dict())
        self._save(number, merged, means(answers))
        return merged

    def _save(self, number: int, weights: Weights, metrics: dict[str, float]) -> None:
        file = self.file(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".part")
        try:
            save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
            temporary.replace(file)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise JobFailed(
                f"The checkpoint of round {number} could not be written to {file.parent}: {error}. "
                "Free some space, and go on with: imagingai federated resume."
            ) from None
        self.store.end_round(number, metrics, file.name, digest(weights))
        self.store.set("round", number)

    def _evaluate(self, number: int, weights: Weights) -> None:
        """The last model has no next round that would measure it."""
        answers = self._ask("evaluate", number, weights)
        self.store.set("final", {"mean": means(answers), "sites": {site: plain(answer.metrics) for site, answer in answers.items()}})

    def choose(self) -> int:
        """The round whose model is best on the sites' held-out cases (each round measures the model of the one before), or the last one."""
        scores = {row.number - 1: row.metrics.get("score_before") for row in self.store.rounds()}
        scores[self.config.rounds] = self.store.get("final", {}).get("mean", {}).get("score_before")
        known = {number: score for number, score in scores.items() if score is not None and number > 0}
        return max(known, key=lambda number: (known[number], number)) if known and self.config.select == "best" else self.config.rounds

    def file(self, number: int) -> Path:
        """Where the shared weights of a round are."""
        return self.folder / "checkpoints" / f"round_{number:04d}.safetensors"

    def checkpoint(self, number: int) -> Weights:
        """The shared weights of a round."""
        return load_file(self.file(number))

    # --- questions and answers

    def _ask(self, kind: str, number: int, weights: Weights) -> dict[str, Answer]:
        """Ask all sites that are there, and wait as the project says; returns the answers that can be used, by site."""
        sites = self._wait_for_sites(kind, number)
        if kind == "train":
            self.store.begin_round(number, sorted(sites.values()), size(weights))
        self._state("running", f"{kind} round {number}")
        pending = {node: self._send(node, site, kind, number, weights) for node, site in sites.items()}
        answers: dict[str, Answer] = {}
        began, over = time.time(), math.inf
        while pending and time.time() < min(began + self.config.deadline, over):
            for node, reply in self._replies(pending):
                _, sent = pending.pop(node)
                answer = self._accept(kind, number, sites[node], reply, time.time() - sent)
                answers |= {sites[node]: answer} if answer else {}
            online = self.grid.activated()
            for node, (_, sent) in list(pending.items()):
                if online.get(node, 0.0) > sent:  # it has come back without the question
                    self.store.event(f"{sites[node]} has come back in round {number} and is asked again.")
                    pending[node] = self._send(node, sites[node], kind, number, weights)
            enough = len(answers) >= math.ceil(self.config.quorum * len(sites)) or not any(node in online for node in pending)
            over = min(over, time.time() + self.config.grace) if enough else math.inf
            self._sleep()
        self._left_out(kind, number, sites, pending)
        return dict(sorted(answers.items()))

    def _wait_for_sites(self, kind: str, number: int) -> dict[int, str]:
        """The sites that are online and not busy with an earlier round; waits until there are enough."""
        while True:
            names, online = self.names(), self.grid.activated()
            for node, (name, sent) in list(self.busy.items()):
                if online.get(node, 0.0) > sent or any(True for _ in self.grid.pull_messages([name])):
                    del self.busy[node]
            sites = {node: names[node] for node in online if node in names and node not in self.busy}
            if len(sites) >= self.config.min_sites and len(sites) >= len(
                [node for node in names if node in online and node not in self.busy]
            ):
                return dict(sorted(sites.items(), key=lambda item: item[1]))
            self._state("waiting", f"{len(sites)} of at least {self.config.min_sites} sites are there for {kind} round {number}")
            self._sleep(1.0)

    def _send(self, node: int, site: str, kind: str, number: int, weights: Weights) -> tuple[str, float]:
        """One question; returns the number of the message, and when it was sent."""
        more = {name: value for name, value in self.values.items() if name == "histogram" or kind == "train"} if kind != "survey" else {}
        if kind == "train" and self.config.seconds:
            more["epochs"] = self._epochs(site)
        content = question(kind, number, weights, more, self.config.exchange)
        message = self.grid.create_message(content, TYPES[kind], node, group_id=str(number))
        sent = time.time()
        (name,) = self.grid.push_messages([message])
        self.store.seen(site, f"{kind} round {number}")
        return name, sent

    def _epochs(self, site: str) -> float:
        """Semi-synchronous training (Stripelis et al. 2021, survey section 3.2.3): as many epochs as the site does in the agreed time."""
        last = [
            row.metrics for row in self.store.updates() if row.site == site and row.metrics.get("seconds") and row.metrics.get("epochs")
        ]
        if not last:
            return self.config.epochs
        return min(1000.0, max(0.01, self.config.seconds * last[-1]["epochs"] / last[-1]["seconds"]))

    def _replies(self, pending: Mapping[int, tuple[str, float]]) -> list[tuple[int, Message]]:
        """(node, reply) of the questions that are answered; a reply that is lost for now is not one."""
        asked = {name: node for node, (name, _) in pending.items()}
        found = [(asked.get(reply.metadata.reply_to_message_id), reply) for reply in self.grid.pull_messages(list(asked))]
        return [(node, reply) for node, reply in found if node is not None and not (reply.has_error() and reply.error.code in LOST)]

    def _accept(self, kind: str, number: int, site: str, reply: Message, seconds: float) -> Answer | None:
        """The answer, or None for one that cannot be used; the log says why."""
        try:
            answer = Answer(reply, *read_answer(reply, self.shapes if kind == "train" else {}), seconds)
        except InputError as error:
            state = "failed" if reply.has_error() else "rejected"
            self.store.event(f"{site}, {kind} round {number}: {state}: {error}", "warning")
            if kind == "train":
                self.store.add_update(number, site, state, str(error))
            return None
        self.store.seen(site, f"{kind} round {number} done")
        return answer

    def _left_out(self, kind: str, number: int, sites: Mapping[int, str], pending: Mapping[int, tuple[str, float]]) -> None:
        online = self.grid.activated()
        for node, sent in pending.items():
            reason = "it was late" if node in online else "it is offline"
            self.store.event(f"{sites[node]} is left out of {kind} round {number}: {reason}.", "warning")
            if kind == "train":
                self.store.add_update(number, sites[node], "late", reason)
            if node in online:
                self.busy[node] = sent

    def _sleep(self, seconds: float = 0.0) -> None:
        self.tick()
        time.sleep(seconds or self.poll)

    def _state(self, state: str, message: str) -> None:
        if self.store.get("message") != message or self.store.get("state") != state:
            self.store.set("message", message)
            self.store.set("state", state)


def means(answers: Mapping[str, Answer]) -> dict[str, float]:
    """The metrics of all sites, weighted by the number of their cases."""
    rows = [plain(answer.metrics) for answer in answers.values()]
    names = set.intersection(*(set(row) for row in rows)) - {"num-examples", "held_out"} if rows else set()
    total = sum(row["num-examples"] for row in rows)
    return {name: sum(row[name] * row["num-examples"] for row in rows) / total for name in sorted(names)}
