"""The model card of a federation: right about the chosen round, the sites, the privacy; safe against what sites write."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from imagingai.federated.card import PAPERS, PRIVATE, escape, methods, model_card
from imagingai.federated.config import STRATEGIES, ProjectConfig
from imagingai.federated.project import Project
from imagingai.federated.store import Store

CONFIG = ProjectConfig(
    name="Hearts of four",
    coordinator="Dr. A | Clinic",
    purpose="To tell healthy hearts from ill ones.",
    task="image-classification",
    classes=("healthy", "ill"),
    strategy="fedprox",
    rounds=3,
)


def trained(folder, config: ProjectConfig = CONFIG, chosen: int = 2) -> tuple[Project, Store]:
    """Three rounds of two sites; b is rejected in round 1; round 2 is the best."""
    store = Store(folder / "federation.db")
    for name in ("a", "b"):
        store.add_site(name, f"key {name}", "f", expires=2e9)
    for number, score in ((1, 0.5), (2, 0.625), (3, 0.875)):
        store.begin_round(number, ["a", "b"], bytes=1_000_000)
        for site, examples in (("a", 30), ("b", 90)):
            metrics = {
                "num-examples": examples,
                "held_out": examples // 10,
                "score_before": score + examples / 1000,
                "epsilon": 0.5 * number,
            }
            if (number, site) == (1, "b"):
                store.add_update(1, "b", "rejected", "conv.weight | holds <b>NaN</b>\n# owned")
            else:
                store.add_update(number, site, "counted", "", 900_000, 12.0, metrics, examples / 120)
        store.end_round(number, {"score_before": score}, f"round_{number}.safetensors", f"{number}" * 64)
    store.set("final", {"mean": {"score_before": 0.75}, "sites": {"a": {"score_before": 0.71875}, "b": {"score_before": 0.78125}}})
    store.set("chosen", chosen)
    store.set("rounds", 3)
    return Project(config, folder / "project.toml", folder), store


def rows_below(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without the line that separates the head."""
    lines = card.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|") and "---" not in line]


def test_the_card_tells_who_trained_the_model_and_how_good_it_is(tmp_path):
    card = model_card(*trained(tmp_path), {"Contact": "ask us"})
    assert card.startswith("# Hearts of four\n\n- Purpose: To tell healthy hearts from ill ones.\n- Coordinator: Dr. A \\| Clinic\n")
    assert "- Result: the model of round 2 of 3, chosen as the best" in card and f"- Shared weights (SHA-256): {'2' * 64}" in card
    assert "- Contact: ask us" in card
    head, a, b = rows_below(card, "Who trained it")
    assert a == ["a", "30", "3", "3", "0.25", "1.5"] and b == ["b", "90", "9", "2", "0.75", "1.5"] and head[4] == "Weight in round 2"
    measured = [["Site", "score"], ["a", "0.905"], ["b", "0.965"], ["mean, weighted by cases", "0.875"]]
    assert rows_below(card, "How good it is") == measured, "at the beginning of round 3"
    assert "6.0 MB went to the sites and 4.5 MB came from them" in card


def test_the_last_round_has_been_measured_at_the_end(tmp_path):
    card = model_card(*trained(tmp_path, chosen=3), {})
    assert rows_below(card, "How good it is")[1:] == [["a", "0.7188"], ["b", "0.7812"], ["mean, weighted by cases", "0.75"]]


def test_with_secure_aggregation_only_the_mean_is_known(tmp_path):
    project, store = trained(tmp_path, chosen=3)
    store.set("final", {"mean": {"score_before": 0.75}, "sites": {"a": {"num-examples": 30}}})
    assert rows_below(model_card(project, store, {}), "How good it is")[1:] == [["mean, weighted by cases", "0.75"]]


def test_the_rounds_and_what_was_left_out(tmp_path):
    card = model_card(*trained(tmp_path), {})
    assert [row[:2] + row[3:5] for row in rows_below(card, "Rounds")[1:]] == [
        ["1", "0.625", "1", "1"], ["**2**", "0.875", "2", "0"], ["3", "0.75", "2", "0"]]  # fmt: skip
    assert "- round 1, b: rejected: conv.weight \\| holds \\<b\\>NaN\\</b\\> \\# owned\n" in card
    assert "\n# owned" not in card and "<b>" not in card


def test_only_settings_that_matter_are_listed(tmp_path):
    card = model_card(*trained(tmp_path), {})
    settings = dict(rows_below(card, "How it was trained")[1:])
    assert settings["classes"] == "healthy, ill" and settings["strategy"] == "fedprox" and settings["batch"] == "8"
    assert "patch" not in settings and "deadline" not in settings
    assert "FedProx: FedAvg with sites held to the shared model (Li et al. 2020" in card


def test_every_strategy_and_method_has_its_paper():
    assert set(PAPERS) == set(STRATEGIES)
    for strategy in STRATEGIES:
        assert re.search(r"[A-Z]\w+ et al\. \d{4}", methods(replace(CONFIG, strategy=strategy))[0])
    for private in PRIVATE:
        assert len(methods(replace(CONFIG, private=private))) == 2
    assert methods(replace(CONFIG, harmonization="nyul", label_weighting=True))[1:] == [
        "FedSLD: classes weigh by the label distribution of all sites (Luo and Wu 2022)",
        "intensities harmonized to the average histogram of the sites (Nyul et al. 2000)",
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "No differential privacy: whoever has the model"),
        ({}, "No secure aggregation: the aggregator saw the update of each site."),
        ({"epsilon": 2.0}, "Differential privacy: epsilon 1.5 of at most 2 (delta 1e-05)"),
        ({"secure_aggregation": True}, "Secure aggregation: the aggregator saw only the sum of the updates."),
        ({"private": "norm"}, "Each site uses its own personal.safetensors"),
        ({"private": "norm"}, "no complete shared model exists"),
        ({}, "The round was chosen by these same cases"),
        ({}, 'load_classifier("model.safetensors"), {"images": Path("images/")}'),
        ({"task": "segmentation"}, "imagingai segment --image patient.nii.gz --model model.safetensors"),
        ({"task": "roi-classification", "features": ("age",)}, '{"table": Path("table.csv")}'),
        ({}, "TO BE FILLED IN by the coordinator"),
    ],
)
def test_privacy_limits_and_use_follow_the_settings(tmp_path, changes, sentence):
    assert sentence in model_card(*trained(tmp_path, replace(CONFIG, **changes)), {})


def test_what_the_sites_shared_of_their_labels(tmp_path):
    project, store = trained(tmp_path)
    assert "The sites did not share how many cases they have of each class." in model_card(project, store, {})
    store.set("survey", {"label_distribution": [0.25, 0.75]})
    assert "Label distribution of all sites together: healthy 25.0%, ill 75.0%." in model_card(project, store, {})


def test_a_federation_without_rounds_or_held_out_cases_has_a_card(tmp_path):
    store = Store(tmp_path / "federation.db")
    card = model_card(Project(CONFIG, tmp_path / "project.toml", tmp_path), store, {})
    assert "- Trained: not yet" in card and "It was not measured." in card and "Nothing." in card


def test_text_from_outside_is_one_line_without_markup():
    assert escape("a|b\n# [x](y) <i> `z` *w* _v_") == "a\\|b \\# \\[x\\](y) \\<i\\> \\`z\\` \\*w\\* \\_v\\_"
