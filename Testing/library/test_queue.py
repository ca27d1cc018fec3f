"""The queue of a cohort: order, decisions that last, results that failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imagingai.errors import InputError
from imagingai.job import write_json
from imagingai.uncertainty import queue


def result(folder: Path, light: str = "", dice: float | None = None, task: str = "segment", **more) -> Path:
    """A job folder as segment leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {"task": task, "inputs": {}, "config": {}}
    write_json(folder / "job.json", job)
    quality = {"light": light, "reasons": [f"It is {light}."], "predicted_dice": {"Nose": {"dice": 0.95}, "Ear": {"dice": dice}}}
    values = {"state": "done", "started": "2025-01-01", "model": "a", "quality": quality, "job": job}
    write_json(folder / "result.json", values | more)
    return folder


@pytest.fixture
def cohort(tmp_path):
    """Results from good to bad, in alphabetical order."""
    result(tmp_path / "anna", "good", 0.93)
    result(tmp_path / "bert", "look", 0.81)
    result(tmp_path / "clara", "look", 0.74)
    result(tmp_path / "site2" / "dora", "bad", 0.3, uncertainty={"Ear": {"samples_dice": 0.6}})
    return tmp_path


def test_the_worst_comes_first(cohort):
    rows = queue.collect(cohort)
    assert [row["case"] for row in rows] == ["site2/dora", "clara", "bert", "anna"]
    worst = rows[0]
    assert (worst["light"], worst["predicted_dice"], worst["structure"], worst["agreement"]) == ("bad", "0.300", "Ear", "0.600")
    assert worst["reason"] == "It is bad." and worst["decision"] == "" and Path(worst["folder"]) == cohort / "site2" / "dora"


def test_without_a_predicted_dice_the_agreement_of_the_samples_decides(tmp_path):
    for name, agreement in (("a", 0.9), ("b", 0.5), ("c", 0.7)):
        result(tmp_path / name, quality=None, uncertainty={"Ear": {"samples_dice": agreement}, "Nose": {"samples_dice": None}})
    rows = queue.collect(tmp_path)
    assert [row["case"] for row in rows] == ["b", "c", "a"]
    assert rows[0]["reason"] == "Its quality was not judged."


def test_without_a_quality_file_reverse_classification_accuracy_predicts_the_dice(tmp_path):
    result(tmp_path / "a", quality={"light": "good", "reasons": []}, rca={"Ear": 0.81, "Nose": 0.77, "Chin": None})
    (row,) = queue.collect(tmp_path)
    assert (row["predicted_dice"], row["structure"]) == ("0.770", "Nose")


def test_results_that_are_not_there_are_rows_with_a_reason(cohort):
    result(cohort / "failed", state="failed", error="The image is empty.\nTraceback: ...")
    result(cohort / "stopped", state="cancelled")
    (result(cohort / "killed") / "result.json").unlink()
    (result(cohort / "broken") / "result.json").write_text('{"state": "do')
    reasons = {row["case"]: (row["light"], row["reason"]) for row in queue.collect(cohort)}
    assert reasons["failed"] == ("bad", "It failed: The image is empty.")
    assert reasons["stopped"] == ("bad", "It was stopped before it had a result.")
    assert reasons["killed"] == reasons["broken"] == ("bad", "It has no result: it is still running, or it was killed.")


def test_folders_of_other_tasks_do_not_count(cohort):
    result(cohort / "registered", task="register")
    (cohort / "notes").mkdir()
    (result(cohort / "odd") / "job.json").write_text("[1")
    (cohort / "odd" / "result.json").unlink()
    assert len(queue.collect(cohort)) == 4


def test_a_result_of_another_model_must_be_looked_at(cohort):
    result(cohort / "emil", "good", 0.99, model="b")
    row = next(row for row in queue.collect(cohort) if row["case"] == "emil")
    assert row["light"] == "look"
    assert row["reason"].startswith("It was made with another model than 4 of the 5 results") and row["reason"].endswith("It is good.")


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(InputError, match=r"holds no result of segment\. Give the folder"):
        queue.collect(tmp_path)


