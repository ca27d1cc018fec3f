"""What a site does with an instruction: only what the invitation allows, and only what it declares leaves it."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from site_data import CLASSES
from small_federation import make_site, opener, settings, shared

from imagingai.errors import InputError
from imagingai.federated.actions import shares
from imagingai.federated.classifier import load_classifier, predict
from imagingai.federated.config import ProjectConfig
from imagingai.federated.local import train_locally
from imagingai.federated.site import Site, digest, packed_size

MLP = {"network": "mlp", "private": "head"}
FIGURES = {"loss", "score", "accuracy", "sensitivity", "specificity", "auc"}


def ask(site: Site, kind: str, weights=None, number: int = 1, **values):
    """An instruction as the aggregator sends it."""
    weights = shared(site.config) if weights is None else weights
    return site.handle(kind, weights, {"kind": kind, "server-round": number, **values})


def refused(site: Site, kind: str = "train", **values) -> str:
    with pytest.raises(InputError) as error:
        ask(site, kind, **values)
    return str(error.value)


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# --- what leaves


@pytest.mark.parametrize("changes", [{}, {"network": "mlp"}, MLP])
def test_what_leaves_is_what_the_invitation_declares(changes, tmp_path):
    """The tensors of the invitation, and the figures of which consent.py speaks: cases, loss, how good, time."""
    config = settings(**changes)
    update, metrics = ask(make_site(config, tmp_path), "train")
    assert {name: tuple(value.shape) for name, value in update.items()} == shares(config)
    assert set(metrics) == {"num-examples", "held_out", *(f"{name}_before" for name in FIGURES), "loss", "seconds", "epochs", "epsilon"}
    assert all(isinstance(value, (int, float)) for value in metrics.values())


@pytest.mark.parametrize(
    ("changes", "more"), [({}, set()), ({"label_weighting": True}, {"label_counts"})], ids=["nothing more", "label weighting"]
)
def test_a_survey_tells_counts_only_as_far_as_the_project_needs_them(changes, more, tmp_path):
    weights, metrics = make_site(settings(**changes), tmp_path).handle("survey", {}, {"kind": "survey", "server-round": 0})
    assert weights == {}
    assert set(metrics) == {"num-examples", "held_out"} | more
    assert metrics.get("label_counts", [5, 5]) == [5, 5]


def test_measuring_changes_nothing_and_sends_no_weights(tmp_path):
    site = make_site(settings(), tmp_path)
    weights, metrics = ask(site, "evaluate")
    assert weights == {}
    assert set(metrics) == {"num-examples", "held_out", *(f"{name}_before" for name in FIGURES)}
    assert (metrics["num-examples"], metrics["held_out"]) == (10, 2)
    assert not (site.folder / "private.safetensors").exists()
    assert same(site.learner.network.state_dict(), shared(site.config))


def test_a_training_begins_with_the_received_weights_whatever_was_before(tmp_path):
    """So that a round can be repeated; the loss is that of the received model."""
    site = make_site(settings(), tmp_path)
    first, figures = ask(site, "train")
    ask(site, "train", first, number=2)
    again, once_more = ask(site, "train")
    assert same(first, again)
    assert once_more["loss_before"] == figures["loss_before"]
    assert not same(first, shared(site.config))


def test_the_update_is_local_training_and_nothing_else(tmp_path):
    config = settings(epochs=3.0)
    site = make_site(config, tmp_path)
    update, metrics = ask(site, "train")
    network = opener(config, tmp_path / "data")(None).network
    network.load_state_dict(shared(config))
    figures = train_locally(network, opener(config, tmp_path / "data")(None), config, round=1, epochs=3.0)
    assert same(update, network.state_dict())
    assert metrics["loss"] == figures["loss"]


# --- what is refused


@pytest.mark.parametrize("kind", ["delete", "", "TRAIN"])
def test_another_kind_is_refused(kind, tmp_path):
    assert refused(make_site(settings(), tmp_path), kind) == (
        f"The aggregator asks for {kind!r}, which is none of survey, train, evaluate, finish; it was refused."
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("train", {"learning_rate": 10.0}),
        ("train", {"epochs": 100.0}),  # the project does not say seconds
        ("train", {"label_distribution": [0.5, 0.5]}),
        ("train", {"histogram": [1.0]}),
        ("evaluate", {"fab": b"print('hello')"}),
        ("finish", {"epochs": 1.0}),
    ],
)
def test_a_setting_that_the_invitation_does_not_name_is_refused(kind, values, tmp_path):
    (name,) = values
    assert refused(make_site(settings(), tmp_path), kind, **values) == (
        f"The aggregator sends the setting {name}, which the invitation does not name; it was refused."
    )


def test_epochs_and_shares_of_classes_come_with_the_settings_that_need_them(tmp_path):
    site = make_site(settings(seconds=10.0, label_weighting=True), tmp_path)
    _, metrics = ask(site, "train", epochs=2.5, label_distribution=[0.25, 0.75])
    assert metrics["epochs"] == 2.5
    assert refused(site, "evaluate", epochs=1.0).startswith("The aggregator sends the setting epochs")


@pytest.mark.parametrize("epochs", [0.0, -1.0, 1001.0, float("nan"), float("inf"), "all", [1.0]])
def test_epochs_without_sense_are_refused(epochs, tmp_path):
    assert (
        refused(make_site(settings(seconds=10.0), tmp_path), epochs=epochs) == f"The aggregator asks for {epochs!r} epochs; it was refused."
    )


@pytest.mark.parametrize("number", [None, "1", 1.5, [1]])
def test_a_round_without_a_number_is_refused(number, tmp_path):
    with pytest.raises(InputError, match=r"^The aggregator does not say which round this is; it was refused\.$"):
        make_site(settings(), tmp_path).handle("train", shared(settings()), {"kind": "train", "server-round": number})


# --- the average histogram


class Harmonized:
    """A site of which only the histogram matters: its data is a table, which has none."""

    def __init__(self, tmp_path):
        self.table, self.opened = opener(settings(), tmp_path / "data"), []
        self.site = Site(settings(harmonization="nyul"), self.open, tmp_path / "memory")

    def open(self, histogram):
        self.opened.append(histogram)
        return self.table(None)


EVEN, STEEP = [1 / 128] * 128, [1.0] + [0.0] * 127


def test_the_average_histogram_is_kept_and_never_replaced(tmp_path):
    """With another histogram the same noise would hide other data: two such updates would give the data away."""
    made = Harmonized(tmp_path)
    ask(made.site, "train", histogram=EVEN)
    ask(made.site, "train", number=2, histogram=EVEN)
    assert made.opened == [None, EVEN]
    assert refused(made.site, histogram=STEEP) == (
        "The aggregator sends another average histogram than before; it was refused. Join in a new folder."
    )
    Site(made.site.config, made.open, made.site.folder)  # a new process
    assert made.opened == [None, EVEN, EVEN]


@pytest.mark.parametrize("histogram", ["flat", 3.0, ["a", "b"], [1, 2]])
def test_a_histogram_of_another_kind_is_refused(histogram, tmp_path):
    site = Harmonized(tmp_path).site
    assert refused(site, histogram=histogram) == "The average histogram of the aggregator is not a list of numbers; it was refused."


def test_a_histogram_that_does_not_fit_is_not_kept(tmp_path):
    made = Harmonized(tmp_path)
    assert refused(made.site, histogram=[0.5, 0.5]).startswith("That is no histogram of intensities: 128 shares")
    ask(made.site, "train", histogram=EVEN)


def test_the_aggregator_does_not_learn_which_case_cannot_be_read_any_more(tmp_path):
    made = Harmonized(tmp_path)

    def fail(histogram):
        raise InputError("Miller_John.nii.gz cannot be read.")

    made.site.open_data = fail
    assert refused(made.site, histogram=EVEN) == "This site cannot read its data any more; its own log says why."


# --- the privacy budget

PRIVATE = {"epsilon": 8.0, "batch": 5}


def test_the_privacy_budget_is_for_as_many_trainings_as_there_are_rounds(tmp_path):
    site = make_site(settings(**PRIVATE), tmp_path)
    first, figures = ask(site, "train")
    again, _ = ask(site, "train")  # the same message: the same noise, and nothing new is told
    assert same(first, again)
    second, later = ask(site, "train", first, number=2)
    assert 0 < figures["epsilon"] < later["epsilon"] <= 8
    sentence = "This site's privacy budget (epsilon 8) is spent after 2 trainings."
    assert refused(site, weights=second, number=2) == sentence
    site = Site(site.config, site.open_data, site.folder)  # a new process does not forget
    assert refused(site, weights=second, number=1) == sentence
    assert same(ask(site, "train")[0], first)


@pytest.mark.parametrize("number", [0, -1, 3])
def test_a_round_that_nobody_agreed_to_is_refused(tmp_path, number):
    site = make_site(settings(rounds=2), tmp_path)
    assert refused(site, number=number) == f"The aggregator asks for round {number} of 2; it was refused."


def test_a_training_from_other_private_layers_spends_the_budget_too(tmp_path):
    """The message is the same, but the noise would be another one: it could be averaged away."""
    site = make_site(settings(**PRIVATE, **MLP), tmp_path)
    first, _ = ask(site, "train")
    ask(site, "train", first, number=2)
    assert same(ask(site, "train")[0], first)  # it begins with the private layers as they were before round 1
    assert len(site.memory["trained"]) == 2
    site.first["2.bias"] += 1
    assert refused(site) == "This site's privacy budget (epsilon 8) is spent after 2 trainings."


def test_the_secret_of_the_noise_stays_with_its_owner(tmp_path):
    sites = [make_site(settings(**PRIVATE), tmp_path / name) for name in "ab"]
    updates = [ask(site, "train")[0] for site in sites]  # the same data, the same weights
    assert not same(*updates)
    file = sites[0].folder / "memory.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text(encoding="utf-8"))["secret"] == sites[0].memory["secret"] != sites[1].memory["secret"]


# --- what stays


def test_private_layers_stay_over_a_restart(tmp_path):
    config = settings(**MLP)
    site = make_site(config, tmp_path)
    update, _ = ask(site, "train")
    kept = load_file(site.folder / "private.safetensors")
    assert kept.keys() == {"2.weight", "2.bias"}
    assert update.keys() == {"0.weight", "0.bias"}
    trained = {name: value.clone() for name, value in site.learner.network.state_dict().items()}
    restarted = Site(config, site.open_data, site.folder)
    ask(restarted, "evaluate", update)
    assert same(dict(restarted.learner.network.state_dict()), trained)


@pytest.mark.parametrize("changes", [MLP, {"network": "mlp", "fourier": 0.3}], ids=["head", "fourier"])
def test_a_round_that_is_repeated_begins_with_what_stayed_here_before_it(changes, tmp_path):
    """So that a federation that was killed goes on as if nothing had happened."""
    site = make_site(settings(rounds=3, **changes), tmp_path)
    first, _ = ask(site, "train")
    second, figures = ask(site, "train", first, number=2)
    for _ in range(2):
        again, measured = ask(Site(site.config, site.open_data, site.folder), "train", first, number=2)
        assert same(again, second)
        assert measured["loss_before"] == figures["loss_before"]
    third, _ = ask(site, "train", second, number=3)
    assert not same(third, second)


def test_the_fourier_aggregation_begins_with_the_own_weights(tmp_path):
    """In the second of three rounds the low frequencies come from the others, the rest stays; in the last one all is received."""
    site = make_site(settings(network="mlp", fourier=0.3, rounds=3, learning_rate=1e-6, held_out=0.0), tmp_path)
    own, _ = ask(site, "train")
    assert load_file(site.folder / "private.safetensors").keys() == own.keys()
    others = {name: torch.zeros_like(value) for name, value in own.items()}
    mixed, metrics = ask(site, "train", others, number=2)  # at this rate what comes back is what it began with
    assert 0.1 < float(mixed["0.weight"].norm() / own["0.weight"].norm()) < 0.9
    assert metrics["loss_before"] == pytest.approx(np.log(2))  # what is measured is the model of the others
    received, _ = ask(site, "train", others, number=3)
    assert float(received["0.weight"].norm()) < 1e-3


# --- the end


def finish(config: ProjectConfig, tmp_path):
    site = make_site(config, tmp_path)
    update, _ = ask(site, "train", number=1)
    update, _ = ask(site, "train", update, number=2)
    ask(site, "finish", update, number=2)
    return site, json.loads((site.folder / "results.json").read_text(encoding="utf-8"))


def test_at_the_end_the_global_model_is_there_and_can_be_used(tmp_path):
    site, results = finish(settings(), tmp_path)
    assert results.keys() == {"global"} and results["global"].keys() == FIGURES
    assert not (site.folder / "personal.safetensors").exists()
    rows = predict(load_classifier(site.folder / "model.safetensors"), {"table": tmp_path / "data" / "table.csv"})
    assert [row["case"] for row in rows] == [f"p{k:02d}" for k in range(12)]
    assert {row["prediction"] for row in rows} == set(CLASSES)


def test_fine_tuning_gives_a_model_of_ones_own_as_well(tmp_path):
    site, results = finish(settings(fine_tune=20.0), tmp_path)
    assert results.keys() == {"global", "personal"}
    assert results["personal"]["loss"] != results["global"]["loss"]
    models = [load_file(site.folder / f"{name}.safetensors") for name in ("model", "personal")]
    assert not same(*models)


def test_fine_tuning_stays_here_and_needs_no_noise(tmp_path):
    """With the budget all spent: what is trained at the end is never sent."""
    site, results = finish(settings(**PRIVATE, fine_tune=2.0), tmp_path)
    assert len(site.memory["trained"]) == site.config.rounds
    assert results["personal"] != results["global"]


def test_with_private_layers_there_is_no_global_model(tmp_path):
    site, results = finish(settings(**MLP), tmp_path)
    assert results.keys() == {"global", "personal"}
    assert not (site.folder / "model.safetensors").exists()
    assert (site.folder / "personal.safetensors").exists()


def test_digest_and_size():
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    assert digest(weights) == digest(dict(reversed(weights.items())))
    assert digest(weights) != digest({**weights, "b": torch.ones(4) * 1.0000001})
    assert digest(weights) != digest({"a": torch.zeros(2, 3), "c": torch.ones(4)})
    assert packed_size(weights, settings()) == 40
    assert packed_size(weights, settings(exchange="float16")) == 20
