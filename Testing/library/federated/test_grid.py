"""A federation within this process, and the faults that tests can put into it."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from imagingai.errors import Cancelled, InputError
from imagingai.federated.grid import Late, LocalGrid


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def ask(grid: LocalGrid, timeout: float | None = None) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({"round": 1})})
    return grid.send_and_receive([Message(content, node, MessageType.TRAIN) for node in grid.get_node_ids()], timeout=timeout)


def test_every_site_answers_its_own_copy():
    def spoil(message: Message) -> Message:
        message.content["config"]["round"] = 99
        return echo(message)

    replies = ask(LocalGrid({7: spoil, 8: echo}))
    assert [(reply.metadata.src_node_id, reply.content["config"]["round"]) for reply in replies] == [(7, 99), (8, 1)]


def test_a_site_that_refuses_answers_with_an_error():
    def refuse(message: Message) -> Message:
        raise InputError("This was refused.")

    broken, good = ask(LocalGrid({1: refuse, 2: echo}))
    assert broken.has_error() and broken.error.reason == "This was refused."
    assert good.has_content()


def test_stopping_and_bugs_come_through():
    for problem in (Cancelled("Stopped."), ZeroDivisionError()):

        def fail(message: Message, problem: Exception = problem) -> Message:
            raise problem

        with pytest.raises(type(problem)):
            ask(LocalGrid({1: fail}))


def test_a_late_reply_is_pulled_later_and_a_dead_site_never_answers():
    grid = LocalGrid({1: lambda message: Late(echo(message), 0.2), 2: echo, 3: lambda message: None})
    ids = grid.push_messages([grid.create_message(RecordDict(), MessageType.TRAIN, node) for node in (1, 2, 3)])
    (first,) = grid.pull_messages(ids)
    assert first.metadata.src_node_id == 2 and first.metadata.reply_to_message_id == ids[1]
    assert [reply.metadata.src_node_id for reply in ask(grid, timeout=0.0)] == [2]
    assert [reply.metadata.src_node_id for reply in ask(grid, timeout=5.0)] == [2, 1]
