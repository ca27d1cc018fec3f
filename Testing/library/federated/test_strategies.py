"""Rules of aggregation, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import QFedAvg

from imagingai.federated.config import STRATEGIES as NAMES
from imagingai.federated.config import ProjectConfig
from imagingai.federated.grid import outside_of_flower
from imagingai.federated.strategies import STRATEGIES, aggregate, make_strategy, weights_of

outside_of_flower()


def arrays(values, dtype=np.float32) -> ArrayRecord:
    return ArrayRecord({"weight": Array(np.asarray(values, dtype))})


def reply(node: int, values, examples: int = 10, dtype=np.float32, **metrics) -> Message:
    question = Message(RecordDict(), node, MessageType.TRAIN)
    return Message(
        RecordDict({"arrays": arrays(values, dtype), "metrics": MetricRecord({"num-examples": examples, "loss": 1.0, **metrics})}),
        reply_to=question,
    )


def run(replies, current=(0.0, 0.0), **settings):
    """The new weights, the mean metrics, and what each site weighed."""
    strategy = make_strategy(ProjectConfig(**settings))
    result, metrics = aggregate(strategy, 1, arrays(current), replies)
    return result["weight"].numpy(), metrics, weights_of(strategy, replies)


def test_there_is_a_rule_for_every_name_of_the_settings():
    assert tuple(STRATEGIES) == NAMES


def test_fedavg_of_equal_shards_is_the_mean_and_of_others_follows_their_size():
    same, _, _ = run([reply(1, [1, 2]), reply(2, [3, 6])])
    other, metrics, weights = run([reply(1, [1, 2], 30, loss=1.0), reply(2, [3, 6], 10, loss=3.0)])
    assert same.tolist() == [2, 4]
    assert other.tolist() == [1.5, 3]
    assert weights == {1: 0.75, 2: 0.25}
    assert metrics["loss"] == 1.5


@pytest.mark.parametrize("name", [name for name in NAMES if name != "qfair"])
def test_a_federation_of_one_site_is_that_site(name):
    values = np.random.default_rng(0).normal(size=5)
    result, _, _ = run([reply(1, values)], current=np.zeros(5), strategy=name)
    np.testing.assert_array_equal(result, np.float32(values))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_replies_does_not_matter(name):
    replies = [reply(n, np.random.default_rng(n).normal(size=5), 5 * n, loss_before=1.0 + n) for n in range(1, 6)]
    forward, _, _ = run(replies, current=np.zeros(5), strategy=name)
    backward, _, _ = run(replies[::-1], current=np.zeros(5), strategy=name)
    np.testing.assert_array_equal(forward, backward)
    assert [len(r.content["arrays"]) for r in replies] == [1] * 5  # Flower's median empties what it is given


@pytest.mark.parametrize("name", NAMES)
def test_the_same_updates_give_the_same_bits_in_another_federation(name):
    """The numbers of nodes are drawn by Flower anew in each."""
    models = [np.random.default_rng(n).normal(size=50) for n in range(5)]
    results = []
    for nodes in ((1, 2, 3, 4, 5), (30, 20, 50, 10, 40)):
        replies = [reply(node, models[k], 7 + k, loss_before=1.0 + k) for k, node in enumerate(nodes)]
        results.append(run(replies, current=np.zeros(50), strategy=name)[0])
    np.testing.assert_array_equal(*results)


def test_equal_voting_ignores_the_numbers_of_examples():
    result, _, weights = run([reply(1, [1, 2], 1000), reply(2, [3, 6], 1)], strategy="equal")
    assert result.tolist() == [2, 4]
    assert weights == {1: 0.5, 2: 0.5}


def test_fedsgd_steps_of_the_sites_are_a_step_on_all_examples():
    """Half mean squared distance to the examples, so that the gradient at 0 is minus their mean."""
    examples, rate = [np.array([1.0, 2.0, 3.0]), np.array([10.0])], 0.1
    replies = [reply(n, [rate * e.mean()], len(e)) for n, e in enumerate(examples, 1)]
    result, _, _ = run(replies, current=[0.0], strategy="fedsgd")
    faster, _, _ = run(replies, current=[0.0], strategy="fedsgd", server_rate=2.0)
    assert result == pytest.approx([rate * 4.0])  # mean of 1, 2, 3, 10
    assert faster == pytest.approx([2 * rate * 4.0])


def test_a_site_with_a_high_loss_weighs_less_and_equal_losses_are_fedavg():
    _, _, weights = run([reply(1, [0, 0], loss=1.0), reply(2, [0, 0], loss=3.0)], strategy="loss")
    assert weights[1] / weights[2] == pytest.approx(np.exp((3 - 1) / 2))
    assert run([reply(1, [0, 0], 30), reply(2, [0, 0], 10)], strategy="loss")[2] == pytest.approx({1: 0.75, 2: 0.25})


def test_fairness_0_is_fedavg():
    replies = [reply(1, [1, 2], 30, loss_before=1.0), reply(2, [3, 6], 10, loss_before=5.0)]
    np.testing.assert_allclose(run(replies, strategy="qfair", fairness=0.0)[0], run(replies)[0], rtol=1e-6)


def test_fairness_with_sites_of_equal_size_is_flowers_own():
    replies = [reply(1, [1, 2], loss_before=0.5), reply(2, [3, 6], loss_before=2.0)]
    result, _, weights = run(replies, current=[0.5, 0.5], strategy="qfair", fairness=0.2)
    flower = QFedAvg(client_learning_rate=0.01, q=0.2, train_loss_key="loss_before")
    flower.current_arrays = arrays([0.5, 0.5])
    expected, _ = flower.aggregate_train(1, replies)
    np.testing.assert_allclose(result, expected["weight"].numpy(), rtol=1e-6)
    assert weights[2] > weights[1]  # where the model is bad


def test_without_held_out_cases_fairness_takes_the_training_loss():
    _, _, weights = run([reply(1, [1, 2], loss=0.5), reply(2, [3, 6], loss=2.0)], strategy="qfair", held_out=0.0)
    assert weights[2] / weights[1] == pytest.approx(4**0.2)


def test_median_and_trimmed_mean_leave_a_wild_site_out():
    replies = [reply(n, [value, value]) for n, value in enumerate([1.0, 2.0, 3.0, 1000.0], 1)]
    assert run(replies, strategy="median")[0].tolist() == [2.5, 2.5]
    result, _, weights = run(replies, strategy="trimmed", trim=0.2)
    assert result.tolist() == [2.5, 2.5]  # 0.2 of four sites is one at each end, and not none
    assert weights is None
    assert run(replies, strategy="trimmed", trim=0.0)[0].tolist() == [251.5, 251.5]
    assert run(replies[:2], strategy="trimmed", trim=0.49)[0].tolist() == [1.5, 1.5]


@pytest.mark.parametrize(("sites", "seed"), [(3, 0), (4, 0), (6, 8), (6, 12), (10, 0)])  # seeds 8 and 12: Flower's own takes the attacker
def test_krum_takes_an_honest_site_even_where_updates_are_tiny_beside_the_weights(sites, seed):
    random = np.random.default_rng(seed)
    current = random.normal(size=2000) * 100
    updates = [1e-3 * (1 + 0.1 * random.normal(size=2000)) for _ in range(sites)]
    updates[1] = -20 * updates[1]
    replies = [reply(n, current + update) for n, update in enumerate(updates)]
    result, _, weights = run(replies, current=current, strategy="krum")
    (chosen,) = [node for node, weight in weights.items() if weight]
    assert chosen != 1
    np.testing.assert_array_equal(result, np.float32(current + updates[chosen]))


@pytest.mark.parametrize("sites", [3, 4, 6, 10])
def test_outlier_suppression_saves_the_model_from_a_poisoned_site(sites):
    random = np.random.default_rng(sites)
    updates = [1 + 0.3 * random.normal(size=50) for _ in range(sites)]
    honest = np.mean(updates[1:], axis=0)
    updates[0] = -20 * updates[0]
    replies = [reply(n, update) for n, update in enumerate(updates)]
    result, _, weights = run(replies, current=np.zeros(50), strategy="outlier")
    plain, _, _ = run(replies, current=np.zeros(50))
    assert weights[0] < 1e-9
    np.testing.assert_allclose(result, honest, rtol=1e-5)
    assert np.abs(plain - honest).max() > 1  # what would have happened


def test_metrics_that_one_site_lacks_are_left_out():
    _, metrics, _ = run([reply(1, [1, 2], auc=0.9), reply(2, [3, 6])])
    assert set(metrics) == {"loss"}


def test_float16_updates_are_averaged_in_float32():
    replies = [reply(n, [1.0, 2000.0 + n], dtype=np.float16) for n in range(2)]
    result, _, _ = run(replies)
    assert result.dtype == np.float32
    assert result.tolist() == [1.0, 2000.5]  # above 1024 float16 has whole numbers only
