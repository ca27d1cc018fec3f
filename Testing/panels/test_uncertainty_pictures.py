"""The pictures of the tutorial of UncertaintySeg: `make pictures`. Real jobs on the sample images, in the panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials")
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

DATA = Path(__file__).parents[1] / "Data"
PATIENCE = 900  # seconds
TRAINING = {"dimension": "2", "patch": "32", "batch": "2", "steps": "100", "every": "10", "held_out": "0.5"}


@pytest.fixture
def study(tmp_path_factory):
    """A folder whose name may be seen in the pictures."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def panel(request, host, openModule):
    """The panel with the sample images, and a noisy copy of one of them, in the scene."""
    if not request.config.getoption("--screenshots"):
        pytest.skip("only with --screenshots FOLDER")
    for name in ("brain_fixed", "brain_moving"):
        slicer.util.loadVolume(str(DATA / f"{name}.nii.gz"), {"name": name.replace("_", " ")})
    noisy = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, slicer.util.getNode("brain moving"), "brain noisy")
    array = slicer.util.arrayFromVolume(noisy)
    noise = np.random.default_rng(0).normal(0, 0.3 * array.max(), array.shape)
    slicer.util.updateVolumeFromArray(noisy, (array + noise).clip(0, 255).astype(np.uint8))
    return openModule("UncertaintySeg")


def run(panel, click, waitUntil) -> None:
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.run is None, PATIENCE)
    assert panel.ui.statusLabel.text.startswith("Done"), panel.ui.logText.toPlainText()


def test_pictures_of_segmenting_and_of_the_queue(host, panel, click, typeText, waitUntil, study):
    ui, segment = panel.ui, panel.segment
    typeText(segment.ui.outputFile, str(study / "results"))
    host.choose(segment.ui.imageSelector, "brain fixed")
    host.screenshot(panel, "uncertainty-ready")
    click(segment.ui.applyButton)
    waitUntil(lambda: segment.ui.progressBar.value > 100, PATIENCE)
    host.screenshot(panel, "uncertainty-running")
    waitUntil(lambda: segment.run is None, PATIENCE)
    host.screenshot(panel, "uncertainty-done")
    click(ui.placeButton)
    for number, name in enumerate(("entropy", "mutual_information", "expected_entropy", "border_band")):
        ui.mapBox.setCurrentIndex(number)
        host.sliceView(f"uncertainty-view-{name.replace('_', '-')}")
    host.choose(ui.mapBox, "None: the image alone")
    ui.sampleSlider.value = 3
    host.sliceView("uncertainty-view-sample")
    for name in ("brain moving", "brain noisy"):
        host.choose(segment.ui.imageSelector, name)
        run(segment, click, waitUntil)
    ui.tabs.setCurrentIndex(1)
    typeText(panel.queue.ui.resultsFile, str(study / "results"))
    click(panel.queue.ui.openButton)
    panel.queue.ui.queueTable.selectRow(0)
    host.screenshot(panel, "uncertainty-queue")
    host.sliceView("uncertainty-view-worst")
    panel.ui.tabs.setCurrentIndex(2)
    ui.resultsSection.collapsed = True
    host.screenshot(panel, "uncertainty-quality")


def test_pictures_of_training(host, panel, click, typeText, waitUntil, study):
    from ImagingAILib.segmentation import addPair

    for which in ("fixed", "moving"):
        image = slicer.util.loadVolume(str(DATA / f"hippocampus_{which}.nii.gz"), {"name": f"hippocampus {which}"})
        labels = slicer.util.loadLabelVolume(str(DATA / f"hippocampus_{which}_labels.nii.gz"), {"name": f"drawn {which}"})
        addPair(image, labels, "")
    panel.ui.tabs.setCurrentIndex(3)
    panel.pairs.fill()
    for name, text in TRAINING.items():
        panel.train.parameters.setText(name, text)
    typeText(panel.train.ui.outputFile, str(study / "model"))
    run(panel.train, click, waitUntil)
    host.screenshot(panel, "uncertainty-train")
