"""Secure aggregation: the aggregator learns the mean of the updates and of the figures, and those of no single site.

The protocol is Flower's SecAgg+ (Bell et al. 2020; Bonawitz et al. 2017): each pair of sites agrees on a mask that one adds and the other
subtracts; the keys are shared so that the masks of a site that drops out can still be removed. It protects against an aggregator that
is curious but passes on what the sites send to each other, and of n sites fewer than n // 2 + 1 that help it. What a site sends:
one vector, its update (model - received model) and its figures, and in clear the number of its cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from cryptography.fernet import InvalidToken
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status, bytes_to_ndarray, ndarray_to_bytes
from flwr.common import ndarrays_to_parameters as to_parameters
from flwr.common import parameters_to_ndarrays as from_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey

from imagingai.errors import InputError, JobFailed
from imagingai.federated.config import ProjectConfig
from imagingai.federated.masking import CLIP, FIGURES, Weights, decode, encode, protocol, server_side, site_side
from imagingai.federated.messages import question, read_question, unpack

QUICK = 300.0  # seconds for the stages in which nobody trains
PAIRS = {  # what belongs together in the replies
    Stage.SETUP: (Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2),
    Stage.SHARE_KEYS: (Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST),
    Stage.UNMASK: (Key.NODE_ID_LIST, Key.SHARE_LIST),
}

# --- the site's side


class SecureSite:
    """Lets a site speak SecAgg+. Its secrets are new in every round and live in memory only.

    site: a `site.Site`; of it config, shapes and handle(kind, weights, values) -> (weights, metrics) are used.
    """

    def __init__(self, site: Any) -> None:
        self.site = site
        self.context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
        self.stage, self.heaviest = Stage.UNMASK, 0.0

    def answer(self, message: Message) -> Message:
        """The reply to one stage. Raises InputError for what the protocol does not allow; nothing has left the site then."""
        if message.metadata.message_type != MessageType.TRAIN or RECORD_KEY_CONFIGS not in message.content:
            raise InputError("The aggregator asks for an update that is not masked, but this federation uses secure aggregation; refused.")
        values = message.content[RECORD_KEY_CONFIGS]
        with _refusing():
            site_side.check_stage(self.stage, values)
            stage = str(values[Key.STAGE])
            self._check(stage, values)
        worked = self._work(message) if stage == Stage.COLLECT_MASKED_VECTORS else None
        with _refusing():
            reply = site_side.secaggplus_mod(message, self.context, lambda *_: worked)
        self.stage = stage
        if stage == Stage.UNMASK:
            self.context.state.clear()
        return self._packed(message, reply) if worked else reply

    def _check(self, stage: str, values: Mapping[str, Any]) -> None:
        if stage == Stage.SETUP:
            sites = values[Key.SAMPLE_NUMBER]
            if sites < 2 or any(values[name] != value for name, value in protocol(sites).items()):
                raise InputError("The aggregator proposes a secure aggregation with other numbers than this program's; refused.")
            self.heaviest = float(values[Key.MAX_WEIGHT])
        elif stage == Stage.UNMASK and set(values[Key.ACTIVE_NODE_ID_LIST]) & set(values[Key.DEAD_NODE_ID_LIST]):
            raise InputError("The aggregator asks for both secrets of a site, which would unmask its update; refused.")

    def _work(self, message: Message) -> Message:
        """Train or measure; the vector, as Flower wants it."""
        kind, received, values = read_question(message, self.site.shapes)
        weights, metrics = self.site.handle(kind, received, values)
        cases = 1 if self.site.config.strategy == "equal" else metrics["num-examples"]
        if cases > self.heaviest:
            raise InputError(
                f"The aggregator counts on at most {self.heaviest:g} cases, and this site has {cases}; the round has to begin anew."
            )
        self.cases = metrics["num-examples"]
        result = FitRes(Status(Code.OK, ""), to_parameters([encode(received, weights, metrics)]), cases, {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

    def _packed(self, message: Message, reply: Message) -> Message:
        """Four bytes per number in place of Flower's eight, and nothing else but the number of cases."""
        weight, vector = map(bytes_to_ndarray, reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS])
        small = ndarray_to_bytes(np.concatenate([weight, vector]).astype(np.uint32))
        content = {
            RECORD_KEY_CONFIGS: ConfigRecord({Key.MASKED_PARAMETERS: [small]}),
            "metrics": MetricRecord({"num-examples": self.cases}),
        }
        return Message(RecordDict(content), reply_to=message)