def test_a_decision_survives_a_restart(cohort, tmp_path):
    path = tmp_path / "queue.csv"
    queue.write(path, queue.collect(cohort))
    queue.decide(path, "clara", "fix", "Dr. Ärztin", 'tip, "cut"\noff')
    code = "import sys, pathlib; from imagingai.uncertainty import queue; print(queue.read(pathlib.Path(sys.argv[1]))[1])"
    text = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, path], check=True, capture_output=True, encoding="utf-8"
    ).stdout  # another process
    row = next(row for row in queue.read(path) if row["case"] == "clara")
    assert (row["decision"], row["reader"], row["note"]) == ("fix", "Dr. Ärztin", 'tip, "cut" off') and row["date"]
    assert str(row) == text.strip() and len(queue.read(path)) == 4


def test_a_decision_can_be_taken_back(cohort, tmp_path):
    path = tmp_path / "queue.csv"
    queue.write(path, queue.collect(cohort))
    queue.decide(path, "anna", "accept", "me")
    row = queue.decide(path, "anna", "", "you", "not sure")
    assert (row["decision"], row["reader"], row["note"]) == ("", "you", "not sure") and row["date"]
    rebuilt = {row["case"]: row for row in queue.keep_decisions(queue.collect(cohort), queue.read(path))}
    assert rebuilt["anna"] == row, "who took it back, and when"


def test_decisions_are_kept_when_the_queue_is_built_again(cohort, tmp_path):
    path = tmp_path / "queue.csv"
    queue.write(path, queue.collect(cohort))
    queue.decide(path, "anna", "accept", "me")
    queue.decide(path, "bert", "reject", "me", "motion")
    result(cohort / "bert", "good", 0.9, started="2025-02-02")  # segmented again
    result(cohort / "new", "good", 0.97)
    rows = {row["case"]: row for row in queue.keep_decisions(queue.collect(cohort), queue.read(path))}
    assert (rows["anna"]["decision"], rows["anna"]["reader"]) == ("accept", "me")
    assert rows["bert"]["decision"] == "" and rows["bert"]["note"].startswith("reject of 20")
    assert rows["bert"]["note"].endswith("was about an earlier result. motion")
    assert rows["new"]["decision"] == rows["new"]["note"] == ""


def test_a_kill_while_writing_leaves_the_old_queue(cohort, tmp_path, monkeypatch):
    path = tmp_path / "queue.csv"
    queue.write(path, queue.collect(cohort))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        queue.decide(path, "anna", "reject")
    assert [row["decision"] for row in queue.read(path)] == [""] * 4
    assert not list(tmp_path.glob(".queue*"))


def test_a_queue_that_excel_saved_is_read(cohort, tmp_path):
    path = tmp_path / "queue.csv"
    queue.write(path, queue.collect(cohort))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # with a byte order mark
    assert queue.decide(path, "anna", "accept")["decision"] == "accept"


@pytest.mark.parametrize(
    ("case", "decision", "message"),
    [
        ("anna", "maybe", r"There is no decision 'maybe'\. Choose from accept, fix, reject"),
        ("zoe", "fix", r"has no case 'zoe'\. Its cases are site2/dora, clara"),
    ],
)
def test_bad_decisions(cohort, tmp_path, case, decision, message):
    queue.write(tmp_path / "queue.csv", queue.collect(cohort))
    with pytest.raises(InputError, match=message):
        queue.decide(tmp_path / "queue.csv", case, decision)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "has no column case"),
        (b"", "has no column case"),
        (b"case\n\xff\xfe\n", "is no CSV file in UTF-8"),
        (None, "No such file"),
    ],
)
def test_files_that_are_no_queue(tmp_path, content, message):
    if content is not None:
        (tmp_path / "queue.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        queue.read(tmp_path / "queue.csv")


def test_a_queue_in_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: No such file"):
        queue.write(tmp_path / "no" / "queue.csv", [])
