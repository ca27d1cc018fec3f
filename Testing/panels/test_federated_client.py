"""The FederatedClient panel, worked as a person does. The jobs are stand-ins that write what the tasks write (fake_federation.py)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from balls import IJK_TO_RAS, PATIENCE, blob

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from fake_federation import PROJECT, ROUNDS, agree, make_key, writeInvitation  # noqa: E402

from imagingai.federated import keys, packages  # noqa: E402
from imagingai.federated.audit import verify  # noqa: E402
from imagingai.federated.invitation import read_invitation  # noqa: E402
from imagingai.options import from_dict  # noqa: E402
from imagingai.tasks import TASKS, load  # noqa: E402

HERE = Path(__file__).parent
TABS = ("Invitation", "Data", "Join", "Running", "Results")


@pytest.fixture
def bare(host, openModule, monkeypatch, tmp_path):
    """The panel at a site without a key; its jobs are stand-ins, Flower counts as installed."""
    monkeypatch.setattr(keys, "DEFAULT_KEY", tmp_path / "home" / "site_key")
    monkeypatch.setattr(packages, "is_installed", lambda: True)
    widget = openModule("FederatedClient")
    from ImagingAILib import install

    monkeypatch.setattr(install, "python", lambda: [sys.executable, str(HERE.parent / "fake_federation.py")])
    return widget


@pytest.fixture
def panel(bare):
    """The panel at a site with a key."""
    make_key(keys.DEFAULT_KEY)
    bare.setParameterNode()
    return bare


@pytest.fixture
def study(tmp_path_factory):
    """A folder with an invitation and data; its name may be seen in pictures."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "table.csv").write_text("case,label\na,1\n")
    writeInvitation(folder / "hospital_a.invitation")
    return folder


@pytest.fixture
def ready(host, panel, study, click, typeText, waitUntil):
    """All is there to join."""
    return prepare(host, panel, study, click, typeText, waitUntil)


def prepare(host, panel, study, click, typeText, waitUntil):
    typeText(panel.invitation.ui.invitationFile, str(study / "hospital_a.invitation"))
    tab(panel, "Data")
    host.choose(panel.data.ui.sourceBox, "folders")
    for name in ("images", "labels"):
        typeText(getattr(panel.data.ui, f"{name}File"), str(study / name))
    check(panel, click, waitUntil)
    tab(panel, "Join")
    return panel


@pytest.fixture
def joined(host, ready, click):
    join(host, ready, click)
    return ready


def tab(panel, name: str) -> None:
    panel.ui.tabs.setCurrentIndex(TABS.index(name))


def check(panel, click, waitUntil) -> None:
    click(panel.data.ui.applyButton)
    waitUntil(lambda: panel.data.panel.run is None, PATIENCE)


def refuse(dialog) -> None:
    dialog.reject()


def join(host, panel, click) -> None:
    host.dialogs.answers.append(agree(host))
    click(panel.join.ui.applyButton)
    assert panel.join.run


def finish(panel, waitUntil) -> None:
    waitUntil(lambda: panel.join.run is None, PATIENCE)


def column(table, number: int) -> list[str]:
    return [table.item(row, number).text() for row in range(table.rowCount)]


def logOf(study) -> list[str]:
    return [json.loads(line)["event"] for line in (folderOf(study) / "federation" / "audit.jsonl").read_text().splitlines()]


def folderOf(study) -> Path:
    return study / "Hippocampus-in-four-hospitals"


# --- the invitation and the key


def test_the_invitation_is_shown_before_anything_else(host, panel, study, typeText):
    ui = panel.invitation.ui
    assert ui.hintLabel.visible and not ui.summaryText.visible and not ui.keySection.collapsed
    typeText(ui.invitationFile, str(study / "hospital_a.invitation"))
    text = ui.summaryText.toPlainText()
    for part in (
        PROJECT["coordinator"],
        PROJECT["purpose"],
        "Anterior, Posterior",
        "federation.example.org:443",
        "Never leaves",
        "0.888 MB",
    ):
        assert part in text, part
    assert ui.outputFile.currentPath == str(folderOf(study)), "a folder is proposed"
    assert not folderOf(study).exists(), "and not made yet"
    host.screenshot(panel, "federated-invitation")


