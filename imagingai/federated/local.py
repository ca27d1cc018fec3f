"""Training at a site, from the received weights on: SGD, FedSGD, FedProx, FedSLD, and SGD with differential privacy (Opacus)."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from imagingai.errors import InputError, JobFailed
from imagingai.federated import packages
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Learner, seed_of
from imagingai.job import Report, ignore


def train_locally(
    network: nn.Module,
    learner: Learner,
    project: ProjectConfig,
    *,
    round: int,
    epochs: float,
    label_distribution: Sequence[float] | None = None,
    secret: int | None = None,
    trained: int | None = None,
    device: str | torch.device = "cpu",
    report: Report = ignore,
) -> dict[str, float]:
    """Train `network` in place for `epochs` passes, part of one too; returns loss (mean), seconds, epochs, epsilon.

    The optimizer starts anew. The result depends on the settings, the round, the data and the received weights only, so that
    a stopped round can be repeated. label_distribution: shares of the classes in the whole federation (FedSLD).
    Differential privacy: secret is the seed of the noise, which nobody outside the site may know (without it that of the
    operating system); trained is the number of trainings of this site with this one, and epsilon what all of them spend.
    Raises InputError for settings that cannot be kept, JobFailed if the loss is not finite.
    """
    began = time.monotonic()
    network.to(device).train()
    run = Run(network, learner, project, round, class_weights(learner, label_distribution), device, report)
    if project.epsilon:
        if epochs > project.epochs:
            raise InputError(f"{epochs:g} epochs were asked for, and the privacy budget is for {project.epochs:g} in a round.")
        run.private(steps_of(project, learner.examples, epochs), noise_seed(network, secret, round))
    else:
        run.plain(steps_of(project, learner.examples, epochs))
    network.eval()
    epsilon = spent(project, learner.examples, trained or round) if project.epsilon else 0.0
    return {"loss": run.loss, "seconds": time.monotonic() - began, "epochs": float(epochs), "epsilon": epsilon}


def steps_of(project: ProjectConfig, examples: int, epochs: float) -> int:
    """Updates of the weights in so many epochs; a part of an epoch is that part of its steps, rounded up. One step for FedSGD."""
    return 1 if project.strategy == "fedsgd" else math.ceil(epochs * math.ceil(examples / project.batch) - 1e-9)


def class_weights(learner: Learner, label_distribution: Sequence[float] | None) -> Tensor | None:
    """FedSLD (Luo and Wu 2022; survey 3.3.2): the share of each class in the federation over its share at this site.

    The weighted loss of the site then has the mean that it would have with the classes of the federation. Raises InputError
    if the shares are not those of the classes.
    """
    if label_distribution is None:
        return None
    shares, counts = torch.tensor(label_distribution, dtype=torch.float64), torch.tensor(list(learner.labels.values()), dtype=torch.float64)
    if shares.shape != counts.shape or not len(shares) or bool((shares < 0).any()) or abs(float(shares.sum()) - 1) > 1e-3:
        raise InputError(
            f"{len(shares)} shares of classes came that sum to {float(shares.sum()):g}; {len(counts)} that sum to 1 are needed."
        )
    own = counts / counts.sum()
    return torch.where(own > 0, shares / own.clamp(min=1e-12), 0.0).float()


@dataclass
class Run:
    """One local training. weights: of the classes; loss: mean over all cases that were seen."""

    network: nn.Module
    learner: Learner
    project: ProjectConfig
    round: int
    weights: Tensor | None
    device: Any
    report: Report
    seen: int = 0
    total: float = 0.0
    parameters: list[nn.Parameter] = field(init=False)
    center: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.center = [p.detach().clone() for p in self.parameters]
        self.weights = None if self.weights is None else self.weights.to(self.device)

    @property
    def loss(self) -> float:
        return self.total / max(self.seen, 1)

    def plain(self, steps: int) -> None:
        """SGD or Adam, with the proximal term of FedProx; FedSGD: one step of SGD on all cases."""
        optimizer = self._optimizer()
        for step in range(steps):
            cases = self._batch(step)
            optimizer.zero_grad(set_to_none=True)
            for number, some in enumerate(_parts(cases, self.project.batch)):
                (self._loss(some, step, number) * (len(some) / len(cases))).backward()
            self._pull()
            optimizer.step()
            self._tell(step, steps)

    def private(self, steps: int, seed: int) -> None:
        """DP-SGD (Abadi et al. 2016) by Opacus: Poisson samples, clipped gradients of single cases, noise for the budget of all rounds.

        The bound is that of the weights, for features and images as they reach the network: the mean and deviation by which a
        site standardizes its features are of all its training cases. Figures such as the loss have no noise.
        """
        packages.activate()
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        for layer in self.network.modules():
            if getattr(layer, "inplace", False):
                layer.inplace = False  # Opacus cannot look at what is overwritten; the result is the same
        examples, random = self.learner.examples, torch.Generator().manual_seed(seed)
        rate = sample_rate(self.project, examples)
        hooks = GradSampleModule(self.network)
        optimizer = DPOptimizer(
            self._optimizer(),
            noise_multiplier=planned_noise(self.project, examples),
            max_grad_norm=self.project.clip,
            expected_batch_size=rate * examples,
            generator=torch.Generator(self.device).manual_seed(seed ^ 1),
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook")  # the input of the first layer needs no gradient
                for step in range(steps):
                    cases = (torch.rand(examples, generator=random) < rate).nonzero()[:, 0].tolist()
                    self._private_step(optimizer, cases, step)
                    self._tell(step, steps)
        finally:
            optimizer.zero_grad(set_to_none=True)
            hooks.to_standard_module()

    def _private_step(self, optimizer: Any, cases: list[int], step: int) -> None:
        parts = list(_parts(cases, self.project.batch)) or [[]]
        for number, some in enumerate(parts):
            optimizer.zero_grad(set_to_none=True)
            optimizer.signal_skip_step(number + 1 < len(parts))
            if some:
                self._loss(some, step, number).backward()
            else:
                for parameter in self.parameters:  # nobody was drawn: noise alone
                    parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
            optimizer.pre_step()
        self._pull()
        optimizer.original_optimizer.step()

    def _optimizer(self) -> torch.optim.Optimizer:
        kind = torch.optim.Adam if self.project.optimizer == "adam" and self.project.strategy != "fedsgd" else torch.optim.SGD
        return kind(self.parameters, lr=self.project.learning_rate)

    def _batch(self, step: int) -> list[int]:
        """Cases of a step: every epoch in an order of its own; all of them for FedSGD."""
        examples, size = self.learner.examples, self.project.batch
        if self.project.strategy == "fedsgd":
            return list(range(examples))
        epoch, place = divmod(step, math.ceil(examples / size))
        random = torch.Generator().manual_seed(seed_of(self.project.seed, self.round, epoch))
        return torch.randperm(examples, generator=random)[place * size : (place + 1) * size].tolist()

    def _loss(self, cases: Sequence[int], step: int, number: int) -> Tensor:
        """Mean loss of some cases of a step."""
        seeds = [seed_of(self.project.seed, self.round, step, case) for case in cases]
        inputs, targets = zip(*(self.learner.example(case, seed) for case, seed in zip(cases, seeds, strict=True)), strict=True)
        torch.manual_seed(seed_of(self.project.seed, self.round, step, number, 1))  # of dropout
        loss = self.learner.loss(self.network, torch.stack(inputs).to(self.device), torch.stack(targets).to(self.device), self.weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobFailed(f"The training diverged in round {self.round}: the loss is {value}. The coordinator can lower --learning-rate.")
        self.seen, self.total = self.seen + len(cases), self.total + value * len(cases)
        return loss

    def _pull(self) -> None:
        """FedProx: the gradient of mu/2 |w - w_global|^2 (Li et al. 2020, equation 2); it tells nothing about the data."""
        if self.project.strategy == "fedprox":
            for parameter, center in zip(self.parameters, self.center, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - center, alpha=self.project.proximal)

    def _tell(self, step: int, steps: int) -> None:
        self.report((step + 1) / steps, f"Round {self.round}: step {step + 1} of {steps}, loss {self.loss:.3f}")


# --- differential privacy


def sample_rate(project: ProjectConfig, examples: int) -> float:
    """Probability of a case to be in a step; FedSGD takes all."""
    return 1.0 if project.strategy == "fedsgd" else min(1.0, project.batch / examples)


def planned_noise(project: ProjectConfig, examples: int) -> float:
    """Standard deviation of the noise in units of `clip`, with which all rounds of a site of so many cases stay within epsilon.

    Raises InputError if no noise is enough.
    """
    steps = project.rounds * steps_of(project, examples, project.epochs)
    try:
        return _noise(project.epsilon, project.delta, sample_rate(project, examples), steps)
    except ValueError:
        raise InputError(
            f"--epsilon {project.epsilon:g} is too low for {steps} steps on {examples} cases: no noise is enough. "
            "Fewer rounds, more cases or a larger epsilon would do."
        ) from None


def spent(project: ProjectConfig, examples: int, trained: int) -> float:
    """Epsilon of so many trainings of a site."""
    steps = trained * steps_of(project, examples, project.epochs)
    return _epsilon(planned_noise(project, examples), project.delta, sample_rate(project, examples), steps)


@cache  # some seconds
def _noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    packages.activate()
    from opacus.accountants.utils import get_noise_multiplier

    return get_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp", alphas=_orders()
    )


@cache
def _epsilon(noise: float, delta: float, rate: float, steps: int) -> float:
    packages.activate()
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(delta, alphas=_orders()))


def _orders() -> list[float]:
    """Orders of the Renyi divergence that are tried: those of Opacus, and larger ones for an epsilon below 0.2."""
    from opacus.accountants import RDPAccountant

    return [*RDPAccountant.DEFAULT_ALPHAS, 96, 128, 192, 256, 512]


def noise_seed(network: nn.Module, secret: int | None, round: int) -> int:
    """A seed that differs for every received model: the same noise on two gradients would cancel in their difference."""
    found = hashlib.sha256(f"{secrets.randbits(128) if secret is None else secret}:{round}".encode())
    for value in network.state_dict().values():
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(found.digest()[:8], "big") >> 2


def _parts(cases: Sequence[int], size: int) -> list[Sequence[int]]:
    return [cases[first : first + size] for first in range(0, len(cases), size)]