@contextmanager
def _refusing() -> Iterator[None]:
    """Flower's checks, as a sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, InvalidToken) as error:
        raise InputError(f"The secure aggregation was broken off ({error}); the round has to begin anew.") from None


# --- the aggregator's side


@dataclass(frozen=True)
class SecureMean:
    """What the aggregator learns. weights: the new model (none for evaluate); sites: the nodes in it; problems: node -> why not."""

    weights: Weights
    metrics: dict[str, float]
    sites: list[int]
    problems: dict[int, str]


def secure_round(
    grid: Any, examples: Mapping[int, int], kind: str, number: int, weights: Weights, more: Mapping[str, Any], config: ProjectConfig
) -> SecureMean:
    """One round of kind train or evaluate; the weights of the sites are those of FedAvg, or equal ones (strategy equal).

    grid: `send_and_receive` is all that is used; examples: node -> number of cases, of the sites to ask; weights: what all of them
    start from; more: settings that go with it. A site that drops out before it has sent its vector is left out; afterwards a majority
    must stay. Raises JobFailed if too few sites are left.
    """
    content = question(kind, number, weights, more, config.exchange)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    sent = unpack(content["arrays"], shapes, "the aggregator") if kind == "train" else {}  # float16 is what the sites start from
    line = Line(grid, config.deadline, sum(value.numel() for value in sent.values()) + 2 * len(FIGURES))
    heaviest = 1 if config.strategy == "equal" else max(examples.values())
    round = Round(line, sorted(examples), float(heaviest), number)
    round.agree(max(2, config.min_sites))
    vector = round.collect(content, max(2, config.min_sites))
    return SecureMean(*decode(vector, sent), round.counted, line.problems)


@dataclass
class Line:
    """The grid as the protocol uses it: a stage has its time, and replies that are errors or not well formed are not there."""

    grid: Any
    deadline: float
    length: int
    problems: dict[int, str] = field(default_factory=dict)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        stage = messages[0].content[RECORD_KEY_CONFIGS][Key.STAGE]
        silent = {message.metadata.dst_node_id: "it did not answer in time" for message in messages}
        time = self.deadline if stage == Stage.COLLECT_MASKED_VECTORS else min(QUICK, self.deadline)
        good = []
        for reply in self.grid.send_and_receive(messages, timeout=time):
            silent.pop(reply.metadata.src_node_id, None)
            try:
                good.append(self._checked(stage, reply))
            except (InputError, KeyError, TypeError, ValueError) as error:
                self.problems[reply.metadata.src_node_id] = str(error)
        self.problems |= silent
        return good

    def _checked(self, stage: str, reply: Message) -> Message:
        if reply.has_error():
            raise InputError(reply.error.reason)
        values = reply.content[RECORD_KEY_CONFIGS]
        if stage in PAIRS and len(values[PAIRS[stage][0]]) != len(values[PAIRS[stage][1]]):
            raise InputError(f"The reply in the stage {stage} has {' and '.join(PAIRS[stage])} of different lengths.")
        if stage == Stage.COLLECT_MASKED_VECTORS:
            (masked,) = map(bytes_to_ndarray, values[Key.MASKED_PARAMETERS])
            if masked.dtype != np.uint32 or masked.shape != (1 + self.length,):
                raise InputError(f"The masked vector is {masked.dtype} {masked.shape} instead of uint32 {(1 + self.length,)}.")
            parts = [ndarray_to_bytes(part.astype(np.int64)) for part in (masked[:1], masked[1:])]  # the weight, and what is weighted
            content = fitres_to_recorddict(FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {}), keep_input=False)
            content[RECORD_KEY_CONFIGS] = ConfigRecord({Key.MASKED_PARAMETERS: parts})
            return Message(content, metadata=reply.metadata)
        return reply


class Round:
    """Flower's SecAggPlusWorkflow, whose stages are called one by one, so that sites which are lost early do not end it."""

    def __init__(self, line: Line, nodes: list[int], heaviest: float, number: int) -> None:
        self.line, self.nodes, self.heaviest, self.number = line, nodes, heaviest, number
        self.counted: list[int] = []

    def agree(self, least: int) -> None:
        """Keys and their shares; begun anew without the sites that are lost meanwhile, whose shares nobody would have."""
        while len(self.nodes) >= least:
            self.context = self._context()
            self.state = server_side.WorkflowState()
            numbers = protocol(len(self.nodes))
            self.workflow = SecAggPlusWorkflow(
                1.0, numbers[Key.THRESHOLD], max_weight=self.heaviest, clipping_range=CLIP, quantization_range=numbers[Key.TARGET_RANGE]
            )
            stages = self.workflow.setup_stage, self.workflow.share_keys_stage
            if all(stage(self.line, self.context, self.state) for stage in stages) and self.state.active_node_ids == set(self.nodes):
                return
            self.nodes = sorted(self.state.active_node_ids)
        raise JobFailed(self._too_few(len(self.nodes), least))

    def collect(self, content: RecordDict, least: int) -> np.ndarray:
        """The mean of the vectors."""
        self.state.nid_to_fitins = {node: RecordDict(dict(content)) for node in self.nodes}
        enough = self.workflow.collect_masked_vectors_stage(self.line, self.context, self.state)
        self.counted = sorted(self.state.active_node_ids)
        if not enough or len(self.counted) < least or not self._unmask():
            raise JobFailed(self._too_few(len(self.state.active_node_ids), max(least, self.workflow.reconstruction_threshold)))
        return self.vector

    def _unmask(self) -> bool:
        try:
            return self.workflow.unmask_stage(self.line, self.context, self.state)
        except (KeyError, ValueError):  # shares that do not fit together, or of a site that nobody knows
            return False

    def _context(self) -> SimpleNamespace:
        """What the workflow asks of Flower's older strategies: whom to ask, and where to put the result."""
        asked = [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self.nodes]
        return SimpleNamespace(
            state=RecordDict(
                {MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: self.number}), MAIN_PARAMS_RECORD: ArrayRecord()}
            ),
            strategy=SimpleNamespace(configure_fit=lambda *_: asked, aggregate_fit=self._take),
            client_manager=SimpleNamespace(num_available=lambda: len(self.nodes)),
        )

    def _take(self, number: int, results: list, failures: list) -> tuple[None, dict]:
        (self.vector,) = from_parameters(results[0][1].parameters)
        return None, {}

    def _too_few(self, left: int, least: int) -> str:
        why = "; ".join(f"node {node}: {reason}" for node, reason in sorted(self.line.problems.items()))
        return (
            f"Secure aggregation in round {self.number}: {left} sites are left of at least {least} ({why}). "
            "Look after those sites, and repeat the round."
        )
