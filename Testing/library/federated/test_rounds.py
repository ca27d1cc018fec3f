"""The round loop: it computes what the papers say, goes on after every kind of stop, and gives up with a sentence."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from disk import full_disk
from site_data import write_table
from small_federation import flat, make_rounds, make_site, make_sites, members, moved, opener, settings, shared

from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.federated import rounds as module
from imagingai.federated.learner import build_network, open_learner
from imagingai.federated.local import train_locally
from imagingai.federated.rounds import means
from imagingai.federated.simulate import Pooled
from imagingai.federated.site import Site, digest

STEP = {"batch": 100, "held_out": 0.0, "select": "last"}  # one step on all cases of a site


def run(config, sites, folder):
    """A federation of real sites."""
    return make_rounds(config, members(sites), folder).run()


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def log(rounds):
    return [event.text for event in rounds.store.events()]


# --- what it computes


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_a_federation_of_one_site_is_local_training_bit_for_bit(strategy, tmp_path):
    config = settings(strategy=strategy, rounds=3, epochs=2.0, batch=4, min_sites=1, select="last")
    found = run(config, {"only": make_site(config, tmp_path)}, tmp_path / "aggregator")
    network, learner = build_network(config), opener(config, tmp_path / "again")(None)
    for number in (1, 2, 3):
        train_locally(network, learner, config, round=number, epochs=2.0)
    assert same(found, dict(network.state_dict()))
    assert not same(found, shared(config))


def pooled_step(config, sites) -> dict[str, torch.Tensor]:
    """One step on the data of all sites in one place."""
    pooled = Pooled([site.open_data(None) for site in sites.values()])
    network = build_network(config)
    train_locally(network, pooled, config, round=1, epochs=1.0)
    return dict(network.state_dict())


@pytest.mark.parametrize("strategy", ["fedavg", "equal", "fedsgd"])
def test_one_step_of_equal_sites_is_one_step_on_the_pooled_data(strategy, tmp_path):
    """McMahan et al. 2017, section 2: with E = 1 and B = infinity FedAvg is FedSGD."""
    config = settings(strategy=strategy, rounds=1, **STEP)
    sites = make_sites(config, tmp_path, {"north": 12, "south": 12, "west": 12})
    found = run(config, sites, tmp_path / "aggregator")
    for name, expected in pooled_step(config, sites).items():
        torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize(("strategy", "is_pooled"), [("fedsgd", True), ("fedavg", True), ("equal", False)])
def test_sites_of_different_size_count_by_their_cases(strategy, is_pooled, tmp_path):
    config = settings(strategy=strategy, rounds=1, **STEP)
    sites = make_sites(config, tmp_path, {"large": 30, "small": 6})
    found = run(config, sites, tmp_path / "aggregator")
    close = [torch.allclose(found[name], expected, atol=1e-6) for name, expected in pooled_step(config, sites).items()]
    assert all(close) == is_pooled


def test_fedsgd_has_a_step_size_of_the_aggregator(tmp_path):
    config = settings(strategy="fedsgd", server_rate=0.5, rounds=1, **STEP)
    sites = make_sites(config, tmp_path, {"north": 12, "south": 6})
    found, start, whole = run(config, sites, tmp_path / "aggregator"), shared(config), pooled_step(config, sites)
    for name in found:
        torch.testing.assert_close(found[name], start[name] + 0.5 * (whole[name] - start[name]))


def test_secure_aggregation_gives_the_same_model(tmp_path):
    """Within its rounding, over all rounds; the aggregator has no figures of single sites."""
    found, stores = {}, {}
    for secure in (False, True):
        config = settings(secure_aggregation=secure, rounds=2, epochs=2.0, select="last")
        place = tmp_path / str(secure)
        sites = make_sites(config, place, {"north": 12, "south": 8, "west": 10})
        rounds = make_rounds(config, members(sites), place / "aggregator")
        found[secure], stores[secure] = rounds.run(), rounds.store
    for name, expected in found[False].items():
        torch.testing.assert_close(found[True][name], expected, rtol=0, atol=1e-5)
    plain, masked = (store.rounds()[1].metrics for store in stores.values())
    assert masked["loss_before"] == pytest.approx(plain["loss_before"], abs=1e-3)
    assert [set(row.metrics) for row in stores[True].updates()] == [{"num-examples"}] * 6
    assert [row.weight for row in stores[True].updates(2)] == pytest.approx([row.weight for row in stores[False].updates(2)])
    assert stores[True].get("final")["sites"] == {}


def test_one_site_cannot_hide(tmp_path):
    with pytest.raises(InputError) as error:
        settings(secure_aggregation=True, min_sites=1)
    assert str(error.value) == "--min-sites is 1, and --secure-aggregation hides a site among others only. Take 2 or more."


def test_float16_halves_the_bytes_and_hardly_changes_the_model(tmp_path):
    found = {}
    for exchange in ("float32", "float16"):
        config = settings(exchange=exchange)
        sites = make_sites(config, tmp_path / exchange, {"north": 12, "south": 12})
        rounds = make_rounds(config, members(sites), tmp_path / exchange / "aggregator")
        found[exchange] = rounds.run()
        assert {row.bytes for row in rounds.store.updates()} == {24 if exchange == "float32" else 12}
    torch.testing.assert_close(found["float16"], found["float32"], rtol=2e-3, atol=2e-3)
    assert found["float16"]["weight"].dtype == torch.float32


def test_a_poisoned_update_is_counted_by_fedavg_and_has_no_weight_under_outlier(tmp_path):
    """A site that sends its update times -20, as in Alkhunaizi et al. 2022."""
    weights, models = {}, {}
    for strategy in ("fedavg", "outlier"):
        config = settings(strategy=strategy, rounds=1, select="last", features=tuple(f"f{k}" for k in range(100)))
        random = np.random.default_rng(0)
        noise = {name: random.normal(size=202).astype(np.float32) * 0.2 + 1 for name in ("a", "b", "c", "d")}
        noise["poisoned"] = -20 * noise["d"]
        sites = {name: partial(moved, by=by) for name, by in noise.items()}
        rounds = make_rounds(config, sites, tmp_path / strategy)
        models[strategy] = flat(rounds.run()) - flat(shared(config))
        weights[strategy] = {row.site: row.weight for row in rounds.store.updates()}
    assert weights["fedavg"] == dict.fromkeys(noise, 0.2)
    assert weights["outlier"]["poisoned"] < 1e-9
    assert models["fedavg"].mean() == pytest.approx((4 - 20) / 5, abs=0.1)
    assert models["outlier"].mean() == pytest.approx(1, abs=0.05)


# --- what goes with a question


def recorded(config, tmp_path, counts):
    """Questions that real sites have got: (site, kind, settings)."""
    sites, seen = make_sites(config, tmp_path, counts), []

    def listen(name, answer, message):
        values = dict(message.content["config"])
        seen.append((name, values.pop("kind"), values))
        return answer(message)

    rounds = make_rounds(config, {name: partial(listen, name, answer) for name, answer in members(sites).items()}, tmp_path / "aggregator")
    return rounds, seen


def test_the_questions_of_a_whole_federation(tmp_path):
    rounds, seen = recorded(settings(), tmp_path, {"north": 12, "south": 12})
    rounds.run()
    order = [("train", 1), ("train", 2), ("evaluate", 2), ("finish", rounds.store.get("chosen"))]
    assert seen == [(site, kind, {"server-round": number}) for kind, number in order for site in ("north", "south")]


def test_the_label_distribution_is_that_of_all_sites(tmp_path):
    rounds, seen = recorded(settings(label_weighting=True, rounds=1), tmp_path, {"north": 12, "south": 12})
    rounds.run()
    values = [values for _, kind, values in seen if kind == "train"]
    assert values == [{"server-round": 1, "label_distribution": [0.5, 0.5]}] * 2
    assert [kind for _, kind, _ in seen].count("survey") == 2
    assert all("label_distribution" not in values for _, kind, values in seen if kind != "train")


def test_the_average_histogram_weighs_sites_by_their_cases(tmp_path):
    """Linardos et al. 2022: (30 x a + 10 x b) / 40."""
    steep, even = [1.0] + [0.0] * 127, [1 / 128] * 128

    def survey(histogram, cases, message):
        more = {"histogram": histogram, "num-examples": cases} if message.content["config"]["kind"] == "survey" else {}
        seen.append(list(message.content["config"].get("histogram", [])))
        return moved(message, **more)

    seen, config = [], settings(harmonization="nyul", rounds=1)
    sites = {"a": partial(survey, steep, 30), "b": partial(survey, even, 10)}
    make_rounds(config, sites, tmp_path).run()
    expected = 0.75 * np.array(steep) + 0.25 * np.array(even)
    assert seen[:2] == [[], []]  # the survey
    for histogram in seen[2:]:
        np.testing.assert_allclose(histogram, expected)


def test_semi_synchronous_sites_train_as_long_as_agreed(tmp_path):
    """20 s in a round: a site that needs 4 s for an epoch makes 5 of them, one that needs 40 s half of one; the first round tells."""
    asked = {"fast": [], "slow": []}

    def answer(name, seconds, message):
        if (epochs := message.content["config"].get("epochs")) is not None:
            asked[name].append(epochs)
        return moved(message, epochs=epochs or 1.0, seconds=seconds * (epochs or 1.0))

    config = settings(seconds=20.0, epochs=2.0, rounds=3)
    make_rounds(config, {"fast": partial(answer, "fast", 4.0), "slow": partial(answer, "slow", 40.0)}, tmp_path).run()
    assert asked == {"fast": [2.0, 5.0, 5.0], "slow": [2.0, 0.5, 0.5]}


# --- which model becomes the result


def scored(scores, message):
    """A site whose held-out cases are best at one round: scores of the models of rounds 0, 1, 2 ..."""
    config = message.content["config"]
    number = config["server-round"] - (config["kind"] == "train")
    return moved(message, score_before=scores[min(number, len(scores) - 1)])


@pytest.mark.parametrize(("select", "chosen"), [("best", 2), ("last", 3)])
def test_the_best_round_by_the_held_out_cases_becomes_the_model(select, chosen, tmp_path):
    """Each round measures the model of the round before; the initial weights (0.99) are no result."""
    config = settings(rounds=3, select=select)
    rounds = make_rounds(config, dict.fromkeys("ab", partial(scored, [0.99, 0.5, 0.9, 0.7])), tmp_path)
    weights = rounds.run()
    assert rounds.store.get("chosen") == chosen
    np.testing.assert_allclose(flat(weights), flat(shared(config)) + chosen, rtol=1e-6)
    rounds.finished()
    assert rounds.store.get("message") == f"All 3 rounds are done; the model is that of round {chosen}."


def test_of_equal_rounds_the_last_one_is_chosen(tmp_path):
    rounds = make_rounds(settings(rounds=3), dict.fromkeys("ab", moved), tmp_path)
    rounds.run()
    assert rounds.store.get("chosen") == 3


def test_means_weigh_by_cases_what_all_sites_have():
    class Some:
        def __init__(self, **metrics):
            self.metrics = metrics

    answers = {"a": Some(**{"num-examples": 30, "loss": 1.0, "auc": 0.5}), "b": Some(**{"num-examples": 10, "loss": 3.0, "list": [1.0]})}
    assert means(answers) == {"loss": 1.5}


# --- too few


def test_a_round_without_enough_updates_is_repeated_and_then_given_up(tmp_path):
    tries = []

    def refuse(message):
        tries.append(message)
        raise InputError("The data is gone.")

    rounds = make_rounds(settings(), {"good": moved, "bad": refuse}, tmp_path)
    with pytest.raises(JobFailed) as error:
        rounds.run()
    assert str(error.value) == (
        "Round 1 was tried 3 times and never had the 2 answers that it needs. "
        "The log says why; look after the sites, and go on with: imagingai federated resume."
    )
    assert len(tries) == 3
    assert log(rounds).count("Round 1: 1 answers can be used, 2 are needed. It is repeated.") == 3
    assert log(rounds).count("bad, train round 1: failed: The data is gone.") == 3


def test_a_round_that_is_repeated_once_goes_on(tmp_path):
    tries = []

    def moody(message):
        tries.append(message)
        if len(tries) == 1:
            raise InputError("Not now.")
        return moved(message)

    rounds = make_rounds(settings(rounds=1, select="last"), {"good": moved, "moody": moody}, tmp_path)
    np.testing.assert_allclose(flat(rounds.run()), flat(shared(settings())) + 1, rtol=1e-6)
    assert [(row.site, row.state) for row in rounds.store.updates()] == [("good", "counted"), ("moody", "counted")]


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"sizes": [1.0, 2.0]}, "The figure sizes is not of the agreed size."),
        ({"loss": [1.0]}, "The figure loss is not of the agreed size."),
        ({"score_before": [0.5, 0.5]}, "The figure score_before is not of the agreed size."),
    ],
)
@pytest.mark.parametrize("strategy", ["fedavg", "qfair"])
def test_figures_of_another_kind_do_not_stop_a_federation(strategy, figures, reason, tmp_path):
    """One site sends a list where the others send a number."""
    rounds = make_rounds(settings(strategy=strategy), {"a": moved, "b": moved, "odd": partial(moved, **figures)}, tmp_path)
    rounds.run()
    assert [(row.site, row.state, row.reason) for row in rounds.store.updates(2)] == [
        ("a", "counted", ""),
        ("b", "counted", ""),
        ("odd", "rejected", reason),
    ]


@pytest.mark.parametrize(("strategy", "missing"), [("loss", "loss"), ("qfair", "loss_before"), ("fedavg", "score_before")])
def test_missing_figures_do_not_stop_a_federation(strategy, missing, tmp_path):
    def poor(message):
        reply = moved(message)
        del reply.content["metrics"][missing]
        return reply

    rounds = make_rounds(settings(strategy=strategy, rounds=1), {"a": moved, "b": moved, "poor": poor}, tmp_path)
    rounds.run()
    assert {row.site: row.reason for row in rounds.store.updates()} == {"a": "", "b": "", "poor": f"The figure {missing} is missing."}


STEEP = [1.0] + [0.0] * 127


@pytest.mark.parametrize(
    ("changes", "good", "bad", "reason"),
    [
        ({"label_weighting": True}, {"label_counts": [3, 5]}, {}, "The figure label_counts is missing."),
        ({"label_weighting": True}, {"label_counts": [3, 5]}, {"label_counts": [3]}, "The figure label_counts is not of the agreed size."),
        ({"label_weighting": True}, {"label_counts": [3, 5]}, {"label_counts": [-3, 5]}, "The counts of the classes are [-3, 5]."),
        ({"label_weighting": True}, {"label_counts": [3, 5]}, {"label_counts": [0, 0]}, "The counts of the classes are [0, 0]."),
        ({"harmonization": "nyul"}, {"histogram": STEEP}, {"histogram": STEEP[:5]}, "The figure histogram is not of the agreed size."),
        ({"harmonization": "nyul"}, {"histogram": STEEP}, {"histogram": [2.0] * 128}, "That is no histogram of intensities"),
    ],
)
def test_a_survey_that_cannot_be_used_is_left_out(changes, good, bad, reason, tmp_path):
    """The site is in the rounds all the same."""

    def answer(figures, message):
        return moved(message, **figures) if message.content["config"]["kind"] == "survey" else moved(message)

    sites = {"a": partial(answer, good), "b": partial(answer, good), "odd": partial(answer, bad)}
    rounds = make_rounds(settings(rounds=1, **changes), sites, tmp_path)
    rounds.run()
    assert log(rounds)[0].startswith(f"odd, survey round 0: rejected: {reason}")
    assert rounds.store.get("survey") == ({"label_distribution": [0.375, 0.625]} if "label_weighting" in changes else {"histogram": STEEP})
    assert {row.site: row.state for row in rounds.store.updates()} == dict.fromkeys(("a", "b", "odd"), "counted")


def test_a_survey_that_nobody_answers_is_a_sentence(tmp_path):
    rounds = make_rounds(settings(label_weighting=True), dict.fromkeys("ab", moved), tmp_path)
    with pytest.raises(JobFailed, match=r"^The survey was tried 3 times and never had the 2 answers that it needs"):
        rounds.run()


@pytest.mark.parametrize("kinds", [("survey",), ("train", "evaluate"), ("evaluate",)])
def test_sites_that_refuse_under_masks_are_a_sentence_too(kinds, tmp_path):
    """Whatever it is that they refuse."""
    config = settings(secure_aggregation=True, rounds=1)

    def refusing(answer, message):
        if kind_of(message) in kinds:
            raise InputError("The data is gone.")
        return answer(message)

    sites = make_sites(config, tmp_path, {"a": 12, "b": 12})
    rounds = make_rounds(config, {name: partial(refusing, answer) for name, answer in members(sites).items()}, tmp_path / "aggregator")
    with pytest.raises(JobFailed) as error:
        rounds.run()
    what = "The last measurement" if kinds == ("evaluate",) else "Round 1"
    assert str(error.value).startswith(f"{what} was tried 3 times and never had the 2 answers that it needs.")


def kind_of(message):
    """Of the messages of a masked round only one says it; the keys are exchanged before."""
    return message.content["config"]["kind"] if "config" in message.content else ""


# --- a stop, and going on


class Stopping:
    """A federation of two real sites that is killed while the next round goes on."""

    def __init__(self, folder, **changes):
        self.config = settings(rounds=4, epochs=2.0, **changes)
        self.folder = folder
        self.sites = make_sites(self.config, folder, {"north": 12, "south": 10})

    def rounds(self, **more):
        return make_rounds(self.config, members(self.sites), self.folder / "aggregator", **more)

    def stop_after(self, number):
        rounds = self.rounds()

        def tick():
            if rounds.store.get("round", 0) == number:
                raise Cancelled("Killed.")

        rounds.questions.tick = tick
        with pytest.raises(Cancelled):
            rounds.run()
        return rounds


def unbroken(folder, **changes):
    return Stopping(folder, **changes).rounds().run()


@pytest.mark.parametrize("changes", [{}, {"network": "mlp", "private": "head"}, {"label_weighting": True}], ids=["plain", "head", "labels"])
def test_a_federation_that_was_killed_ends_with_the_same_model(changes, tmp_path):
    killed = Stopping(tmp_path / "killed", **changes)
    for number in (0, 1, 3):
        killed.stop_after(number)
    rounds = killed.rounds()
    assert same(rounds.run(), unbroken(tmp_path / "unbroken", **changes))
    assert [row.number for row in rounds.store.rounds() if row.ended] == [1, 2, 3, 4]
    assert log(rounds) == ["Going on after round 1.", "Going on after round 3."]


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_a_masked_round_that_was_broken_off_begins_anew(ticks, tmp_path):
    """After the keys, their shares, the masked vectors; the sites are the same processes, in the middle of the protocol."""
    killed = Stopping(tmp_path / "killed", secure_aggregation=True, select="last")
    answers, seen = members(killed.sites), []
    rounds = make_rounds(killed.config, answers, tmp_path / "killed" / "aggregator")

    def tick():
        if rounds.store.get("message") == "train round 2, under masks":
            seen.append(1)
            if len(seen) == ticks:
                raise Cancelled("Killed.")

    rounds.questions.tick = tick
    with pytest.raises(Cancelled):
        rounds.run()
    found = make_rounds(killed.config, answers, tmp_path / "killed" / "aggregator").run()
    whole = unbroken(tmp_path / "unbroken", secure_aggregation=True, select="last")
    for name in whole:
        torch.testing.assert_close(found[name], whole[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut off", "missing", "exchanged"])
def test_a_broken_checkpoint_goes_back_one_round(damage, tmp_path):
    killed = Stopping(tmp_path / "killed")
    rounds = killed.stop_after(3)
    file = rounds.file(3)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3] if damage == "cut off" else rounds.file(1).read_bytes())
    again = killed.rounds()
    assert same(again.run(), unbroken(tmp_path / "unbroken"))
    assert log(again) == ["The checkpoint of round 3 is broken; going back one round.", "Going on after round 2."]


def test_without_any_checkpoint_it_begins_anew(tmp_path):
    killed = Stopping(tmp_path / "killed")
    rounds = killed.stop_after(2)
    for number in (1, 2):
        rounds.file(number).unlink()
    again = killed.rounds()
    assert again.resume()[0] == 0
    assert again.store.rounds() == []
    assert same(again.run(), unbroken(tmp_path / "unbroken"))


def test_a_finished_federation_says_the_same_again(tmp_path):
    """For a kill after the last round, before the model was written."""
    done = Stopping(tmp_path)
    first = done.rounds().run()
    assert same(done.rounds().run(), first)


def test_a_full_disk_is_a_sentence_and_the_rounds_before_are_whole(tmp_path, monkeypatch):
    columns = tuple(f"f{k}" for k in range(600))  # a checkpoint of 5 kB
    config = settings(features=columns, rounds=3, select="last")
    numbers = np.random.default_rng(0).normal(size=(600, 6)).round(3).tolist()
    cases = {"case": list("uvwxyz"), "label": ["well", "sick"] * 3}
    table = write_table(tmp_path / "table.csv", {**cases, **dict(zip(columns, numbers, strict=True))})
    site = Site(config, lambda histogram: open_learner(config, {"table": table}), tmp_path / "memory")
    rounds, save = make_rounds(config, members({"a": site, "b": site}), tmp_path), module.save_file

    def save_on_full_disk(tensors, file):
        with full_disk():
            save(tensors, file)

    def tick():
        if rounds.store.get("round", 0) == 1:
            monkeypatch.setattr(module, "save_file", save_on_full_disk)

    rounds.questions.tick = tick
    with pytest.raises(JobFailed) as error:
        rounds.run()
    assert str(error.value).startswith(f"The checkpoint of round 2 could not be written to {tmp_path / 'checkpoints'}: ")
    assert str(error.value).endswith("Free some space, and go on with: imagingai federated resume.")
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["round_0001.safetensors"]
    assert digest(rounds.checkpoint(1)) == rounds.store.rounds()[0].sha256
    monkeypatch.setattr(module, "save_file", save)
    again = make_rounds(config, members({"a": site, "b": site}), tmp_path)
    again.run()
    assert log(again) == ["Going on after round 1."]
