"""The pages of a site and of a simulation: their numbers, their verdicts, and what left the site."""

from __future__ import annotations

import re
from dataclasses import asdict

import numpy as np
import pytest
from test_report import Reader, pixels

from imagingai.federated import figures, report
from imagingai.federated.audit import Audit
from imagingai.federated.config import ProjectConfig

SHA = "0123456789abcdef" * 4


@pytest.fixture
def audit(tmp_path):
    """Two rounds of training and one measurement; one question was refused."""
    path = tmp_path / "audit.jsonl"
    log = Audit(path)
    log.write("agreed", site="north")
    for number, kind in ((1, "train"), (2, "train"), (2, "evaluate")):
        log.write("received", kind=kind, round=number, bytes=4_000_000, sha256="ff" * 32)
        size, sha = (4_000_000, SHA) if kind == "train" else (0, "e3b0")
        log.write("sent", kind=kind, round=number, bytes=size, sha256=sha, figures={"loss": 0.625, "label_counts": [7, 9]})
    log.write("refused", kind="train", round=3, reason="It sends the setting <b>steps</b>.")
    return path


def joined(**more):
    """What a join ends with."""
    history = [
        {"round": 1, "num-examples": 80, "loss": 0.75, "loss_before": 1.5, "score_before": 0.5, "epsilon": 1.25},
        {"round": 2, "num-examples": 80, "loss": 0.5, "loss_before": 0.875, "score_before": 0.6875, "epsilon": 2.5},
        {"round": 3, "num-examples": 80, "loss_before": 0.625, "score_before": 0.8125},
    ]
    models = {"global": {"loss": 0.625, "score": 0.8125, "auc": 0.9375}, "personal": {"loss": 0.5, "score": 0.875, "auc": 0.90625}}
    found = {"federation": "Hearts <i>of</i> four", "site": "north", "task": "image-classification", "rounds": 2, "history": history}
    return {**found, "figures": models, "project": asdict(ProjectConfig(epsilon=4.0, rounds=2)), **more}


def rows_of(text: str, *words: str) -> bool:
    """The words stand in the text in this order."""
    return re.search(".*".join(map(re.escape, words)), text, re.DOTALL) is not None


# --- a site


def test_the_page_of_a_site_has_the_numbers(audit):
    reader = Reader(report.site_page(joined(), audit))
    assert "Hearts <i>of</i> four" in reader.text and "i" not in [tag for tag, _ in reader.tags]
    assert rows_of(reader.text, "rounds", "2 of 2", "cases to learn from", "80", "sent", "8.0 MB", "received", "12.0 MB")
    assert rows_of(reader.text, "Shared model", "Own model", "Score", "0.812", "0.875", "+0.062", "AUC", "0.938", "0.906", "-0.031")
    assert "epsilon 2.5 spent of 4 (delta 1e-05)" in reader.text and "off: the aggregator saw this site's weights" in reader.text
    assert rows_of(reader.text, "settings and versions", "epsilon", "4.0")
    (curves,) = reader.pictures()
    assert pixels(curves).std() > 5 and "Loss and score" in curves["alt"]


def test_what_left_the_site_is_listed_with_its_hash(audit):
    reader = Reader(report.site_page(joined(), audit))
    assert rows_of(reader.text, "Everything that was sent", "train", "4.0 MB", SHA[:16], "loss 0.625, label_counts (2 numbers)")
    assert rows_of(reader.text, "evaluate", "0 B", "e3b0")
    assert rows_of(reader.text, "refused by this site", "It sends the setting <b>steps</b>.", "What came: 3 messages")
    assert rows_of(reader.text, "● good", "The chain of all 8 lines is unbroken.")


def test_a_log_that_was_changed_is_a_problem(audit):
    audit.write_bytes(audit.read_bytes().replace(b"4000000", b"4000001", 1))
    reader = Reader(report.site_page(joined(), audit))
    assert rows_of(reader.text, "● problem", "Line 3 does not follow from the one before it")


def test_a_long_log_is_folded(audit):
    log = Audit(audit)
    for number in range(40):
        log.write("sent", kind="train", round=number, bytes=1, sha256=SHA)
    assert "13 more" in Reader(report.site_page(joined(), audit)).text


def test_the_curves_of_a_site_are_of_the_right_rounds():
    left, right = figures.draw_history(joined()["history"], joined()["figures"]).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert lines == {"training here": [[1, 0.75], [2, 0.5]], "shared model": [[0, 1.5], [1, 0.875], [2, 0.625]], "own model": [[3, 0.5]]}
    assert right.lines[0].get_xydata().tolist() == [[0, 0.5], [1, 0.6875], [2, 0.8125]]


def test_a_site_that_was_never_asked_and_has_no_own_model(audit):
    empty = joined(history=[], figures={"global": {"mae": 3.5}}, project=asdict(ProjectConfig(secure_aggregation=True, private="none")))
    reader = Reader(report.site_page(empty, audit))
    assert rows_of(
        reader.text, "0 of 2", "Mean absolute error", "3.500", "none: who has this site's weights", "on: the aggregator saw only"
    )
    assert "Own model" not in reader.text and not reader.pictures()


