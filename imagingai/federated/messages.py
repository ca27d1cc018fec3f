"""What a question of the aggregator and an answer of a site look like as Flower's messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from torch import Tensor

from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.nyul import BINS, check_histogram

TYPES = {"survey": MessageType.QUERY, "train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE, "finish": MessageType.EVALUATE}
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)  # of replies that will not come
PACKED = "weights"
NEEDED = {"train": ("loss", "loss_before", "score_before"), "evaluate": ("loss_before", "score_before")}  # figures of an answer
Weights = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


def question(kind: str, number: int, weights: Weights, more: Mapping[str, Any], exchange: str) -> RecordDict:
    """The content of an instruction."""
    content = RecordDict({"config": ConfigRecord({"kind": kind, "server-round": number, **more})})
    if weights:
        content["arrays"] = pack(weights, exchange)
    return content


def instruction(message: Message) -> tuple[str, int]:
    """Kind and round of an instruction; "keys": of secure aggregation, before and after the training."""
    config = message.content.get("config", ConfigRecord())
    number = config.get("server-round")
    return str(config.get("kind", "keys")), number if isinstance(number, int) else 0


def read_question(message: Message, shapes: Shapes) -> tuple[str, Weights, dict[str, Any]]:
    """Kind, weights and settings of an instruction. Raises InputError for weights that are not of these shapes."""
    config = dict(message.content.get("config", ConfigRecord()))
    arrays = message.content.get("arrays")
    return str(config.get("kind")), unpack(arrays, shapes, "the aggregator") if arrays else {}, config


def answer(message: Message, weights: Weights, metrics: Mapping[str, Any], exchange: str) -> Message:
    """The reply to an instruction."""
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if weights:
        content["arrays"] = pack(weights, exchange)
    return Message(content, reply_to=message)


def refusal(message: Message, reason: str) -> Message:
    """The reply to an instruction that is not followed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def read_answer(reply: Message, shapes: Shapes) -> tuple[Weights, dict[str, Any]]:
    """Weights of the agreed shapes (none if `shapes` is empty) and sensible figures. Raises InputError with what is wrong."""
    if reply.has_error():
        raise InputError(reply.error.reason)
    if not isinstance(reply.content.get("metrics"), MetricRecord):
        raise InputError("The reply has no figures.")
    metrics = dict(reply.content["metrics"])
    examples = metrics.get("num-examples", 0)
    if not isinstance(examples, int) or examples < 1:
        raise InputError(f"The reply is of {examples!r} cases.")
    for name, value in metrics.items():
        if not all(math.isfinite(one) for one in (value if isinstance(value, list) else [value])):
            raise InputError(f"The figure {name} is not a number.")
    return unpack(reply.content.get("arrays", ArrayRecord()), shapes, "the site") if shapes else {}, metrics


def check_figures(kind: str, metrics: Mapping[str, Any], config: ProjectConfig) -> None:
    """Raise InputError unless the figures that this kind of answer needs are there, and each is one number or a list as agreed."""
    lists: dict[str, int] = {}
    if kind == "survey":
        lists |= {"label_counts": len(config.classes)} if config.label_weighting else {}
        lists |= {"histogram": BINS} if config.harmonization == "nyul" else {}
    for name in (*NEEDED.get(kind, ()), *lists):
        if name not in metrics:
            raise InputError(f"The figure {name} is missing.")
    for name, value in metrics.items():
        if (len(value) if isinstance(value, list) else None) != lists.get(name):
            raise InputError(f"The figure {name} is not of the agreed size.")
    if "histogram" in lists:
        check_histogram(metrics["histogram"])
    if "label_counts" in lists and (min(metrics["label_counts"]) < 0 or not sum(metrics["label_counts"])):
        raise InputError(f"The counts of the classes are {metrics['label_counts']}.")


def named(reply: Message, weights: Weights) -> Message:
    """The same reply with an array for each tensor, as Flower's strategies want it."""
    content = RecordDict({"arrays": ArrayRecord(dict(weights)), "metrics": reply.content["metrics"]})
    return Message(content, metadata=reply.metadata)


def pack(weights: Weights, exchange: str = "float32") -> ArrayRecord:
    """All tensors one after the other, by name: Flower sends every array of a message by itself, and 100 small ones take 100 requests."""
    flat = torch.cat([weights[name].detach().flatten().float() for name in sorted(weights)])
    return ArrayRecord({PACKED: Array(flat.cpu().numpy().astype(exchange))})


def unpack(arrays: ArrayRecord, shapes: Shapes, sender: str) -> Weights:
    """The tensors, float32. Raises InputError unless there are exactly the agreed numbers, all of them finite."""
    if set(arrays) != {PACKED}:
        raise InputError(f"The weights of {sender} are named {', '.join(sorted(arrays)) or 'nothing'}, and {PACKED} was agreed.")
    try:
        flat = np.lib.format.read_array(BytesIO(arrays[PACKED].data), allow_pickle=False)
    except (AttributeError, ValueError, MemoryError):  # another record; no array; one that says it is huge
        raise InputError(f"The weights of {sender} cannot be read.") from None
    count = sum(math.prod(shape) for shape in shapes.values())
    if flat.shape != (count,) or flat.dtype.name not in ("float32", "float16"):
        raise InputError(f"The weights of {sender} are {flat.dtype} of the shape {flat.shape}, and {count} float numbers were agreed.")
    if not np.isfinite(flat).all():
        hint = "; --exchange float32 has room for larger ones" if flat.dtype == np.float16 else ""
        raise InputError(f"The weights of {sender} have a value that is not a number or infinite{hint}.")
    names = sorted(shapes)
    parts = torch.from_numpy(flat.astype(np.float32)).split([math.prod(shapes[name]) for name in names])
    return {name: part.reshape(shapes[name]).clone() for name, part in zip(names, parts, strict=True)}


def bytes_in(message: Message) -> int:
    """Bytes of the numbers in a message: arrays, and what is masked."""
    if message.has_error():
        return 0
    arrays = sum(array.numpy().nbytes for record in message.content.array_records.values() for array in record.values())
    values = [value for record in message.content.config_records.values() for value in record.values()]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return arrays + sum(len(part) for part in parts if isinstance(part, bytes))


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers among the figures."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
