"""What a message may hold, on both sides: exactly what was agreed, and nothing that is not a number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from small_federation import reply_to

from imagingai.errors import InputError
from imagingai.federated.grid import outside_of_flower
from imagingai.federated.messages import (
    PACKED,
    TYPES,
    answer,
    bytes_in,
    instruction,
    named,
    pack,
    plain,
    question,
    read_answer,
    read_question,
    refusal,
    unpack,
)

WEIGHTS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0, 8.0])}
SHAPES = {"b.weight": (2, 3), "a.bias": (2,)}
METRICS = {"num-examples": 10, "loss": 0.5}


@pytest.fixture(autouse=True)
def _identity():
    outside_of_flower()


def ask(kind="train", weights=WEIGHTS, more=None, exchange="float32") -> Message:
    return Message(question(kind, 3, weights, more or {}, exchange), 1, TYPES[kind])


def refused(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def same(found, expected) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("exchange", ["float32", "float16"])
def test_weights_go_there_and_back(exchange):
    message = ask(more={"epochs": 2.0}, exchange=exchange)
    kind, weights, values = read_question(message, SHAPES)
    assert (kind, values) == ("train", {"kind": "train", "server-round": 3, "epochs": 2.0})
    assert same(weights, WEIGHTS)  # small whole numbers are exact in float16, too
    assert {value.dtype for value in weights.values()} == {torch.float32}
    found, metrics = read_answer(answer(message, weights, METRICS, exchange), SHAPES)
    assert same(found, WEIGHTS) and metrics == METRICS
    assert bytes_in(message) == 8 * (2 if exchange == "float16" else 4)


def test_one_array_holds_all_tensors_by_name():
    (array,) = pack(WEIGHTS).values()
    assert array.numpy().tolist() == [7, 8, 0, 1, 2, 3, 4, 5]
    assert message_types() == {"survey": "query", "train": "train", "evaluate": "evaluate", "finish": "evaluate"}


def message_types() -> dict[str, str]:
    return {kind: ask(kind).metadata.message_type for kind in TYPES}


def test_a_question_without_weights_is_read_as_such():
    assert read_question(ask("survey", {}), SHAPES) == ("survey", {}, {"kind": "survey", "server-round": 3})
    assert instruction(ask("survey", {})) == ("survey", 3)
    assert instruction(Message(RecordDict(), 1, MessageType.TRAIN)) == ("keys", 0)


def test_strategies_get_an_array_for_each_tensor_and_the_sender():
    message = ask()
    reply = named(answer(message, WEIGHTS, METRICS, "float32"), WEIGHTS)
    assert same(reply.content["arrays"].to_torch_state_dict(), WEIGHTS)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert dict(reply.content["metrics"]) == METRICS


NUMBERS = np.arange(8, dtype=np.float32)
HUGE = Array(NUMBERS).data.replace(b"(8,), }             ", b"(8000000000000000,)}")


def with_last(value: float) -> np.ndarray:
    return np.append(NUMBERS[:7], np.float32(value))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, "are named nothing, and weights was agreed"),
        ({"w": NUMBERS}, "are named w, and weights was agreed"),
        ({PACKED: NUMBERS, "images": NUMBERS}, "are named images, weights, and weights was agreed"),
        ({PACKED: NUMBERS[:7]}, "are float32 of the shape (7,), and 8 float numbers were agreed"),
        ({PACKED: NUMBERS.reshape(2, 4)}, "are float32 of the shape (2, 4), and 8 float numbers were agreed"),
        ({PACKED: NUMBERS.astype(float)}, "are float64 of the shape (8,), and 8 float numbers were agreed"),
        ({PACKED: NUMBERS.astype(np.int32)}, "are int32 of the shape (8,), and 8 float numbers were agreed"),
        ({PACKED: with_last(math.nan)}, "have a value that is not a number or infinite"),
        ({PACKED: with_last(math.inf)}, "have a value that is not a number or infinite"),
    ],
)
def test_weights_that_were_not_agreed_are_refused(arrays, problem):
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    assert refused(unpack, record, SHAPES, "the site") == f"The weights of the site {problem}."


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_numbers_too_large_for_float16_have_a_way_out():
    large = {**WEIGHTS, "a.bias": torch.tensor([1e6, 0.0])}
    problem = refused(unpack, pack(large, "float16"), SHAPES, "the site")
    assert problem == (
        "The weights of the site have a value that is not a number or infinite; --exchange float32 has room for larger ones."
    )


@pytest.mark.parametrize(
    "data", [b"", b"no array", b"\x80\x04.", NUMBERS.tobytes(), HUGE], ids=["empty", "text", "pickle", "raw", "says that it is huge"]
)
def test_bytes_that_are_no_array_are_refused(data):
    broken = ArrayRecord({PACKED: Array("float32", (8,), "numpy.ndarray", data)})
    assert refused(unpack, broken, SHAPES, "the site") == "The weights of the site cannot be read."


@pytest.mark.parametrize("examples", [0, -3, 2.5])
def test_a_reply_of_no_cases_is_refused(examples):
    reply = reply_to(ask(), NUMBERS, **{"num-examples": examples})
    assert refused(read_answer, reply, SHAPES) == f"The reply is of {examples!r} cases."


@pytest.mark.parametrize("value", [math.nan, math.inf, [0.5, math.nan]])
def test_a_figure_that_is_not_a_number_is_refused(value):
    assert refused(read_answer, reply_to(ask(), NUMBERS, loss=value), SHAPES) == "The figure loss is not a number."


def test_records_of_another_kind_are_refused():
    words = {"metrics": ConfigRecord({"num-examples": 10, "loss": "small"}), "arrays": ArrayRecord({PACKED: Array(NUMBERS)})}
    assert refused(read_answer, Message(RecordDict(words), reply_to=ask()), SHAPES) == "The reply has no figures."
    numbers = {"metrics": MetricRecord(METRICS), "arrays": MetricRecord({PACKED: 1.0})}
    assert refused(read_answer, Message(RecordDict(numbers), reply_to=ask()), SHAPES) == "The weights of the site cannot be read."


def test_a_refusal_is_read_as_its_reason():
    reply = refusal(ask(), "The privacy budget is spent.")
    assert refused(read_answer, reply, SHAPES) == "The privacy budget is spent."
    assert bytes_in(reply) == 0


def test_a_site_refuses_weights_that_were_not_agreed():
    assert refused(read_question, ask(), {"a.bias": (2,)}) == (
        "The weights of the aggregator are float32 of the shape (8,), and 2 float numbers were agreed."
    )


def test_bytes_of_masks_are_counted_too():
    content = RecordDict({"config": ConfigRecord({"masked": [b"12345678", b"12"], "key": b"123", "round": 1})})
    assert bytes_in(Message(content, 1, MessageType.TRAIN)) == 13


def test_only_single_numbers_are_plain():
    assert plain({"loss": 0.5, "num-examples": 3, "label_counts": [1, 2]}) == {"loss": 0.5, "num-examples": 3.0}