def test_a_site_without_a_key_makes_one_for_the_coordinator(host, bare, study, typeText, click, tmp_path):
    ui = bare.invitation.ui
    assert ui.keyButton.text == "Make key and save the public part ..."
    typeText(ui.invitationFile, str(study / "hospital_a.invitation"))
    tab(bare, "Join")
    assert bare.join.ui.applyButton.toolTip.startswith("Make the key of this site")
    tab(bare, "Invitation")
    host.dialogs.answers.append(str(tmp_path / "for the coordinator.pub"))
    click(ui.keyButton)
    assert (tmp_path / "for the coordinator.pub").read_text() == federationKey().read_text()
    assert keys.spoken(keys.fingerprint(federationKey().read_text())) in ui.keyLabel.text
    assert "Check the data" in bare.join.ui.applyButton.toolTip, "the invitation is for this key"
    host.dialogs.answers.append("")
    click(ui.keyButton)
    assert ui.keyButton.text == "Save the public part ..."


def federationKey() -> Path:
    return keys.DEFAULT_KEY.with_name("site_key.pub")


def test_a_key_that_cannot_be_made_or_saved(host, bare, click, monkeypatch, tmp_path):
    monkeypatch.setattr(keys, "DEFAULT_KEY", Path("/proc/nowhere/site_key"))
    click(bare.invitation.ui.keyButton)
    assert "The key could not be made" in host.dialogs[-1].text
    make_key(tmp_path / "site_key")
    monkeypatch.setattr(keys, "DEFAULT_KEY", tmp_path / "site_key")
    host.dialogs.answers.append(str(tmp_path / "nowhere" / "our.pub"))
    click(bare.invitation.ui.keyButton)
    assert "No such file" in host.dialogs[-1].text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"days": -1}, "expired on"), ({"key": "ab" * 32}, "The invitation is for the key abab abab, and this site has")],
)
def test_an_invitation_that_cannot_be_used(panel, study, typeText, settings, sentence):
    writeInvitation(study / "other.invitation", **settings)
    typeText(panel.invitation.ui.invitationFile, str(study / "other.invitation"))
    tab(panel, "Join")
    assert sentence in panel.join.ui.applyButton.toolTip and sentence in panel.join.ui.stepsLabel.text


def test_a_file_that_is_no_invitation(panel, study, typeText):
    typeText(panel.invitation.ui.invitationFile, str(study / "table.csv"))
    assert "is not an invitation" in panel.invitation.ui.hintLabel.text
    tab(panel, "Data")
    assert panel.data.ui.applyButton.toolTip == "Choose an invitation that can be read."


# --- the data


@pytest.mark.parametrize(
    ("settings", "shown", "needed"),
    [
        ({}, ["images", "labels"], "segmentations of Anterior, Posterior"),
        ({"task": "image-classification", "classes": ("healthy", "ill")}, ["images", "table"], "case and label (healthy, ill)"),
        ({"task": "image-classification", "classes": ("a", "b"), "values": (1, 2)}, ["images", "labels", "table"], "(a, b)"),
        ({"task": "roi-classification", "classes": ("a", "b"), "features": ("left", "right")}, ["table"], "label (a, b) and left, right"),
        ({"task": "roi-regression", "classes": (), "features": ("left",), "target": "age"}, ["table"], "case, age and left"),
    ],
)
def test_the_data_that_are_asked_for_are_those_of_the_invitation(host, panel, study, typeText, settings, shown, needed):
    writeInvitation(study / "other.invitation", **settings)
    typeText(panel.invitation.ui.invitationFile, str(study / "other.invitation"))
    tab(panel, "Data")
    ui = panel.data.ui
    if ui.sourceBox.visible:
        host.choose(ui.sourceBox, "folders")
    assert [name for name in ("images", "labels", "table") if getattr(ui, f"{name}File").visible] == shown
    assert needed in ui.needsLabel.text
    for name in shown:
        assert ui.applyButton.toolTip.startswith("Choose the ")
        typeText(getattr(ui, f"{name}File"), str(study / (f"{name}.csv" if name == "table" else name)))
    assert ui.applyButton.enabled


def test_the_check_shows_what_this_site_has(host, ready):
    tab(ready, "Data")
    ui = ready.data.ui
    assert column(ui.countsTable, 0)[:2] == ["Cases with labels", "Spacing"] and "Ready to join" in ui.verdictLabel.text
    assert "report.html" in ui.folderLabel.text
    host.screenshot(ready, "federated-data")


