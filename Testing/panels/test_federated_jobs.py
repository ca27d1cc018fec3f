"""The FederatedClient panel in a real federation: an aggregator and another site are processes of their own. A disk is learned."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")
if sys.version_info < (3, 11):
    pytest.skip("Flower needs Python 3.11 or newer", allow_module_level=True)

from test_uncertainty_jobs import PATIENCE, addDisk, disk  # noqa: E402

from imagingai.federated import keys, packages  # noqa: E402
from imagingai.federated.audit import read_audit  # noqa: E402
from imagingai.volume import Volume, save  # noqa: E402

DATA, JOIN, RUNNING, RESULTS = 1, 2, 3, 4  # tabs
PROJECT = {
    "name": "Disks of two hospitals",
    "coordinator": "Dr. Ada Brown",
    "purpose": "A test.",
    "classes": ("Disk",),
    "dimension": 2,
    "patch": (32,),
    "batch": 2,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "rounds": 2,
    "epochs": 8.0,
    "held_out": 0.25,
}


@pytest.fixture
def panel(host, openModule, monkeypatch, tmp_path):
    packages.activate()  # fails, and with it the test, if Flower is not there
    monkeypatch.setattr(keys, "DEFAULT_KEY", tmp_path / "home" / "site_key")
    return openModule("FederatedClient")


def writeDisks(folder, numbers) -> dict:
    """Images and labels in folders, as another site has them."""
    inputs = {"images": folder / "images", "labels": folder / "labels"}
    for number in numbers:
        for path, array in zip(inputs.values(), disk(number), strict=True):
            path.mkdir(parents=True, exist_ok=True)
            save(Volume(array.T[None], np.eye(4)), path / f"case{number}.nii.gz")
    return inputs


def test_the_panel_is_a_site(host, panel, openModule, click, typeText, waitUntil, tmp_path):
    from fake_federation import agree
    from real_federation import federation

    from ImagingAILib.segmentation import addPair

    for number in range(6):
        addPair(*addDisk(number), "")
    host.dialogs.answers.append(str(tmp_path / "hospital_a.pub"))
    click(panel.invitation.ui.keyButton)
    with federation(tmp_path, PROJECT, tmp_path / "hospital_a.pub", writeDisks(tmp_path / "there", range(10, 16))) as invitation:
        typeText(panel.invitation.ui.invitationFile, str(invitation))
        panel.ui.tabs.setCurrentIndex(DATA)
        panel.data.pairs.fill()
        click(panel.data.ui.applyButton)
        waitUntil(lambda: panel.data.panel.run is None, PATIENCE)
        assert panel.data.current(), panel.data.ui.logText.toPlainText()
        panel.ui.tabs.setCurrentIndex(JOIN)
        host.dialogs.answers.append(agree(host))
        click(panel.join.ui.applyButton)
        waitUntil(lambda: panel.running.history, PATIENCE)
        host.dialogs.answers.append("Ok")
        click(panel.running.ui.leaveButton)
        waitUntil(lambda: panel.join.run is None, PATIENCE)
        assert panel.running.ui.statusLabel.text.startswith("You have left."), panel.join.ui.logText.toPlainText()
        panel.ui.tabs.setCurrentIndex(JOIN)
        host.dialogs.answers.append(agree(host))
        click(panel.join.ui.applyButton)
        waitUntil(lambda: panel.join.run is None, PATIENCE)
    assert panel.ui.tabs.currentIndex == RESULTS, panel.join.ui.logText.toPlainText()
    folder = tmp_path / "Disks-of-two-hospitals"
    scores = [row["score_before"] for row in panel.running.history]
    assert scores[-1] > 0.6 and scores[-1] > scores[0]
    log = read_audit(folder / "audit.jsonl")
    events = [row["event"] for row in log]
    assert events.count("agreed") == 1 and events.count("left") == 1 and events.count("connected") == 2
    assert {row["round"] for row in log if row["event"] == "sent" and row["kind"] == "train"} == set(range(1, PROJECT["rounds"] + 1))
    openModule("UncertaintySeg")
    openModule("FederatedClient")
    click(panel.results.ui.useButton)
    segmentation = slicer.modules.UncertaintySegWidget
    image, _labels = addDisk(20)
    host.choose(segmentation.segment.ui.imageSelector, image.GetName())
    typeText(segmentation.segment.ui.samplesOption, "2")
    click(segmentation.segment.ui.applyButton)
    waitUntil(lambda: segmentation.segment.run is None, PATIENCE)
    case = segmentation.view.case
    assert case is not None, segmentation.segment.ui.logText.toPlainText()
    segments = case.segmentation.GetSegmentation()
    found = slicer.util.arrayFromSegmentBinaryLabelmap(case.segmentation, segments.GetSegmentIdBySegmentName("Disk"), image)
    assert 2 * (found * disk(20)[1]).sum() / (found.sum() + disk(20)[1].sum()) > 0.6
