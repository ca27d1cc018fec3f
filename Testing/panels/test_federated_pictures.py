"""The pictures of the guide of FederatedClient: `make pictures`. Two real sites on this computer, with X-rays of the demonstration."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")
if sys.version_info < (3, 11):
    pytest.skip("Flower needs Python 3.11 or newer", allow_module_level=True)

from imagingai.federated import keys, packages  # noqa: E402

PATIENCE = 900  # seconds
WHO = {
    "coordinator": "Dr. Ada Brown, University Hospital, ada.brown@example.org, +1 555 0100",
    "purpose": "A model that finds pneumonia in chest X-rays of children. For research, not for diagnosis.",
}


@pytest.fixture
def panel(request, host, openModule, monkeypatch, tmp_path_factory):
    """The panel of a hospital that has no key yet."""
    if not request.config.getoption("--screenshots"):
        pytest.skip("only with --screenshots FOLDER")
    packages.activate()
    monkeypatch.setattr(keys, "DEFAULT_KEY", tmp_path_factory.mktemp("home") / "site_key")
    return openModule("FederatedClient")


@pytest.fixture
def study(tmp_path_factory):
    """A folder whose name may be seen in the pictures."""
    return tmp_path_factory.mktemp("study")


def test_pictures(host, panel, click, typeText, waitUntil, study):
    from fake_federation import agree
    from real_federation import federation

    from imagingai.federated.demo_sites import PROJECT, write_sites

    data = write_sites(study / "data")
    host.screenshot(panel, "federated-key")
    host.dialogs.answers.append(str(study / "north.pub"))
    click(panel.invitation.ui.keyButton)
    with federation(study, {**PROJECT, **WHO, "rounds": 8}, study / "north.pub", data["east"], "north", "east") as invitation:
        typeText(panel.invitation.ui.invitationFile, str(invitation))
        host.screenshot(panel, "federated-invitation")
        panel.ui.tabs.setCurrentIndex(1)
        for name, path in data["north"].items():
            typeText(getattr(panel.data.ui, f"{name}File"), str(path))
        click(panel.data.ui.applyButton)
        waitUntil(lambda: panel.data.panel.run is None, PATIENCE)
        host.screenshot(panel, "federated-data")
        panel.ui.tabs.setCurrentIndex(2)
        if panel.join.ui.warningsBox.visible:
            click(panel.join.ui.warningsBox)
        host.screenshot(panel, "federated-join")
        host.dialogs.answers.append(agree(host, "federated-consent"))
        click(panel.join.ui.applyButton)
        waitUntil(lambda: len(panel.running.history) > 4, PATIENCE)
        host.screenshot(panel, "federated-running")
        waitUntil(lambda: panel.join.run is None, PATIENCE)
    ui = panel.results.ui
    click(ui.useButton)
    typeText(ui.imagesFile, str(data["south"]["images"]))
    typeText(ui.outputFile, str(study / "predictions"))
    click(ui.applyButton)
    waitUntil(lambda: panel.predictions.panel.run is None, PATIENCE)
    host.screenshot(panel, "federated-results")
