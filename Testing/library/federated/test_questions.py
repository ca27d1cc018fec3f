"""Whom the aggregator asks, how long it waits, whose answer counts, and what it says about all others."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.common.constant import ErrorCode
from small_federation import flat, make_rounds, moved, numbers_of, reply_to, settings, shared

from imagingai.errors import Cancelled, InputError
from imagingai.federated.grid import Late, LocalGrid
from imagingai.federated.messages import TYPES, question


class Sites:
    """Sites that answer by a script, and what they were asked. scripts: name -> one function of a message for all questions, or a list."""

    def __init__(self, folder, grid=LocalGrid, changes=None, **scripts):
        self.config = settings(**{"min_sites": 1, **(changes or {})})
        self.asked = {name: [] for name in scripts}
        self.scripts = scripts
        self.rounds = make_rounds(self.config, {name: partial(self.answer, name) for name in scripts}, folder, grid)
        self.store, self.questions, self.grid = self.rounds.store, self.rounds.questions, self.rounds.grid

    def answer(self, name, message):
        config = message.content["config"]
        script = self.scripts[name]
        answer = script[len(self.asked[name])] if isinstance(script, list) else script
        self.asked[name].append(f"{config['kind']} {config['server-round']}")
        return answer(message)

    def ask(self, number=1, kind="train"):
        """One question to the sites that are free."""
        sites = self.questions.wait_for_sites(kind, number)
        return self.questions.ask(kind, number, shared(self.config), sites, lambda site: {})

    def log(self):
        return [event.text for event in self.store.events()]

    def updates(self):
        return {row.site: (row.state, row.reason) for row in self.store.updates()}


def late(seconds):
    return lambda message: Late(moved(message), seconds)


def silent(message):
    return None


# --- answers


def test_all_sites_are_asked_and_their_answers_come_by_name(tmp_path):
    sites = Sites(tmp_path, south=moved, north=partial(moved, by=2.0))
    answers = sites.ask()
    assert list(answers) == ["north", "south"]
    np.testing.assert_array_equal(flat(answers["north"].weights), flat(shared(sites.config)) + np.float32(2))
    assert answers["south"].metrics["num-examples"] == 10
    assert sites.asked == {"north": ["train 1"], "south": ["train 1"]}
    assert sites.log() == []
    assert {row.name: row.activity for row in sites.store.sites()} == dict.fromkeys(("north", "south"), "train round 1 done")


def test_every_site_gets_its_own_settings(tmp_path):
    seen = {}

    def note(name, message):
        seen[name] = message.content["config"]["epochs"]
        return moved(message)

    sites = Sites(tmp_path, fast=partial(note, "fast"), slow=partial(note, "slow"))
    epochs = {"fast": 5.0, "slow": 0.5}
    names = sites.questions.wait_for_sites("train", 1)
    sites.questions.ask("train", 1, shared(sites.config), names, lambda site: {"epochs": epochs[site]})
    assert seen == epochs


def with_extra_array(message):
    reply = moved(message)
    reply.content["arrays"]["patients"] = Array(np.zeros(3, np.float32))
    return reply


def without_figures(message):
    reply = moved(message)
    del reply.content["metrics"]
    return reply


def broken(message):
    reply = moved(message)
    reply.content["arrays"] = ArrayRecord({"weights": Array("float32", (6,), "numpy.ndarray", b"\x80\x04.")})
    return reply


def refuse(message):
    raise InputError("This site's privacy budget is spent.")


def crash(message):
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "Out of memory."), reply_to=message)


@pytest.mark.parametrize(
    ("bad", "state", "reason"),
    [
        (partial(moved, by=np.nan), "rejected", "The weights of the site have a value that is not a number or infinite."),
        (partial(moved, loss=float("nan")), "rejected", "The figure loss is not a number."),
        (partial(moved, losses=[1.0, float("inf")]), "rejected", "The figure losses is not a number."),
        (lambda message: reply_to(message, numbers_of(message)[:-1]), "rejected",
         "The weights of the site are float32 of the shape (5,), and 6 float numbers were agreed."),
        (with_extra_array, "rejected", "The weights of the site are named patients, weights, and weights was agreed."),
        (lambda message: reply_to(message), "rejected", "The weights of the site are named nothing, and weights was agreed."),
        (without_figures, "rejected", "The reply has no figures."),
        (broken, "rejected", "The weights of the site cannot be read."),
        (lambda message: moved(message, **{"num-examples": 0}), "rejected", "The reply is of 0 cases."),
        (refuse, "failed", "This site's privacy budget is spent."),
        (crash, "failed", "Out of memory."),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_used_is_left_out_and_the_log_says_why(bad, state, reason, tmp_path):
    sites = Sites(tmp_path, good=moved, odd=bad)
    assert list(sites.ask()) == ["good"]
    assert sites.updates() == {"odd": (state, reason)}
    assert sites.log() == [f"odd, train round 1: {state}: {reason}"]
    assert sites.store.events()[0].level == "warning"
    assert sites.asked["odd"] == ["train 1"]  # once


def test_answers_to_other_questions_need_no_weights(tmp_path):
    sites = Sites(tmp_path, north=reply_to, south=refuse)
    assert list(sites.ask(kind="evaluate")) == ["north"]
    assert sites.updates() == {}
    assert sites.log() == ["south, evaluate round 1: failed: This site's privacy budget is spent."]


# --- who is late


def test_after_the_deadline_nobody_is_waited_for(tmp_path):
    sites = Sites(tmp_path, changes={"deadline": 1.0}, quick=moved, dead=silent)
    began = time.time()
    assert list(sites.ask()) == ["quick"]
    assert 0.9 < time.time() - began < 2.0
    assert sites.updates() == {"dead": ("late", "it was late")}
    assert sites.log() == ["dead is left out of train round 1: it was late."]


def test_with_the_quorum_the_others_have_only_the_grace(tmp_path):
    """Of four sites three are 75 %; the fourth one has 0.3 s from then on."""
    three = {"a": moved, "b": moved, "c": late(0.2)}
    sites = Sites(tmp_path, changes={"quorum": 0.75, "grace": 0.3}, **three, d=late(60))
    began = time.time()
    assert list(sites.ask()) == ["a", "b", "c"]
    assert 0.4 < time.time() - began < 1.5
    sites = Sites(tmp_path, changes={"quorum": 0.75, "grace": 5.0}, **three, d=late(0.4))
    assert list(sites.ask()) == ["a", "b", "c", "d"]


def test_a_late_site_is_not_asked_while_it_is_busy_and_its_late_answer_frees_it(tmp_path):
    slow = [lambda message: Late(moved(message, by=100.0), 0.5), moved]
    sites = Sites(tmp_path, changes={"quorum": 0.5}, quick=moved, slow=slow)
    assert list(sites.ask(1)) == ["quick"]
    assert list(sites.ask(2)) == ["quick"]
    assert sites.asked["slow"] == ["train 1"]
    time.sleep(0.5)
    answers = sites.ask(3)
    np.testing.assert_array_equal(flat(answers["slow"].weights), flat(shared(sites.config)) + np.float32(1))  # not the one of round 1
    assert sites.asked["slow"] == ["train 1", "train 3"]
    assert [(row.round, row.state) for row in sites.store.updates()] == [(1, "late")]


class Line(LocalGrid):
    """A grid whose sites leave and come back: away, or connected at another time."""

    def __init__(self, sites):
        super().__init__(sites)
        self.online = super().activated()

    def activated(self):
        return dict(self.online)


def test_a_site_that_has_left_is_not_waited_for(tmp_path):
    sites = Sites(tmp_path, Line, here=moved, gone=lambda message: sites.grid.online.pop(2) and None)
    assert list(sites.ask()) == ["here"]
    assert sites.log() == ["gone is left out of train round 1: it is offline."]
    assert sites.questions.busy == {}
    assert sites.store.get("online") == ["here"]


def test_a_site_that_comes_back_is_asked_again(tmp_path):
    """It was killed with the question; the new process connects later and has never seen it."""

    def die(message):
        sites.grid.online[2] = time.time() + 0.05  # it is back soon
        return None

    sites = Sites(tmp_path, Line, here=moved, restarted=[die, moved])
    assert list(sites.ask()) == ["here", "restarted"]
    assert sites.asked["restarted"] == ["train 1", "train 1"]
    assert sites.log() == ["restarted has come back in round 1 and is asked again."]


def test_a_busy_site_that_comes_back_is_free_again(tmp_path):
    sites = Sites(tmp_path, Line, changes={"quorum": 0.5}, quick=moved, slow=[silent, moved])
    sites.ask(1)
    assert list(sites.questions.busy) == [2]
    sites.grid.online[2] = time.time()
    assert list(sites.ask(2)) == ["quick", "slow"]


def test_nothing_is_asked_before_there_are_enough_sites(tmp_path):
    waits = []

    def tick():
        waits.append(sites.store.get("message"))
        if len(waits) == 2:
            sites.grid.online[2] = time.time()

    sites = Sites(tmp_path, Line, changes={"min_sites": 2}, first=moved, second=moved)
    sites.questions.tick = tick
    del sites.grid.online[2]
    assert list(sites.ask()) == ["first", "second"]
    assert waits[0] == "1 of at least 2 sites are there for train round 1"
    assert sites.store.get("online") == ["first", "second"]


def test_a_lost_answer_is_not_an_answer(tmp_path):
    """Flower says so of an answer that is on its way; the real one comes later."""

    def lose(message):
        return Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "not there"), reply_to=message)

    sites = Sites(tmp_path, changes={"deadline": 1.0}, good=moved, lost=lose)
    assert list(sites.ask()) == ["good"]
    assert sites.updates() == {"lost": ("late", "it was late")}


def test_waiting_can_be_stopped(tmp_path):
    sites = Sites(tmp_path, good=moved, dead=silent)

    def tick():
        raise Cancelled("Stopped.")

    sites.questions.tick = tick
    with pytest.raises(Cancelled):
        sites.ask()


def test_secure_aggregation_does_not_wait_for_a_site_that_has_left(tmp_path):
    """`send_and_receive` is what Flower's SecAgg+ uses."""
    sites = Sites(tmp_path, Line, here=moved, gone=lambda message: sites.grid.online.pop(2) and None)
    content, began = question("train", 1, shared(sites.config), {}, "float32"), time.time()
    (reply,) = sites.questions.send_and_receive([Message(content, node, TYPES["train"]) for node in (1, 2)], timeout=5.0)
    assert reply.metadata.src_node_id == 1
    assert time.time() - began < 2