def test_joining_says_what_is_missing(host, panel, study, click, typeText, waitUntil):
    tab(panel, "Join")
    apply = panel.join.ui.applyButton
    assert apply.toolTip == "Choose the invitation." and not apply.enabled
    tab(panel, "Invitation")
    prepare(host, panel, study, click, typeText, waitUntil)
    assert apply.enabled
    tab(panel, "Data")
    typeText(panel.data.ui.imagesFile, str(study / "labels"))
    tab(panel, "Join")
    assert apply.toolTip == "Check the data in the tab Data.", "what was checked is another thing"
    tab(panel, "Data")
    typeText(panel.data.ui.imagesFile, str(study / "images"))
    assert apply.toolTip != "Check the data in the tab Data."


def test_warnings_have_to_be_confirmed(host, panel, study, click, typeText, waitUntil):
    writeInvitation(study / "hospital_a.invitation", site="careful")
    prepare(host, panel, study, click, typeText, waitUntil)
    ui = panel.join.ui
    assert "Look at the warnings" in ui.applyButton.toolTip
    tab(panel, "Data")
    assert "case_07 has no labels" in panel.data.ui.problemsLabel.text
    host.screenshot(panel, "federated-data-warnings")
    tab(panel, "Join")
    click(ui.warningsBox)
    assert ui.applyButton.enabled
    tab(panel, "Data")
    check(panel, click, waitUntil)
    assert not ui.warningsBox.checked, "warnings of another check are others"


def test_data_that_cannot_be_used(host, panel, study, click, typeText, waitUntil):
    writeInvitation(study / "hospital_a.invitation", site="wrong")
    prepare(host, panel, study, click, typeText, waitUntil)
    assert panel.join.ui.applyButton.toolTip == "These data cannot be used: the tab Data says why."
    tab(panel, "Data")
    assert "This site cannot join" in panel.data.ui.verdictLabel.text and "No case has" in panel.data.ui.problemsLabel.text


def test_segmentations_of_the_scene(host, panel, study, click, typeText, waitUntil):
    typeText(panel.invitation.ui.invitationFile, str(study / "hospital_a.invitation"))
    tab(panel, "Data")
    ui = panel.data.ui
    assert ui.applyButton.toolTip == "Add at least two images with their segmentations."
    for number, center in enumerate(((12, 14, 13), (11, 13, 14))):
        array, inside = blob(center)
        volume = slicer.util.addVolumeFromArray(array, IJK_TO_RAS, f"scan {number}")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"drawn {number}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segment = node.GetSegmentation().AddEmptySegment("x", "Posterior")  # the second structure of the federation
        slicer.util.updateSegmentBinaryLabelmapFromArray(inside, node, segment, volume)
        host.choose(ui.pairImageSelector, f"scan {number}")
        host.choose(ui.pairLabelsSelector, f"drawn {number}")
        click(ui.addPairButton)
    host.screenshot(panel, "federated-data-scene")
    check(panel, click, waitUntil)
    job = json.loads((folderOf(study) / "check" / "job.json").read_text())
    labels = slicer.util.loadLabelVolume(str(Path(job["inputs"]["labels"]) / "scan-0.nrrd"))
    assert set(np.unique(slicer.util.arrayFromVolume(labels))) == {0, 2}, "the value that the invitation gives the structure"
    tab(panel, "Join")
    join(host, panel, click)
    assert json.loads((folderOf(study) / "job.json").read_text())["inputs"] == job["inputs"], "what was checked is learned from"


# --- joining


def test_nobody_joins_without_agreeing(host, ready, study, click):
    host.dialogs.answers.append(refuse)
    click(ready.join.ui.applyButton)
    assert ready.join.run is None and not (folderOf(study) / "job.json").exists()
    assert host.dialogs[-1].title == "Join Hippocampus in four hospitals?"


def test_a_federation_from_the_consent_to_its_models(host, ready, study, click, waitUntil, typeText):
    host.screenshot(ready, "federated-join")
    host.dialogs.answers.append(agree(host, "federated-consent"))
    click(ready.join.ui.applyButton)
    ui = ready.running.ui
    waitUntil(lambda: ready.running.history, PATIENCE)
    assert ready.ui.tabs.currentIndex == TABS.index("Running") and "of 5" in ui.stateLabel.text
    job = json.loads((folderOf(study) / "job.json").read_text())
    accepted = read_invitation(study / "hospital_a.invitation").fingerprint
    assert job["config"] == {"accept": accepted, "key": str(keys.DEFAULT_KEY)}
    finish(ready, waitUntil)
    assert ready.ui.tabs.currentIndex == TABS.index("Results") and "Done after 5 rounds" in ui.stateLabel.text
    titles = [ui.quantityBox.itemText(number) for number in range(ui.quantityBox.count)]
    figures = ["Score of the global model here", "Loss of the global model here", "Loss of the training here", "Dice Anterior"]
    assert titles == figures
    results = ready.results.ui.resultsTable
    assert [column(results, k) for k in range(3)] == [["Hippocampus in four hospitals"] * 2, ["global", "of this site"], ["0.741", "0.792"]]
    host.screenshot(ready, "federated-results")
    tab(ready, "Running")
    host.screenshot(ready, "federated-done")


