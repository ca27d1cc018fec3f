"""How the updates of the sites become one model. Flower's own strategies wherever it has them; a rule that weighs sites is a function.

All are used alike: `aggregate(make_strategy(project), round, current, replies)`. Needs Flower (packages.activate()).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedMedian, FedProx, FedTrimmedAvg, Krum, Strategy
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords, aggregate_metricrecords

from imagingai.federated.config import ProjectConfig
from imagingai.federated.outliers import suppress_outliers

EXAMPLES = "num-examples"
Rule = Callable[[Sequence[Message], ArrayRecord], np.ndarray]  # replies, current model -> weight of each, sum <= 1


class Weighted(FedAvg):
    """The mean of the sites' models with the weights of a rule; what is missing to 1 stays at the current model."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.current_arrays = ArrayRecord()

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Weigh the models and, alike, the metrics."""
        replies = list(replies)
        weights = self.rule(replies, self.current_arrays)
        models = [_record(reply.content["arrays"], {"weight": float(w)}) for reply, w in zip(replies, weights, strict=True)]
        metrics = [_record({}, {**_metrics(reply), EXAMPLES: float(w)}) for reply, w in zip(replies, weights, strict=True)]
        if (rest := 1 - float(weights.sum())) > 1e-9:
            models.append(_record(self.current_arrays, {"weight": rest}))
        return aggregate_arrayrecords(models, "weight"), aggregate_metricrecords(metrics, EXAMPLES)


class Trimmed(FedTrimmedAvg):
    """Flower's trimmed mean; of three or more sites at least one is left out at each end unless the share is 0 (Flower rounds down)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As FedTrimmedAvg, with beta for so many sites."""
        replies = list(replies)
        self.beta = (min(_bad(self.share, len(replies)), (len(replies) - 1) // 2) + 0.1) / len(replies)
        return super().aggregate_train(server_round, replies)


class NearestUpdate(Krum):
    """Flower's Krum on the updates (model - current model): distances stay the same, and rounding does not hide them."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.current_arrays = ArrayRecord()

    def chosen(self, replies: Sequence[Message]) -> int:
        """Index of the reply that becomes the model."""
        moved = [_record(_update(reply.content["arrays"], self.current_arrays), {"site": n}) for n, reply in enumerate(replies)]
        (best,) = select_multikrum(moved, _bad(self.share, len(replies)), 1)
        return int(best["metrics"]["site"])

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """The model and the metrics of the site whose update is nearest to the others."""
        replies = list(replies)
        best = replies[self.chosen(replies)]
        return best.content["arrays"], aggregate_metricrecords([best.content], EXAMPLES)


def equal_votes(replies: Sequence[Message], current: ArrayRecord) -> np.ndarray:
    """The same weight for each site, whatever its size: FL-EV of Linardos et al. 2022."""
    return np.full(len(replies), 1 / len(replies))


def by_examples(replies: Sequence[Message], current: ArrayRecord) -> np.ndarray:
    """The weights of FedAvg: n_k / n (McMahan et al. 2017, algorithm 1)."""
    counts = np.array([_metrics(reply)[EXAMPLES] for reply in replies], float)
    return counts / counts.sum()


def by_loss(replies: Sequence[Message], current: ArrayRecord) -> np.ndarray:
    """Sites with a high training loss weigh less, after Li et al. 2022 (survey, section 3.3.1), who give no formula there.

    w_k ~ n_k exp(-F_k / F), with the mean training loss F_k of the site and F that of all examples: the scale of the loss
    does not matter, and equal losses give FedAvg.
    """
    shares = by_examples(replies, current)
    losses = np.array([_metrics(reply)["loss"] for reply in replies], float)
    weights = shares * np.exp(-(losses - losses.min()) / max(abs(float(shares @ losses)), 1e-12))
    return weights / weights.sum()


def fair(replies: Sequence[Message], current: ArrayRecord, *, q: float, rate: float, loss: str) -> np.ndarray:
    """q-FedAvg (Li et al. 2020, algorithm 2), with the sites' share p_k of the examples in place of drawing them with p_k.

    Delta_k = L (w - w_k), L = 1 / learning rate; w <- w - sum p_k F_k^q Delta_k / sum p_k (q F_k^(q-1) |Delta_k|^2 + L F_k^q).
    q = 0 is FedAvg; sites of equal size give what Flower's QFedAvg gives. F_k: loss of the received model. In the survey, section 3.3.2,
    sites where the model is bad count more in the same way (Hosseini et al. 2023). Long updates shorten the step, so that a large q
    with many local epochs hardly moves.
    """
    shares, step = by_examples(replies, current), 1 / rate
    losses = np.array([_metrics(reply)[loss] for reply in replies], float) + 1e-10
    squares = np.array([_square(_update(reply.content["arrays"], current)) for reply in replies]) * step**2
    curvature = q * losses ** (q - 1) * squares + step * losses**q
    return shares * losses**q * step / (shares @ curvature)


def without_outliers(replies: Sequence[Message], current: ArrayRecord) -> np.ndarray:
    """FedAvg in which sites far from all others lose their weight: see `outliers`."""
    updates = [_flat(_update(reply.content["arrays"], current)) for reply in replies]
    weights = by_examples(replies, current) * suppress_outliers(updates)
    return weights / weights.sum()


def _fair(project: ProjectConfig) -> Strategy:
    loss = "loss_before" if project.held_out else "loss"
    return Weighted(partial(fair, q=project.fairness, rate=project.learning_rate, loss=loss))


STRATEGIES: dict[str, Callable[[ProjectConfig], Strategy]] = {
    "fedavg": lambda project: FedAvg(),
    "equal": lambda project: Weighted(equal_votes),
    "fedsgd": lambda project: FedAvgM(server_learning_rate=project.server_rate, server_momentum=0.0),
    "fedprox": lambda project: FedProx(proximal_mu=project.proximal),
    "loss": lambda project: Weighted(by_loss),
    "qfair": _fair,
    "outlier": lambda project: Weighted(without_outliers),
    "median": lambda project: FedMedian(),
    "trimmed": lambda project: Trimmed(project.trim),
    "krum": lambda project: NearestUpdate(project.trim),
}


def make_strategy(project: ProjectConfig) -> Strategy:
    """The strategy of a project. Which sites take part, and when, is the round loop's business: Flower's sampling is not used."""
    return STRATEGIES[project.strategy](project)


def aggregate(strategy: Strategy, round: int, current: ArrayRecord, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
    """The new model, with the names and types of the current one, and the mean metrics.

    replies: checked (names, shapes, finite); none of them is changed. Neither their order nor the numbers of their nodes matter: the same
    updates give the same bits, so that a federation can be repeated.
    Metrics that some site lacks are left out, because Flower refuses the whole round for them.
    """
    strategy.current_arrays = _single(current)
    arrays, metrics = strategy.aggregate_train(round, _alike(current, replies))
    return ArrayRecord({name: Array(arrays[name].numpy().astype(old.dtype, copy=False)) for name, old in current.items()}), metrics


def weights_of(strategy: Strategy, replies: Iterable[Message]) -> dict[int, float] | None:
    """After `aggregate` of the same replies: node id -> weight of its model. None if the rule has no such number (median, trimmed)."""
    current = strategy.current_arrays
    replies = _alike(current, replies)
    if isinstance(strategy, FedMedian | FedTrimmedAvg):
        return None
    if isinstance(strategy, Weighted):
        weights = strategy.rule(replies, current)
    elif isinstance(strategy, NearestUpdate):
        weights = np.arange(len(replies)) == strategy.chosen(replies)
    else:
        weights = by_examples(replies, current)
    return {reply.metadata.src_node_id: float(weight) for reply, weight in zip(replies, weights, strict=True)}


def _alike(current: ArrayRecord, replies: Iterable[Message]) -> list[Message]:
    """Copies in an order that the updates decide, with the arrays in the order of the current ones and the metrics that all have."""
    replies = sorted(replies, key=lambda reply: [zlib.crc32(array.data) for array in reply.content["arrays"].values()])
    names = set.intersection(*(set(_metrics(reply)) for reply in replies))
    alike = []
    for reply in replies:
        arrays = _single(ArrayRecord({name: reply.content["arrays"][name] for name in current}))
        metrics = {name: value for name, value in _metrics(reply).items() if name in names}
        alike.append(Message(_record(arrays, metrics), metadata=reply.metadata))
    return alike


def _single(arrays: ArrayRecord) -> ArrayRecord:
    """A copy in which float16 is float32: a mean in float16 would be rounded with each site."""
    return ArrayRecord({n: Array(a.numpy().astype(np.float32)) if a.dtype == "float16" else a for n, a in arrays.items()})


def _record(arrays: ArrayRecord | dict, metrics: dict) -> RecordDict:
    return RecordDict({"arrays": arrays if isinstance(arrays, ArrayRecord) else ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


def _metrics(reply: Message) -> MetricRecord:
    return reply.content["metrics"]


def _update(arrays: ArrayRecord, current: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(arrays[name].numpy() - current[name].numpy(), np.float32)) for name in current})


def _flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([array.numpy().ravel() for array in arrays.values()])


def _square(arrays: ArrayRecord) -> float:
    return float(sum(np.square(array.numpy(), dtype=np.float64).sum() for array in arrays.values()))


def _bad(share: float, sites: int) -> int:
    return int(np.ceil(share * sites))
