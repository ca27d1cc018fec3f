"""Fixtures for tests that work our panels as a person does; they need PySide6 and slicer-core, not Slicer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from balls import done, pair, panel  # noqa: E402, F401  # fixtures


def pytest_addoption(parser) -> None:
    parser.addoption("--screenshots", help="folder for the pictures of panels and views (default: a temporary folder)")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "slicer(version='5.12', mainWindow=True, markTranslated=False): the Slicer that the host plays")


@pytest.fixture(scope="session")
def qtApplication(tmp_path_factory):
    from PySide6 import QtCore
    from PySide6.QtWidgets import QApplication

    QtCore.QCoreApplication.setOrganizationName("Tests")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(tmp_path_factory.mktemp("settings")))
    return QApplication.instance() or QApplication(["Slicer"])


@pytest.fixture
def host(request, qtApplication, tmp_path, monkeypatch):
    from host import Host

    folder = Path(request.config.getoption("--screenshots", None) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    mark = request.node.get_closest_marker("slicer")
    session = Host(monkeypatch, folder, **(mark.kwargs if mark else {}))
    yield session
    session.close()


@pytest.fixture
def openModule(host):
    return host.openModule


@pytest.fixture
def click(host):
    return host.click


@pytest.fixture
def typeText(host):
    return host.typeText


@pytest.fixture
def waitUntil(host):
    return host.waitUntil


@pytest.fixture
def qt(host):
    import qt

    return qt


@pytest.fixture
def ctk(host):
    import ctk

    return ctk
