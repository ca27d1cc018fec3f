"""A federation without a network, and what it is compared with: each site alone, at the other sites, all data in one place."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
from invited import write_project
from site_data import CLASSES, table_columns, table_site, write_table
from small_federation import make_rounds, make_sites, members, opener, settings

from imagingai.errors import Cancelled, InputError
from imagingai.federated.learner import build_network, open_learner
from imagingai.federated.local import train_locally
from imagingai.federated.rounds import Rounds
from imagingai.federated.simulate import Pooled, compare, federate, find_sites
from imagingai.federated.simulate_task import mean_table
from imagingai.job import Job, run

COUNTS = {"north": 12, "south": 10, "west": 14}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def openers(config, folder, counts=COUNTS):
    return {name: opener(config, folder / name, count, seed) for seed, (name, count) in enumerate(counts.items())}


@pytest.fixture
def data(tmp_path):
    """Three sites as folders."""
    for seed, (name, count) in enumerate(COUNTS.items()):
        (tmp_path / "sites" / name).mkdir(parents=True)
        table_site(tmp_path / "sites" / name, count, seed)
    return find_sites(tmp_path / "sites")


def by_place(rows):
    return {(row["method"], row["trained_at"], row["site"]): row for row in rows}


# --- one federation


def test_the_same_seed_gives_the_same_model(tmp_path):
    first, again, other = (
        federate(settings(seed=seed), openers(settings(seed=seed), tmp_path), tmp_path / name).weights
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert same(first, again)
    assert not same(first, other)


def test_it_is_what_the_round_loop_of_an_aggregator_computes(tmp_path):
    """The same loop, sites and messages as over a network; only the order in which the sites are named is this one's."""
    config = settings(select="last")
    outcome = federate(config, openers(config, tmp_path), tmp_path / "simulated")
    sites = make_sites(config, tmp_path / "real", COUNTS)
    rounds = make_rounds(config, members(sites), tmp_path / "real" / "aggregator")
    assert isinstance(rounds, Rounds)
    assert same(outcome.weights, rounds.run())


def test_a_simulation_that_was_stopped_goes_on(tmp_path):
    config = settings(rounds=3)

    def stop(done, text):
        if text == "Round 2 of 3":
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        federate(config, openers(config, tmp_path), tmp_path / "stopped", report=stop)
    told = []
    outcome = federate(config, openers(config, tmp_path), tmp_path / "stopped", report=lambda done, text: told.append((done, text)))
    assert told[0] == (pytest.approx(2 / 3), "Round 2 of 3") and told[-1] == (1.0, "Round 3 of 3")
    assert same(outcome.weights, federate(config, openers(config, tmp_path), tmp_path / "unbroken").weights)


def test_the_figures_are_those_of_the_model_at_each_site(tmp_path):
    config = settings()
    outcome = federate(config, openers(config, tmp_path), tmp_path / "run")
    network, learner = build_network(config), openers(config, tmp_path)["south"](None)
    network.load_state_dict(outcome.weights)
    assert outcome.figures()["south"]["loss_before"] == learner.evaluate(network)["loss"]
    assert set(outcome.figures()) == set(COUNTS)


def test_fewer_sites_than_the_project_asks_for_are_enough_here(tmp_path):
    config = settings(min_sites=5)
    assert federate(config, openers(config, tmp_path, {"a": 12, "b": 12}), tmp_path / "run").store.get("chosen") in (1, 2)


# --- compared


def test_every_method_is_measured_where_it_belongs(data, tmp_path):
    rows = by_place(compare(settings(), data, ("federated", "single", "cross", "mix"), tmp_path / "runs"))
    expected = {(method, "all", site) for method in ("federated", "mix") for site in COUNTS}
    expected |= {("single" if a == b else "cross", a, b) for a in COUNTS for b in COUNTS}
    assert set(rows) == expected
    assert all({"loss", "score", "accuracy"} <= set(row) for row in rows.values())


def test_alone_is_local_training_as_long_as_the_federation(data, tmp_path):
    config = settings(rounds=3, epochs=2.0, select="last")
    rows = by_place(compare(config, data, ("single", "cross"), tmp_path / "runs"))
    network, learner = build_network(config), open_learner(config, data["north"])
    for number in (1, 2, 3):
        train_locally(network, learner, config, round=number, epochs=2.0)
    assert rows["single", "north", "north"]["loss"] == learner.evaluate(network)["loss"]
    assert rows["cross", "north", "west"]["loss"] == open_learner(config, data["west"]).evaluate(network)["loss"]


def test_mix_is_training_on_all_cases_in_one_place(data, tmp_path):
    config = settings(select="last")
    rows = by_place(compare(config, data, ("mix",), tmp_path / "runs"))
    learners = {name: open_learner(config, place) for name, place in data.items()}
    network, pooled = build_network(config), Pooled(list(learners.values()))
    assert pooled.examples == sum(learner.examples for learner in learners.values())
    assert pooled.labels == {name: sum(learner.labels[name] for learner in learners.values()) for name in CLASSES}
    for number in (1, 2):
        train_locally(network, pooled, config, round=number, epochs=1.0)
    for name, learner in learners.items():
        assert rows["mix", "all", name]["loss"] == learner.evaluate(network)["loss"]