def test_every_exchange_is_listed(host, joined, study, waitUntil):
    finish(joined, waitUntil)
    ui = joined.running.ui
    what = column(ui.exchangesTable, 2)
    assert what.count("↑ weights") == what.count("↓ weights") == ROUNDS and what[-2:] == ["connected", "agreed"]
    newest = what.index("↑ weights")
    assert ui.exchangesTable.item(newest, 3).text() == "24.60" and ui.exchangesTable.item(newest, 4).text() == "a5a5a5a5a5a5"
    assert ui.exchangesTable.item(newest, 4).toolTip() == "a5" * 32
    assert "num-examples: 19\nscore_before: 0.74\n" in ui.exchangesTable.item(newest, 2).toolTip(), "figures that left, too"
    assert ui.totalLabel.text == "Answers that left this site: 5, 123.0 MB. Instructions that came: 5, 123.0 MB."
    assert verify(folderOf(study) / "federation" / "audit.jsonl").broken is None


def test_the_privacy_budget_is_shown(host, panel, study, click, typeText, waitUntil):
    writeInvitation(study / "hospital_a.invitation", epsilon=8.0)
    typeText(panel.invitation.ui.invitationFile, str(study / "hospital_a.invitation"))
    assert "at most epsilon 8" in panel.invitation.ui.summaryText.toPlainText()
    prepare(host, panel, study, click, typeText, waitUntil)
    join(host, panel, click)
    finish(panel, waitUntil)
    ui = panel.running.ui
    assert "Privacy budget spent so far: epsilon 8.00" in ui.stateLabel.text
    assert ui.quantityBox.itemText(ui.quantityBox.count - 1) == "Privacy budget that is spent (epsilon)"


def test_pause_and_go_on(host, joined, study, click, waitUntil):
    ui = joined.running.ui
    waitUntil(lambda: joined.running.history, PATIENCE)
    click(ui.pauseButton)
    assert (folderOf(study) / "pause").exists() and ui.pauseButton.text == "Go on" and "Paused, round" in ui.stateLabel.text
    host.screenshot(joined, "federated-paused")
    began, lines = time.monotonic(), logOf(study)
    waitUntil(lambda: time.monotonic() > began + 1)
    assert logOf(study) == lines, "nothing is exchanged meanwhile"
    click(ui.pauseButton)
    assert not (folderOf(study) / "pause").exists() and ui.pauseButton.text == "Pause"
    finish(joined, waitUntil)


def test_leave_and_join_again(host, joined, study, click, waitUntil):
    waitUntil(lambda: joined.running.history, PATIENCE)
    host.dialogs.answers += ["Cancel"]
    click(joined.running.ui.leaveButton)
    assert joined.join.run and joined.join.ui.applyButton.text == "Leave now ..."
    host.dialogs.answers += ["Ok"]
    click(joined.running.ui.leaveButton)
    finish(joined, waitUntil)
    assert joined.running.ui.statusLabel.text == "You have left. Join again with the same folder to go on."
    assert "Not joined. The last round here was" in joined.running.ui.stateLabel.text and logOf(study)[-1] == "left"
    rounds = len(joined.running.history)
    tab(joined, "Join")
    join(host, joined, click)
    finish(joined, waitUntil)
    assert len(joined.running.history) == ROUNDS > rounds and logOf(study).count("agreed") == 1


def test_an_error_is_one_sentence(host, panel, study, click, typeText, waitUntil):
    writeInvitation(study / "hospital_a.invitation", site="failing")
    prepare(host, panel, study, click, typeText, waitUntil)
    join(host, panel, click)
    finish(panel, waitUntil)
    assert host.dialogs[-1].text == "The proxy of this network does not let us through. Check HTTPS_PROXY."
    assert panel.join.ui.applyButton.text == "Join ..." and panel.join.ui.applyButton.enabled


