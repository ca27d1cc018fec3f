"""Secure aggregation: the mean is right, single updates stay hidden, sites may drop out, and nobody can be talked out of the masks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation import secaggplus_utils
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage

from imagingai.errors import InputError, JobFailed
from imagingai.federated.config import ProjectConfig
from imagingai.federated.grid import LocalGrid
from imagingai.federated.masking import FIGURES, decode, encode, masks, protocol, server_side, site_side
from imagingai.federated.messages import question
from imagingai.federated.secure import SecureSite, secure_round
from imagingai.federated.strategies import aggregate, make_strategy

CASES = {1: 10, 2: 20, 3: 30, 4: 5}
WEIGHTS = {"layer.weight": torch.linspace(-1, 1, 600).reshape(30, 20), "bias": torch.linspace(5, 6, 7)}
STAGES = (Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK)


def trained(node: int) -> dict[str, torch.Tensor]:
    """The weights of a site after its training."""
    random = torch.Generator().manual_seed(node)
    return {name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in WEIGHTS.items()}


class Federation:
    """Four sites. fault(node, stage, message, site) -> reply, in place of the site; replies: all that has left the sites."""

    def __init__(self, fault=None, **settings):
        self.config = ProjectConfig(**{"secure_aggregation": True, "deadline": 5.0, **settings})
        self.fault, self.replies = fault, []
        shapes = {name: tuple(value.shape) for name, value in WEIGHTS.items()}
        plain = {node: SimpleNamespace(config=self.config, shapes=shapes, handle=self.handler(node)) for node in CASES}
        self.sites = {node: SecureSite(site) for node, site in plain.items()}
        self.grid = LocalGrid({node: lambda message, node=node: self.answer(node, message) for node in CASES})

    def handler(self, node: int):
        def handle(kind, weights, values):
            metrics = {"num-examples": CASES[node], "loss_before": float(node), "seconds": 12.0} | (
                {"auc_before": 0.5} if node == 1 else {}
            )
            return (trained(node) if kind == "train" else {}), metrics

        return handle

    def answer(self, node: int, message: Message) -> Message | None:
        stage = message.content[RECORD_KEY_CONFIGS][Key.STAGE]
        reply = (self.fault or (lambda node, stage, message, site: site.answer(message)))(node, stage, message, self.sites[node])
        self.replies.append((node, stage, reply))
        return reply

    def round(self, kind="train", cases=CASES):
        return secure_round(self.grid, cases, kind, 1, WEIGHTS, {}, self.config)

    def vector(self, node: int) -> np.ndarray:
        """The masked vector that a site has sent."""
        (reply,) = [reply for sender, stage, reply in self.replies if (sender, stage) == (node, Stage.COLLECT_MASKED_VECTORS)]
        (packed,) = reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        return bytes_to_ndarray(packed)


def plain_mean(nodes, **settings) -> dict[str, torch.Tensor]:
    """The same without secure aggregation."""
    replies = []
    for node in nodes:
        content = RecordDict({"arrays": ArrayRecord(trained(node)), "metrics": MetricRecord({"num-examples": CASES[node]})})
        replies.append(Message(content, reply_to=Message(RecordDict(), node, MessageType.TRAIN)))
    arrays, _ = aggregate(make_strategy(ProjectConfig(**settings)), 1, ArrayRecord(dict(WEIGHTS)), replies)
    return arrays.to_torch_state_dict()


def assert_mean(result, nodes, **settings):
    for name, expected in plain_mean(nodes, **settings).items():
        torch.testing.assert_close(result.weights[name], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "equal"])
def test_the_mean_is_the_plain_one_within_quantization(strategy):
    result = Federation(strategy=strategy).round()
    assert_mean(result, CASES, strategy=strategy)
    assert result.sites == [1, 2, 3, 4]
    assert result.problems == {}


def test_two_sites_are_enough_and_float16_is_exchanged():
    federation = Federation(exchange="float16")
    result = federation.round(cases={1: 10, 2: 20})
    for name in WEIGHTS:
        half = WEIGHTS[name].half().float()
        expected = half + ((trained(1)[name] - half) * 10 + (trained(2)[name] - half) * 20) / 30
        torch.testing.assert_close(result.weights[name], expected, rtol=0, atol=2e-6)


def test_figures_leave_only_as_a_mean_and_only_if_all_sites_have_them():
    federation = Federation()
    for result in (federation.round(), federation.round("evaluate")):
        assert set(result.metrics) == {"loss_before"}  # the AUC would be that of site 1
        assert result.metrics["loss_before"] == pytest.approx((10 * 1 + 20 * 2 + 30 * 3 + 5 * 4) / 65, abs=1e-3)
    assert result.weights == {}
    for _, stage, reply in federation.replies:
        assert set(reply.content) == {RECORD_KEY_CONFIGS} | ({"metrics"} if stage == Stage.COLLECT_MASKED_VECTORS else set())
        assert dict(reply.content.get("metrics", {"num-examples": 0})).keys() == {"num-examples"}


def test_what_a_site_sends_is_noise_to_the_aggregator():
    federation, again = Federation(), Federation()
    federation.round()
    again.round()
    update = encode(WEIGHTS, trained(3), {"loss_before": 3.0})
    sent = federation.vector(3)[1:].astype(float)
    changed = slice(0, sum(value.numel() for value in WEIGHTS.values()))
    assert abs(np.corrcoef(sent[changed], update[changed])[0, 1]) < 0.2  # of 607 pairs; 0.04 is usual
    assert abs(np.corrcoef(sent[changed], again.vector(3)[1:].astype(float)[changed])[0, 1]) < 0.2
    assert abs(sent.mean() / 2**31 - 1) < 0.15 and sent.std() / 2**32 == pytest.approx(12**-0.5, abs=0.03)  # uniform
    everything = sum(federation.vector(node).astype(np.int64) for node in CASES)[1:].astype(float)
    assert abs(np.corrcoef(everything[changed], update[changed])[0, 1]) < 0.2  # the sum has still the masks of the sites themselves


@pytest.mark.parametrize("stage", STAGES)
def test_a_site_may_drop_out_at_any_stage(stage):
    federation = Federation(lambda node, now, message, site: None if (node, now) == (2, stage) else site.answer(message))
    result = federation.round()
    assert_mean(result, [1, 2, 3, 4] if stage == Stage.UNMASK else [1, 3, 4])  # at the end its vector is there already
    assert result.sites == ([1, 2, 3, 4] if stage == Stage.UNMASK else [1, 3, 4])
    assert result.problems == {2: "it did not answer in time"}


def test_too_few_sites_are_one_sentence():
    federation = Federation(lambda node, stage, message, site: None if node > 1 else site.answer(message))
    with pytest.raises(JobFailed) as error:
        federation.round()
    assert str(error.value) == (
        "Secure aggregation in round 1: 1 sites are left of at least 2 (node 2: it did not answer in time; "
        "node 3: it did not answer in time; node 4: it did not answer in time). Look after those sites, and repeat the round."
    )


def test_without_a_majority_at_the_end_nothing_is_unmasked():
    gone = {Stage.UNMASK: (1, 2)}
    federation = Federation(lambda node, stage, message, site: None if node in gone.get(stage, ()) else site.answer(message))
    with pytest.raises(JobFailed, match="2 sites are left of at least 3"):
        federation.round()


def test_a_site_that_was_restarted_in_between_is_left_out():
    def restart(node, stage, message, site):
        return (SecureSite(site.site) if (node, stage) == (4, Stage.COLLECT_MASKED_VECTORS) else site).answer(message)

    result = Federation(restart).round()
    assert_mean(result, [1, 2, 3])
    assert result.problems[4].startswith("The secure aggregation was broken off (Abort secure aggregation: expect setup")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0])
def test_a_broken_update_is_not_sent(value):
    federation = Federation()
    broken = {**trained(4), "bias": torch.full((7,), value)}
    federation.sites[4].site.handle = lambda kind, weights, values: (broken, {"num-examples": 5})
    result = federation.round()
    assert_mean(result, [1, 2, 3])
    assert result.problems == {
        4: "A weight changed by more than 64, or to no number, which secure aggregation cannot carry. Take a smaller --learning-rate."
    }


def test_a_vector_of_another_length_is_left_out():
    def shorten(node, stage, message, site):
        reply = site.answer(message)
        if (node, stage) == (1, Stage.COLLECT_MASKED_VECTORS):
            reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS] = [ndarray_to_bytes(np.zeros(1, np.uint32))]
        return reply

    result = Federation(shorten).round()
    assert_mean(result, [2, 3, 4])
    assert result.problems == {1: "The masked vector is uint32 (1,) instead of uint32 (628,)."}


def test_a_site_with_more_cases_than_expected_would_overflow_and_is_left_out():
    result = Federation().round(cases={1: 10, 2: 20, 3: 20, 4: 5})
    assert_mean(result, [1, 2, 4])
    assert result.problems == {3: "The aggregator counts on at most 20 cases, and this site has 30; the round has to begin anew."}


# --- an aggregator that wants to know more


def ask(site: SecureSite, **values) -> Message:
    return site.answer(Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(values)}), 1, MessageType.TRAIN))


def test_an_update_without_masks_is_refused():
    site = Federation().sites[1]
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        with pytest.raises(InputError, match="not masked, but this federation uses secure aggregation; refused"):
            site.answer(Message(question("train", 1, WEIGHTS, {}, "float32"), 1, kind))


@pytest.mark.parametrize(("name", "value"), [(Key.THRESHOLD, 1), (Key.MOD_RANGE, 2), (Key.CLIPPING_RANGE, 1e9), (Key.SAMPLE_NUMBER, 1)])
def test_numbers_that_would_weaken_the_masks_are_refused(name, value):
    with pytest.raises(InputError, match="with other numbers than this program's; refused"):
        ask(Federation().sites[1], stage=Stage.SETUP, max_weight=1.0, **{**protocol(4), name: value})


def test_both_secrets_of_a_site_are_refused():
    def greedy(node, stage, message, site):
        if stage == Stage.UNMASK:
            message.content[RECORD_KEY_CONFIGS][Key.DEAD_NODE_ID_LIST] = [3]
        return site.answer(message)

    with pytest.raises(JobFailed, match="asks for both secrets of a site, which would unmask its update; refused"):
        Federation(greedy).round()


def test_stages_out_of_order_are_refused():
    site = Federation().sites[1]
    with pytest.raises(InputError, match="expect setup stage, but receive unmask stage"):
        ask(site, stage=Stage.UNMASK, active_nids=[1, 2], dead_nids=[])
    ask(site, stage=Stage.SETUP, max_weight=1.0, **protocol(4))
    with pytest.raises(InputError, match="Available neighbours number smaller than threshold"):
        ask(site, stage=Stage.SHARE_KEYS)


# --- masks and vectors


def test_masks_depend_on_the_whole_seed():
    """These two seeds are the same to Flower's own generator, which sees 32 bits of them."""
    one, other = bytes(28) + b"abcd", b"abcd" + bytes(28)
    shapes = [(5,), (2, 3)]
    flowers = secaggplus_utils.pseudo_rand_gen
    assert np.array_equal(flowers(one, 2**32, shapes)[0], flowers(other, 2**32, shapes)[0])
    assert not np.array_equal(masks(one, 2**32, shapes)[0], masks(other, 2**32, shapes)[0])
    assert [mask.shape for mask in masks(one, 2**32, shapes)] == shapes
    assert max(mask.max() for mask in masks(one, 16, [(1000,)])) == 15
    assert site_side.pseudo_rand_gen is masks and server_side.pseudo_rand_gen is masks


def test_a_vector_can_be_read_again():
    vector = encode(WEIGHTS, trained(1), {"loss_before": 0.25, "mae_before": 1e9, "auc_before": float("nan")})
    weights, metrics = decode(vector, WEIGHTS)
    assert len(vector) == 607 + 2 * len(FIGURES)
    assert metrics == {"loss_before": 0.25}
    for name, value in trained(1).items():
        torch.testing.assert_close(weights[name], value)
