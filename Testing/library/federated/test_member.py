"""A site that speaks Flower's messages: in the clear, and under masks."""

from __future__ import annotations

import pytest
from flwr.app import Message
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from small_federation import flat, make_site, numbers_of, settings, shared

from imagingai.errors import InputError
from imagingai.federated.grid import outside_of_flower
from imagingai.federated.member import Member
from imagingai.federated.messages import TYPES, question


def ask(config, kind: str, **more) -> Message:
    outside_of_flower()
    weights = {} if kind == "survey" else shared(config)
    return Message(question(kind, 1, weights, more, config.exchange), 1, TYPES[kind])


@pytest.mark.parametrize("exchange", ["float32", "float16"])
def test_a_training_is_answered_with_weights_and_figures(exchange, tmp_path):
    config = settings(exchange=exchange)
    member = Member(make_site(config, tmp_path))
    reply = member.answer(ask(config, "train"))
    assert set(reply.content) == {"arrays", "metrics"}
    assert numbers_of(reply).dtype == exchange
    assert numbers_of(reply).tolist() == flat(dict(member.site.learner.network.state_dict())).astype(exchange).tolist()
    assert dict(reply.content["metrics"]) == member.figures


@pytest.mark.parametrize("kind", ["survey", "evaluate", "finish"])
def test_other_answers_hold_figures_only(kind, tmp_path):
    config = settings()
    reply = Member(make_site(config, tmp_path)).answer(ask(config, kind))
    assert set(reply.content) == {"metrics"}
    assert reply.content["metrics"]["num-examples"] == 10


def test_settings_of_the_aggregator_are_refused(tmp_path):
    config = settings()
    with pytest.raises(InputError, match="the setting learning_rate, which the invitation does not name"):
        Member(make_site(config, tmp_path)).answer(ask(config, "train", learning_rate=1.0))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_under_secure_aggregation_nothing_is_answered_in_the_clear(kind, tmp_path):
    config = settings(secure_aggregation=True)
    with pytest.raises(InputError, match="an update that is not masked, but this federation uses secure aggregation; refused"):
        Member(make_site(config, tmp_path)).answer(ask(config, kind))


def test_under_secure_aggregation_the_figures_of_the_last_model_stay(tmp_path):
    config = settings(secure_aggregation=True)
    member = Member(make_site(config, tmp_path))
    reply = member.answer(ask(config, "finish"))
    assert RECORD_KEY_CONFIGS not in reply.content
    assert dict(reply.content["metrics"]) == {"num-examples": 10}
    assert "loss_before" in member.figures  # for the site's own history