def test_flower_is_installed_after_consent(host, panel, study, click, typeText, waitUntil, monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "is_installed", lambda: (tmp_path / "flower" / packages.MARK).exists())
    monkeypatch.setenv(packages.FOLDER_VARIABLE, str(tmp_path / "flower"))
    (tmp_path / "flower").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)  # the stand-in of pip makes no folder
    host.dialogs.answers += ["Ok"]
    prepare(host, panel, study, click, typeText, waitUntil)
    assert "Flower" in host.dialogs[0].text and str(tmp_path / "flower") in host.dialogs[0].text
    ((_install, words, _options),) = host.packages.calls
    assert words == packages.pip_arguments()


# --- the scene, the module, Slicer itself


def test_the_scene_may_be_closed_meanwhile(joined, study, waitUntil):
    waitUntil(lambda: joined.running.history, PATIENCE)
    slicer.mrmlScene.Clear(0)
    assert joined.join.run and joined.join.run.run.running and joined.invitation.ui.outputFile.currentPath == str(folderOf(study))
    assert not joined.invitation.ui.invitationFile.enabled
    waitUntil(lambda: len(joined.running.history) > 1, PATIENCE)
    assert joined.running.plot.curves.chart.GetScene()
    finish(joined, waitUntil)
    assert joined.results.ui.resultsTable.rowCount == 2


def test_the_site_leaves_when_slicer_quits(host, joined, study, waitUntil):
    waitUntil(lambda: joined.running.history, PATIENCE)
    host.cleanup()
    waitUntil(lambda: logOf(study)[-1] == "left", 10)
    assert not any(event == "refused" for event in logOf(study))


def test_the_invitation_is_kept_with_the_federation(host, panel, study, click, typeText, waitUntil):
    prepare(host, panel, study, click, typeText, waitUntil)
    (study / "hospital_a.invitation").unlink()
    join(host, panel, click)
    finish(panel, waitUntil)
    assert panel.results.ui.resultsTable.rowCount == 2


def test_a_folder_that_cannot_be_written(host, panel, study, click, typeText):
    typeText(panel.invitation.ui.invitationFile, str(study / "hospital_a.invitation"))
    typeText(panel.invitation.ui.outputFile, "/proc/federation")
    tab(panel, "Data")
    host.choose(panel.data.ui.sourceBox, "folders")
    for name in ("images", "labels"):
        typeText(getattr(panel.data.ui, f"{name}File"), str(study / name))
    click(panel.data.ui.applyButton)
    assert "/proc/federation cannot be written" in host.dialogs[-1].text and panel.data.panel.run is None


def test_after_a_restart_the_federation_is_offered(host, joined, study, waitUntil, click):
    waitUntil(lambda: joined.running.history, PATIENCE)
    joined.onReload()
    waitUntil(lambda: logOf(study)[-1] == "left", 10)
    slicer.mrmlScene.Clear(0)
    again = slicer.modules.FederatedClientWidget
    assert again.invitation.ui.invitationFile.currentPath == ""
    waitUntil(lambda: again.invitation.ui.earlierBox.visible)
    host.choose(again.invitation.ui.earlierBox, folderOf(study).name)
    assert again.invitation.invitation.site == "hospital_a" and again.running.history
    assert again.data.ui.imagesFile.currentPath == str(study / "images") and "Ready" in again.data.ui.verdictLabel.text
    tab(again, "Join")
    join(host, again, click)
    finish(again, waitUntil)
    assert logOf(study).count("agreed") == 1 and len(again.running.history) == ROUNDS


def test_a_folder_that_was_joined_in_before_brings_all_with_it(host, joined, study, waitUntil, typeText):
    finish(joined, waitUntil)
    slicer.mrmlScene.Clear(0)
    tab(joined, "Invitation")
    typeText(joined.invitation.ui.outputFile, str(folderOf(study)))
    assert joined.invitation.invitation.site == "hospital_a" and joined.join.ui.applyButton.enabled


def test_parameters_are_saved_with_the_scene(host, ready, tmp_path):
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    assert ready.invitation.invitation is None and not ready.join.ui.applyButton.enabled
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    tab(ready, "Join")
    assert ready.invitation.invitation.site == "hospital_a" and ready.join.ui.applyButton.enabled


