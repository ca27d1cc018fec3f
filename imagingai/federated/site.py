"""What a site does with an instruction of the aggregator; no network in it. Settings come from the signed invitation alone."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagingai.errors import ImagingAIError, InputError
from imagingai.federated import fourier
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Learner, shared_shapes
from imagingai.federated.local import train_locally
from imagingai.federated.nyul import check_histogram
from imagingai.job import Report, ignore, part, write_json

MOST_EPOCHS = 1000.0  # in a round
PRIVATE, EARLIER = "private.safetensors", "earlier.safetensors"  # what stays here, of the last training and of the round before
KINDS = ("survey", "train", "evaluate", "finish")
Weights = dict[str, Tensor]
Metrics = dict[str, Any]


@dataclass
class Site:
    """One site of a federation. open_data: average histogram of the sites or None -> what is learned from.

    folder: what outlives the process: private weights, the personal state, how much of the privacy budget is spent.
    """

    config: ProjectConfig
    open_data: Callable[[list[float] | None], Learner]
    folder: Path
    device: str = "cpu"
    report: Report = ignore
    learner: Learner = field(init=False)
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.memory = self._remembered()
        self.learner = self.open_data(self.memory.get("histogram"))
        self.first = {name: value.clone() for name, value in self.learner.network.state_dict().items()}
        self.shapes = shared_shapes(self.config, self.learner.network)

    # --- the four kinds of instructions

    def handle(self, kind: str, weights: Weights, values: Mapping[str, Any]) -> tuple[Weights, Metrics]:
        """Answer an instruction with (weights, metrics). Raises InputError for what the invitation does not allow."""
        if kind not in KINDS:
            raise InputError(f"The aggregator asks for {kind!r}, which is none of {', '.join(KINDS)}; it was refused.")
        if kind == "survey":
            return {}, self._survey()
        self._check(kind, weights, values)
        if kind == "train":
            return self._train(weights, values)
        metrics = self._measure(weights)
        if kind == "finish":
            self._finish(weights)
        return {}, metrics

    def _survey(self) -> Metrics:
        """Counts, and only if the project says so those of the labels and the histogram."""
        metrics: Metrics = {"num-examples": self.learner.examples, "held_out": self.learner.held_out}
        if self.config.label_weighting:
            metrics["label_counts"] = [int(count) for count in self.learner.labels.values()]
        if self.config.harmonization == "nyul":
            metrics["histogram"] = [float(share) for share in self.learner.histogram()]
        return metrics

    def _train(self, weights: Weights, values: Mapping[str, Any]) -> tuple[Weights, Metrics]:
        number = int(values["server-round"])
        metrics = self._measure(weights, number)
        self._place(weights, number, mixed=True)
        self._spend(number)
        figures = train_locally(
            self.learner.network,
            self.learner,
            self.config,
            round=number,
            epochs=float(values.get("epochs", self.config.epochs)),
            label_distribution=values.get("label_distribution"),
            secret=self.memory["secret"],
            trained=len(self.memory.get("trained", [])) or None,
            device=self.device,
            report=part(self.report, (number - 1) / self.config.rounds, number / self.config.rounds),
        )
        self._keep(number)
        state = self.learner.network.state_dict()
        return {name: state[name].detach().cpu().clone() for name in self.shapes}, {**metrics, **figures}

    def _measure(self, weights: Weights, number: float = math.inf) -> Metrics:
        """The received model, with what is private here, on the cases that were held out."""
        self._place(weights, number)
        figures = self.learner.evaluate(self.learner.network)
        return {"num-examples": self.learner.examples, "held_out": self.learner.held_out} | {
            f"{name}_before": float(value) for name, value in figures.items()
        }

    def _finish(self, weights: Weights) -> None:
        """The result: the global model, and a model of this site's own if there is one."""
        self._place(weights)
        network = self.learner.network
        results = {"global": self.learner.evaluate(network)}
        if self.config.private == "none":  # with private layers a global model without them would be half a model
            self.learner.save(self.folder / "model.safetensors", network, {"federation": self.config.name})
        if self.is_personal:
            if self.config.fine_tune:
                alone = ProjectConfig(**{**vars(self.config), "strategy": "fedavg", "epsilon": 0.0})
                train_locally(
                    network,
                    self.learner,
                    alone,
                    round=self.config.rounds + 1,
                    epochs=self.config.fine_tune,
                    label_distribution=None,
                    secret=self.memory["secret"],
                    device=self.device,
                    report=self.report,
                )
            results["personal"] = self.learner.evaluate(network)
            self.learner.save(self.folder / "personal.safetensors", network, {"federation": self.config.name, "personal": True})
        write_json(self.folder / "results.json", results)

    @property
    def is_personal(self) -> bool:
        """True if this site ends with a model of its own."""
        return bool(self.config.fine_tune or self.config.fourier or self.config.private != "none")

    # --- checks

    def _check(self, kind: str, weights: Weights, values: Mapping[str, Any]) -> None:
        allowed = {"kind", "server-round"}
        if kind == "train":
            allowed |= {"epochs"} if self.config.seconds else set()
            allowed |= {"label_distribution"} if self.config.label_weighting else set()
        allowed |= {"histogram"} if self.config.harmonization == "nyul" else set()
        if extra := set(values) - allowed:
            raise InputError(f"The aggregator sends the setting {min(extra)}, which the invitation does not name; it was refused.")
        if type(values.get("server-round")) is not int:
            raise InputError("The aggregator does not say which round this is; it was refused.")
        if not 1 <= values["server-round"] <= self.config.rounds:
            raise InputError(f"The aggregator asks for round {values['server-round']} of {self.config.rounds}; it was refused.")
        epochs = values.get("epochs", 1.0)
        if not isinstance(epochs, (int, float)) or not 0 < epochs <= MOST_EPOCHS:
            raise InputError(f"The aggregator asks for {epochs!r} epochs; it was refused.")
        if (histogram := values.get("histogram")) is not None and histogram != self.memory.get("histogram"):
            self._harmonize(histogram)

    def _harmonize(self, histogram: Any) -> None:
        """Take over the average histogram of the sites, once: with another one the same noise would hide other data."""
        if "histogram" in self.memory:
            raise InputError("The aggregator sends another average histogram than before; it was refused. Join in a new folder.")
        if not isinstance(histogram, list) or not all(isinstance(share, float) for share in histogram):
            raise InputError("The average histogram of the aggregator is not a list of numbers; it was refused.")
        check_histogram(histogram)
        try:
            self.learner = self.open_data(histogram)
        except ImagingAIError as error:  # it may name cases and files, which must not leave
            raise InputError("This site cannot read its data any more; its own log says why.") from error
        self.memory["histogram"] = histogram
        self._remember()

    def _spend(self, number: int) -> None:
        """Differential privacy counts the trainings: the same one again tells nothing new, any other spends more.

        The same: from the same weights, also of what is private here, because the noise is made of them.
        """
        if self.config.epsilon:
            mark = f"{number}:{digest(self.learner.network.state_dict())}"
            trained = self.memory.setdefault("trained", [])
            if mark not in trained:
                if len(trained) >= self.config.rounds:
                    raise InputError(
                        f"This site's privacy budget (epsilon {self.config.epsilon:g}) is spent after {len(trained)} trainings."
                    )
                trained.append(mark)
                self._remember()

    # --- weights

    def _place(self, weights: Weights, number: float = math.inf, mixed: bool = False) -> None:
        """The received weights into the network, with what stayed here before the training of round `number`, or after the last one.

        mixed: with the own weights, by the Fourier aggregation; else it is the others' model.
        """
        own = self._own(number)
        received = weights
        if own and self.config.fourier and mixed:
            share = fourier.share_in(int(number), self.config.rounds, self.config.fourier)
            received = fourier.merge({name: own[name] for name in received}, received, share)
        private = {name: value for name, value in own.items() if name not in self.shapes}
        self.learner.network.load_state_dict({**self.first, **private, **received})

    def _own(self, number: float) -> Weights:
        """What was kept in the last training before this round; a round that is repeated begins as at the first time."""
        for file in (self.folder / PRIVATE, self.folder / EARLIER):
            if file.is_file() and _round_of(file) < number:
                return load_file(file)
        return {}

    def _keep(self, number: int) -> None:
        """Keep what is private, and for the Fourier aggregation all own weights; through a temporary file."""
        state, file, temporary = self.learner.network.state_dict(), self.folder / PRIVATE, self.folder / f".{PRIVATE}"
        kept = {name: value.detach().cpu().contiguous() for name, value in state.items() if self.config.fourier or name not in self.shapes}
        if kept:
            save_file(kept, temporary, {"round": str(number)})
            if file.is_file() and _round_of(file) < number:
                file.replace(self.folder / EARLIER)
            temporary.replace(file)

    def _remembered(self) -> dict[str, Any]:
        file = self.folder / "memory.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
        self.memory = {"secret": secrets.randbits(62)}  # of the noise: who knew it could take the noise off again
        self._remember()
        return self.memory

    def _remember(self) -> None:
        write_json(self.folder / "memory.json", self.memory)
        (self.folder / "memory.json").chmod(0o600)


def _round_of(file: Path) -> int:
    """The training in which private weights were kept."""
    with safe_open(file, "pt") as content:
        return int(content.metadata()["round"])


def digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights: names and numbers, whatever the order."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def packed_size(weights: Mapping[str, Tensor], config: ProjectConfig) -> int:
    """Bytes of weights as they are sent."""
    return sum(value.numel() for value in weights.values()) * (2 if config.exchange == "float16" else 4)