def test_the_pooled_learner_gives_every_case_of_every_site_once(data):
    learners = [open_learner(settings(), place) for place in data.values()]
    pooled = Pooled(learners)
    every = torch.stack([pooled.example(k, 0)[0] for k in range(pooled.examples)])
    torch.testing.assert_close(every, torch.cat([torch.stack([one.example(k, 0)[0] for k in range(one.examples)]) for one in learners]))


def test_figures_that_a_site_cannot_have_are_left_out_of_the_mean(tmp_path):
    """Where all held-out cases are of one class there is no AUC."""
    columns = table_columns(12)
    poor = write_table(tmp_path / "poor.csv", {**columns, "label": ["well"] * 12})
    config = settings(held_out=0.0)
    learners = [open_learner(config, {"table": file}) for file in (write_table(tmp_path / "rich.csv", columns), poor)]
    figures = Pooled(learners).evaluate(build_network(config))
    assert "auc" not in figures
    assert figures["loss"] == pytest.approx(sum(learner.evaluate(build_network(config))["loss"] for learner in learners) / 2)


def test_a_site_that_is_left_out_only_measures_with_all_of_its_cases(data, tmp_path):
    config = settings(select="last")
    rows = compare(config, data, ("federated", "cross"), tmp_path / "runs", leave_out="west")
    assert {(row["method"], row["trained_at"], row["site"]) for row in rows} == {
        ("federated", "all", "west"),
        ("cross", "north", "west"),
        ("cross", "south", "west"),
    }
    outcome = federate(config, {name: opened for name, opened in from_data(config, data).items() if name != "west"}, tmp_path / "again")
    network, west = build_network(config), open_learner(dataclasses.replace(config, held_out=0.0), data["west"])
    network.load_state_dict(outcome.weights)
    assert rows[0]["loss"] == west.evaluate(network)["loss"]


def from_data(config, data):
    return {name: lambda histogram, place=place: open_learner(config, place) for name, place in data.items()}


def test_to_leave_one_of_two_sites_out_is_a_sentence(data, tmp_path):
    with pytest.raises(InputError, match=r"^To leave a site out, at least 3 are needed, and there are 2\.$"):
        compare(settings(), {name: data[name] for name in ("north", "south")}, ("federated",), tmp_path, leave_out="south")


@pytest.mark.parametrize(
    "changes",
    [
        {"secure_aggregation": True},
        {"label_weighting": True},
        {"strategy": "krum"},
        {"seconds": 0.02},
        {"network": "mlp", "private": "head"},
        {"network": "mlp", "fourier": 0.5},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_all_settings_can_be_compared(changes, data, tmp_path):
    """One site alone has nobody to hide from, and nothing to share."""
    rows = compare(settings(**changes), data, ("federated", "single", "mix"), tmp_path / "runs")
    assert len(rows) == 9


# --- folders, and the task


def test_sites_are_folders(data, tmp_path):
    assert list(data) == ["north", "south", "west"]
    assert data["north"] == {"table": tmp_path / "sites" / "north" / "table.csv"}
    (tmp_path / "sites" / ".hidden").mkdir()
    (tmp_path / "sites" / "notes").mkdir()
    (tmp_path / "sites" / "readme.txt").touch()
    assert find_sites(tmp_path / "sites") == data


def test_folders_without_sites_are_a_sentence(tmp_path):
    with pytest.raises(InputError) as error:
        find_sites(tmp_path)
    assert str(error.value) == f"{tmp_path} has no sites. Each is a folder in it, with images/, labels/ or table.csv."
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        find_sites(tmp_path / "file")
    assert str(error.value) == f"{tmp_path / 'file'} is not a folder. Give the folder that holds one folder per site."


def test_a_study_over_seeds_as_a_job(data, tmp_path):
    project, job = write_project(tmp_path, seed=7), tmp_path / "study"
    inputs = {"project": str(project), "sites": str(tmp_path / "sites")}
    Job("federated-simulate", inputs, {"seeds": 2, "compare": ["single"], "threads": 1}).write(job)
    result = run(job)
    assert {"report.html", "results.csv", "results.json", "runs"} <= set(result["outputs"])
    rows = json.loads((job / "results.json").read_text(encoding="utf-8"))
    assert [(row["seed"], row["method"], row["site"]) for row in rows] == [
        (seed, method, site) for seed in (7, 8) for method in ("federated", "single") for site in COUNTS
    ]
    with (job / "results.csv").open(encoding="utf-8") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row["loss"] for row in rows]
    assert result["table"] == mean_table(rows, list(COUNTS))


def test_a_study_that_leaves_sites_out_as_a_job(data, tmp_path):
    project, job = write_project(tmp_path), tmp_path / "study"
    inputs = {"project": str(project), "sites": str(tmp_path / "sites")}
    Job("federated-simulate", inputs, {"leave_out": True, "threads": 1}).write(job)
    run(job)
    rows = json.loads((job / "results.json").read_text(encoding="utf-8"))
    assert [row["site"] for row in rows] == list(COUNTS)


def test_the_table_of_means():
    rows = [
        {"method": "federated", "site": "a", "score": 0.5},
        {"method": "federated", "site": "a", "score": 1.0},
        {"method": "cross", "site": "b", "score": 0.25},
    ]
    assert mean_table(rows, ["a", "b"]).splitlines() == [
        "score                    a             b",
        "federated            0.750              ",
        "cross                              0.250",
    ]
