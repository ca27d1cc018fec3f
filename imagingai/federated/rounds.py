"""The rounds of a federation: ask the sites, wait as long as agreed, check what they send, make one model of it, keep a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagingai.errors import JobFailed
from imagingai.federated.config import ProjectConfig
from imagingai.federated.messages import named, plain
from imagingai.federated.nyul import average_histogram
from imagingai.federated.questions import Answer, Questions
from imagingai.federated.site import MOST_EPOCHS, digest, packed_size
from imagingai.federated.store import Store
from imagingai.federated.strategies import aggregate, make_strategy, weights_of

Weights = dict[str, Tensor]
ATTEMPTS = 3  # of a round that too few sites answer


class TooFew(Exception):
    """A round without enough updates."""


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

    def __post_init__(self) -> None:
        self.questions = Questions(self.config, self.grid, self.store, self.shapes, self.names, self.tick, self.poll)
        self.strategy = make_strategy(self.config)
        self.cases: dict[str, int] = {}  # of each site, for secure aggregation

    def run(self) -> Weights:
        """All rounds that are left; returns the shared weights of the chosen one."""
        logging.getLogger("flwr").setLevel(logging.WARNING)  # its strategies tell about every call
        self.store.set("name", self.config.name)
        self.store.set("rounds", self.config.rounds)
        done, weights = self.resume()
        self.values = self._survey()
        for number in range(done + 1, self.config.rounds + 1):
            weights = self._round(number, weights)
        self.store.set("final", self._measure(self.config.rounds, weights))
        chosen = self.choose()
        self.store.set("chosen", chosen)
        weights = self.checkpoint(chosen)
        self._ask("finish", chosen, weights)
        return weights

    def finished(self) -> None:
        """Say that all is done; to be called when the model is on the disk."""
        chosen = self.store.get("chosen")
        self.questions.state("finished", f"All {self.config.rounds} rounds are done; the model is that of round {chosen}.")

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
        answers = self._repeated("The survey", lambda: self._enough("The survey", self._ask("survey", 0, {})))
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
        attempt = self._secure_round if self.config.secure_aggregation else self._plain_round
        merged, metrics = self._repeated(f"Round {number}", lambda: attempt(number, weights))
        self._save(number, merged, metrics)
        return merged

    def _repeated(self, what: str, attempt: Callable[[], Any]) -> Any:
        """The result of an attempt that raises TooFew at times."""
        for _ in range(ATTEMPTS):
            try:
                return attempt()
            except TooFew as error:
                self.store.event(f"{error} It is repeated.", "warning")
        raise JobFailed(
            f"{what} was tried {ATTEMPTS} times and never had the {self.config.min_sites} answers that it needs. "
            "The log says why; look after the sites, and go on with: imagingai federated resume."
        )

    def _plain_round(self, number: int, weights: Weights) -> tuple[Weights, dict[str, float]]:
        """Every site's update by itself, made one model by the strategy."""
        answers = self._enough(f"Round {number}", self._ask("train", number, weights))
        current, replies = ArrayRecord(dict(weights)), []
        for answer in answers.values():
            replies.append(named(answer.reply, answer.weights))
            answer.weights = {}  # once is enough
        arrays, _ = aggregate(self.strategy, number, current, replies)
        shares = weights_of(self.strategy, replies) or {}
        for site, answer in answers.items():
            weight = shares.get(answer.reply.metadata.src_node_id)
            self.store.add_update(number, site, "counted", "", self.bytes, answer.seconds, answer.metrics, weight)
        return dict(arrays.to_torch_state_dict()), means(answers)

    def _enough(self, what: str, answers: dict) -> dict:
        """The answers, if there are enough of them."""
        if len(answers) < self.config.min_sites:
            raise TooFew(f"{what}: {len(answers)} answers can be used, {self.config.min_sites} are needed.")
        return answers

    def _secure_round(self, number: int, weights: Weights) -> tuple[Weights, dict[str, float]]:
        """Only the mean of the updates and of the figures is seen."""
        mean = self._masked("train", number, weights)
        return mean.weights, mean.metrics

    def _masked(self, kind: str, number: int, weights: Weights) -> Any:
        """One round of SecAgg+."""
        from imagingai.federated.secure import secure_round

        sites = self.questions.wait_for_sites(kind, number)
        if new := {node: site for node, site in sites.items() if site not in self.cases}:
            answers = self.questions.ask("survey", number, {}, new, lambda site: {})
            self.cases |= {site: int(answer.metrics["num-examples"]) for site, answer in answers.items()}
        asked = {node: self.cases[site] for node, site in sites.items() if site in self.cases}
        self._enough(f"Round {number}", asked)
        if kind == "train":
            self.store.begin_round(number, sorted(sites[node] for node in asked), self.bytes)
        self.questions.state("running", f"{kind} round {number}, under masks")
        began = time.time()
        try:
            mean = secure_round(self.questions, asked, kind, number, weights, self._more(kind, ""), self.config)
        except JobFailed as error:
            raise TooFew(str(error)) from None
        if kind == "train":
            total = sum(asked[node] for node in mean.sites)
            for node in mean.sites:
                share = 1 / len(mean.sites) if self.config.strategy == "equal" else asked[node] / total
                metrics = {"num-examples": asked[node]}
                self.store.add_update(number, sites[node], "counted", "", self.bytes, time.time() - began, metrics, share)
            for node, reason in mean.problems.items():
                self.store.add_update(number, sites[node], "failed", reason)
        return mean

    def _ask(self, kind: str, number: int, weights: Weights) -> dict[str, Answer]:
        """Ask all sites that are there."""
        sites = self.questions.wait_for_sites(kind, number)
        if kind == "train":
            self.store.begin_round(number, sorted(sites.values()), self.bytes)
        return self.questions.ask(kind, number, weights, sites, lambda site: self._more(kind, site))

    def _more(self, kind: str, site: str) -> dict[str, Any]:
        """The settings that go with a question."""
        if kind == "survey":
            return {}
        more = {name: value for name, value in self.values.items() if name == "histogram" or kind == "train"}
        return {**more, "epochs": self._epochs(site)} if kind == "train" and self.config.seconds else more

    def _epochs(self, site: str) -> float:
        """Semi-synchronous training (Stripelis et al. 2021, survey section 3.2.3): as many epochs as the site does in the agreed time."""
        last = [
            row.metrics for row in self.store.updates() if row.site == site and row.metrics.get("seconds") and row.metrics.get("epochs")
        ]
        if not last:
            return self.config.epochs
        return min(MOST_EPOCHS, max(0.01, self.config.seconds * last[-1]["epochs"] / last[-1]["seconds"]))

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

    def _measure(self, number: int, weights: Weights) -> dict[str, Any]:
        """The last model has no next round that would measure it."""
        if self.config.secure_aggregation:
            mean = self._repeated("The last measurement", lambda: self._masked("evaluate", number, weights))
            return {"mean": mean.metrics, "sites": {}}
        answers = self._ask("evaluate", number, weights)
        return {"mean": means(answers), "sites": {site: plain(answer.metrics) for site, answer in answers.items()}}

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

    @property
    def bytes(self) -> int:
        """Of the weights, in one direction."""
        return packed_size(self.initial, self.config)


def means(answers: Mapping[str, Answer]) -> dict[str, float]:
    """The metrics of all sites, weighted by the number of their cases."""
    rows = [plain(answer.metrics) for answer in answers.values()]
    names = set.intersection(*(set(row) for row in rows)) - {"num-examples", "held_out"} if rows else set()
    total = sum(row["num-examples"] for row in rows)
    return {name: sum(row[name] * row["num-examples"] for row in rows) / total for name in sorted(names)}
