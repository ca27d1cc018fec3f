"""What a question of the aggregator and an answer of a site look like as Flower's messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from torch import Tensor

from imagingai.errors import InputError
from imagingai.federated.site import check_weights

TYPES = {"survey": MessageType.QUERY, "train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE, "finish": MessageType.EVALUATE}
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)  # of replies that will not come
Weights = dict[str, Tensor]


def question(kind: str, number: int, weights: Weights, more: Mapping[str, Any], exchange: str) -> RecordDict:
    """The content of an instruction."""
    content = RecordDict({"config": ConfigRecord({"kind": kind, "server-round": number, **more})})
    if weights:
        content["arrays"] = to_arrays(weights, exchange)
    return content


def read_question(message: Message) -> tuple[str, Weights, dict[str, Any]]:
    """Kind, weights and settings of an instruction."""
    config = dict(message.content.get("config", ConfigRecord()))
    return str(config.get("kind")), weights_in(message), config


def answer(message: Message, weights: Weights, metrics: Mapping[str, Any], exchange: str) -> Message:
    """The reply to an instruction."""
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if weights:
        content["arrays"] = to_arrays(weights, exchange)
    return Message(content, reply_to=message)


def refusal(message: Message, reason: str) -> Message:
    """The reply to an instruction that is not followed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def read_answer(reply: Message, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Weights, dict[str, Any]]:
    """Weights of the agreed names and shapes, and sensible metrics. Raises InputError with the reason for any other reply."""
    if reply.has_error():
        raise InputError(reply.error.reason)
    metrics = dict(reply.content.get("metrics", {}))
    examples = metrics.get("num-examples", 0)
    if not isinstance(examples, int) or examples < 1:
        raise InputError(f"The reply is of {examples!r} cases.")
    for name, value in metrics.items():
        if not all(math.isfinite(one) for one in (value if isinstance(value, list) else [value])):
            raise InputError(f"The figure {name} is not a number.")
    weights = weights_in(reply)
    check_weights(weights, shapes, "the site")
    return weights, metrics


def weights_in(message: Message) -> Weights:
    """The arrays of a message as tensors."""
    return dict(message.content["arrays"].to_torch_state_dict()) if "arrays" in message.content else {}


def to_arrays(weights: Weights, exchange: str = "float32") -> ArrayRecord:
    """As they are sent."""
    if exchange == "float16":
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    return ArrayRecord(dict(weights))


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers among the metrics."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
