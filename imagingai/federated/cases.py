"""Learning a class or a value of whole cases, from images or from tables of features: loss, figures, the learner of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from imagingai.errors import InputError
from imagingai.federated.classifier import Description, save_classifier
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import build_network, divide
from imagingai.federated.nyul import site_histogram


@dataclass(frozen=True)
class Sample:
    """A case that was read: what the network sees, its class number or value, and whose it is."""

    name: str
    input: np.ndarray
    target: float
    patient: str


class CaseLearner:
    """A `Learner` of cases that have one class or one value each. change: (input, seed) -> the input changed at random."""

    def __init__(self, description: Description, samples: Sequence[Sample], change: Callable[[Tensor, int], Tensor]) -> None:
        self.description, self.project, self.change = description, description.project, change
        self.classes = self.project.classes if is_classification(self.project) else ()
        self.training, self.measured = divide_samples(self.project, samples)
        self.raw = [samples[k].input for k in self.training] if self.project.harmonization == "nyul" else []
        self.inputs = torch.from_numpy(np.stack([description.scale(sample.input) for sample in samples]))
        values = [sample.target if self.classes else description.to_unit(sample.target) for sample in samples]
        self.targets = torch.tensor(values, dtype=torch.long if self.classes else torch.float32)
        self.network = build_network(self.project)
        self.examples, self.held_out = len(self.training), len(self.measured)
        counts = Counter(self.targets[self.training].tolist())
        self.labels = {name: counts[k] for k, name in enumerate(self.classes)}

    def example(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """See `Learner`. Raises InputError if the images are to be harmonized and no average histogram has come."""
        if self.raw and not self.description.histogram:
            raise InputError("The project harmonizes intensities, and the aggregator has sent no average histogram.")
        k = self.training[index]
        return self.change(self.inputs[k], seed), self.targets[k]

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross entropy of the classes, each case weighted by its class; squared error of values."""
        outputs = network(inputs)
        if not self.classes:
            return F.mse_loss(outputs[:, 0], targets)
        each = F.cross_entropy(outputs, targets, reduction="none")
        return (each if weights is None else each * weights[targets]).mean()

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """See `Learner`; accuracy, sensitivity, specificity, auc of classes; mae (in the unit of the target), r2 of values."""
        device, chosen = next(network.parameters()).device, self.measured or self.training
        network.eval()
        outputs = torch.cat(
            [network(self.inputs[some].to(device)).float().cpu() for some in torch.tensor(chosen).split(self.project.batch)]
        )
        targets = self.targets[chosen]
        if self.classes:
            loss = float(F.cross_entropy(outputs, targets))
            return {"loss": loss, **class_figures(torch.softmax(outputs, 1).numpy(), targets.numpy())}
        found, true = (self.description.from_unit(some.numpy()) for some in (outputs[:, 0], targets))
        return {"loss": float(F.mse_loss(outputs[:, 0], targets)), **value_figures(found, true)}

    def histogram(self) -> list[float]:
        """See `Learner`."""
        return site_histogram(self.raw)

    def save(self, path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
        """See `Learner`; the file is read by `classifier.load_classifier`."""
        save_classifier(path, network, self.description, facts)


def save(project: ProjectConfig, network: nn.Module, path: Path, facts: dict[str, Any], histogram: Sequence[float] | None) -> None:
    """See `learner.save_network`."""
    save_classifier(path, network, Description(project, histogram=tuple(histogram or ())), facts)


def is_classification(project: ProjectConfig) -> bool:
    """True for classes, False for values."""
    return project.task != "roi-regression"


def outputs_of(project: ProjectConfig) -> int:
    """Outputs of the network: one logit for each class (also of two), one value. Raises InputError for fewer than two classes."""
    if not is_classification(project):
        return 1
    if len(set(project.classes)) < max(2, len(project.classes)):
        raise InputError(f"--classes {' '.join(project.classes) or 'is empty'}: {project.task} needs two or more different names.")
    return len(project.classes)


def divide_samples(project: ProjectConfig, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """Positions of the cases to learn from and of those held out, see `learner.divide`."""
    groups = [sample.target for sample in samples] if is_classification(project) else None
    return divide([sample.name for sample in samples], project.held_out, groups, [sample.patient for sample in samples])


def class_number(project: ProjectConfig, case: str, name: str) -> int:
    """The number of a class; raises InputError if the project has none of this name."""
    if name not in project.classes:
        raise InputError(f"{case} has the class {name!r}, which the project does not know: its classes are {', '.join(project.classes)}.")
    return project.classes.index(name)


def class_figures(probability: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Figures of probabilities (N, K) and class numbers (N,), in 0..1; those that need a class that is missing are left out.

    Of two classes the second one is the positive one; of more, means over the classes against the rest.
    score: mean of the recall of the classes that are there, so that a rare class counts as much as a frequent one.
    """
    chosen, classes = probability.argmax(1), range(probability.shape[1])
    recall = [float((chosen == k)[true == k].mean()) for k in classes if (true == k).any()]
    figures = {"score": float(np.mean(recall)), "accuracy": float((chosen == true).mean())}
    several = [1] if len(classes) == 2 else [k for k in classes if (true == k).any() and (true != k).any()]
    parts = {
        "sensitivity": [(chosen == k)[true == k] for k in several],
        "specificity": [(chosen != k)[true != k] for k in several],
    }
    for name, hits in parts.items():
        if hits and all(map(len, hits)):
            figures[name] = float(np.mean([hit.mean() for hit in hits]))
    areas = [area_under_curve(probability[:, k], true == k) for k in several if (true == k).any() and (true != k).any()]
    return {**figures, "auc": float(np.mean(areas))} if areas else figures


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive case has the higher score (Mann and Whitney); ties count half."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((rankdata(score)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def value_figures(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Mean absolute error in the unit of the target (score is its negative) and, if the values differ, the share that is explained."""
    mae, spread = float(np.abs(found - true).mean()), float(((true - true.mean()) ** 2).sum())
    figures = {"score": -mae, "mae": mae}
    return {**figures, "r2": 1 - float(((found - true) ** 2).sum()) / spread} if spread else figures