# --- the data check


def checked(**more):
    found = {"verdict": "look", "problems": ["3 cases have no label <x>."], "rows": [["cases", 97], ["held out", 19]]}
    return {**found, "labels": {"normal": 61, "pneumonia": 36}, "label_unit": "cases", **more}


def test_the_page_of_a_data_check_begins_with_the_verdict():
    reader = Reader(report.check_page(checked()))
    assert rows_of(
        reader.text, "● look at it", "The data can be used; look at this first.", "3 cases have no label <x>.", "cases", "97", "19"
    )
    (labels,) = reader.pictures()
    assert labels["alt"] == "Cases of each class" and pixels(labels).std() > 5
    for verdict, word in (("good", "The data fits the project."), ("bad", "● problem The data cannot be used as it is.")):
        assert word in Reader(report.check_page(checked(verdict=verdict, problems=[]))).text


def test_histograms_spacings_and_bad_cases_are_shown():
    histogram = {"edges": [0, 1, 2, 3], "shares": [0.5, 0.25, 0.25], "unit": "HU"}
    more = {"intensities": histogram, "features": {"age": histogram}, "spacing": [[1, 1, 3], [1, 1, 5.0]], "project_spacing": [1, 1, 2]}
    cases = [{"case": "a", "state": "good"}, {"case": "b", "state": "bad", "reason": "b.nii.gz has 3 channels, not 1."}]
    problems = ["b.nii.gz has 3 channels, not 1.", "a and c are the same image."]
    reader = Reader(report.check_page(checked(**more, cases=cases, problems=problems)))
    assert [attributes["alt"] for attributes in reader.pictures()] == [
        "Cases of each class", "Histogram of intensity", "Histogram of age", "Spacing of the images"]  # fmt: skip
    assert rows_of(reader.text, "1 cases do not fit; the reasons are below.", "a and c are the same image.", "Cases that do not fit")
    assert rows_of(reader.text, "b", "● problem", "b.nii.gz has 3 channels, not 1.", "1 cases fit", "a")
    assert reader.text.count("3 channels") == 1, "a reason stands once"


def test_the_charts_show_the_data():
    (bars,) = figures.draw_counts({"normal": 61, "pneumonia": 36}, "cases").axes
    assert [bar.get_width() for bar in bars.patches] == [61, 36] and [text.get_text() for text in bars.texts] == ["61", "36"]
    (axes,) = figures.draw_spacing([[1, 1, 3], [1, 1, 5.0]], [1, 1, 2]).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 1], [1, 1], [3, 5]]
    (axes,) = figures.draw_histogram({"edges": [0, 1, 2], "shares": [0.75, 0.25]}, "intensity, HU").axes
    assert axes.patches[0].get_data().values.tolist() == [0.75, 0.25] and axes.get_xlabel() == "intensity, HU"


# --- a simulation


ROWS = [
    {"seed": seed, "method": method, "trained_at": "all", "site": site, "num-examples": 50, "loss": 1.0 - score, "score": score, "auc": 0.5}
    for method, scores in {"fedavg": {"north": (0.75, 0.85), "south": (0.5, 0.7)}, "single": {"north": (0.625, 0.625)}}.items()
    for site, two in scores.items()
    for seed, score in enumerate(two)
]


def test_a_simulation_shows_means_and_deviations_of_methods_and_sites():
    reader = Reader(report.simulation_page(ROWS, ProjectConfig(rounds=3), "Four hospitals", {"fedavg": [[0, 0.5], [1, 0.75]]}))
    assert rows_of(reader.text, "Four hospitals", "3 rounds of 1 epochs; 2 seeds, 2 sites.", "Score (higher is better)")
    assert rows_of(reader.text, "fedavg", "0.800 ± 0.071", "0.600 ± 0.141", "0.700", "single", "0.625 ± 0.000", "–", "0.625")
    assert rows_of(reader.text, "AUC", "0.500 ± 0.000", "Loss (lower is better)", "0.200 ± 0.071") and "num-examples" not in reader.text
    assert [attributes["id"] for attributes in reader.pictures()] == ["methods", "curves"]


def test_the_dots_of_a_simulation_are_means_with_one_deviation():
    (axes,) = figures.draw_methods(ROWS, ["fedavg", "single"], ["north", "south"], "score").axes
    fedavg, single = axes.containers
    assert np.allclose(fedavg.lines[0].get_ydata(), [0.8, 0.6]) and np.allclose(single.lines[0].get_ydata(), [0.625])
    ends = np.array([segment[:, 1] for segment in fedavg.lines[2][0].get_segments()])
    assert np.allclose(ends[:, 1] - ends[:, 0], 2 * np.array([np.std([0.75, 0.85], ddof=1), np.std([0.5, 0.7], ddof=1)]))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["north", "south"]


def test_one_run_has_no_deviation():
    rows = [{"method": "fedavg", "trained_at": "all", "site": "north", "score": 0.75}]
    reader = Reader(report.simulation_page(rows, ProjectConfig(), "One"))
    assert "0.750" in reader.text and "±" not in reader.text and "1 seed," in reader.text