def test_the_model_is_used_in_uncertainty_segmentation(host, joined, openModule, study, click, waitUntil):
    finish(joined, waitUntil)
    segmentation = openModule("UncertaintySeg")
    openModule("FederatedClient")
    tab(joined, "Results")
    joined.results.ui.resultsTable.selectRow(1)
    click(joined.results.ui.useButton)
    assert segmentation.segment.ui.modelFile.currentPath == str(folderOf(study) / "personal.safetensors")
    assert host.app.window.selector.selectedModule == "UncertaintySeg"


def test_the_report_opens(host, joined, study, click, waitUntil):
    finish(joined, waitUntil)
    click(joined.results.ui.reportButton)
    assert host.dialogs[-1].text == (folderOf(study) / "report.html").as_uri()


def test_a_classifier_is_used_on_new_cases(host, panel, study, click, typeText, waitUntil):
    writeInvitation(study / "hospital_a.invitation", task="roi-classification", classes=("healthy", "ill"), features=("left",))
    typeText(panel.invitation.ui.invitationFile, str(study / "hospital_a.invitation"))
    tab(panel, "Data")
    typeText(panel.data.ui.tableFile, str(study / "table.csv"))
    check(panel, click, waitUntil)
    tab(panel, "Join")
    join(host, panel, click)
    finish(panel, waitUntil)
    ui = panel.results.ui
    assert ui.useButton.text == "Use on new cases"
    click(ui.useButton)
    assert ui.modelFile.currentPath == str(folderOf(study) / "model.safetensors")
    assert ui.applyButton.toolTip == "Choose the images or the table of the new cases."
    typeText(ui.tableFile, str(study / "table.csv"))
    typeText(ui.outputFile, str(study / "predictions"))
    click(ui.applyButton)
    waitUntil(lambda: panel.predictions.panel.run is None, PATIENCE)
    assert column(ui.predictionsTable, 1) == ["ill", "healthy"] and column(ui.predictionsTable, 3) == ["0.977", "0.000"]
    host.screenshot(panel, "federated-predictions")


@pytest.mark.slicer(mainWindow=False)
def test_without_a_main_window(joined, waitUntil):
    finish(joined, waitUntil)
    assert joined.results.ui.resultsTable.rowCount == 2


@pytest.mark.slicer(version="5.10")
def test_in_slicer_5_10(joined, waitUntil):
    finish(joined, waitUntil)
    assert joined.results.ui.resultsTable.rowCount == 2


@pytest.mark.slicer(markTranslated=True)
def test_all_texts_can_be_translated(host, openModule):
    fields = [
        field
        for task in ("federated-check", "federated-join", "federated-predict")
        for field in load(TASKS[task].config).__dataclass_fields__.values()
    ]
    choices = {str(choice) for field in fields for choice in field.metadata["choices"]}
    assert [text for text in host.untranslated(openModule("FederatedClient")) if text not in choices] == []


def test_every_option_and_input_has_a_widget(panel):
    for task, one in panel.panels.items():
        decided = {"accept", "key"}  # by the consent, and by the key that this site has
        assert set(one.options) == set(load(TASKS[task].config).__dataclass_fields__) - decided, task
        from_dict(load(TASKS[task].config), one.parameters.values())  # what the widgets show is allowed
    for task in ("federated-check", "federated-predict"):
        assert {item.name for item in TASKS[task].inputs} == set(panel.panels[task].files) - {"output"}


def test_the_console(panel, study, waitUntil):
    from FederatedClient import FederatedClientLogic

    logic, ended, invitation = FederatedClientLogic(), [], study / "hospital_a.invitation"
    accept = read_invitation(invitation).fingerprint
    assert PROJECT["purpose"] in logic.show(invitation) and accept in logic.show(invitation)
    run = logic.join(invitation, accept, images=study / "images", labels=study / "labels", device="cpu")
    assert run.state == "done" and run.result["figures"]["personal"]["score"] == 0.792
    job = json.loads((folderOf(study) / "job.json").read_text())
    assert job["config"] == {"key": str(keys.DEFAULT_KEY), "device": "cpu", "accept": accept}
    logic.join(invitation, accept, study / "elsewhere", ended.append, images=study / "images", labels=study / "labels")
    waitUntil(lambda: ended, PATIENCE)
    writeInvitation(study / "bad.invitation", site="failing")
    with pytest.raises(RuntimeError, match="HTTPS_PROXY"):
        logic.join(study / "bad.invitation", accept, study / "failed", images=study / "images")
