"""Flower and its packages, in a folder of their own: what Slicer or the user has installed is not touched. Standard library only."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from imagingai.errors import InputError, JobFailed

FLOWER = "1.41.0"
REQUIREMENTS = Path(__file__).with_name("flower-requirements.txt")
FOLDER_VARIABLE = "IMAGINGAI_FLOWER"
MARK = "imagingai-installed.txt"
SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(2 << 20),  # bytes of a request, not 5 MB: the aggregator holds some of each site, in copies
}


def folder() -> Path:
    """Where the packages are for this Python: $IMAGINGAI_FLOWER, or a folder of the user's."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    name = f"flower-{FLOWER}-cp{sys.version_info[0]}{sys.version_info[1]}"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "ImagingAI" / name
    home = Path.home()
    return (home / "Library/Application Support" if sys.platform == "darwin" else home / ".local/share") / "ImagingAI" / name


def is_installed() -> bool:
    """True if the folder holds all packages; the mark is written last."""
    mark = folder() / MARK
    return mark.is_file() and mark.read_text(encoding="utf-8") == _wanted()


def activate() -> None:
    """Make Flower importable in this process, without telemetry; raises InputError with the way out if it is not installed."""
    if sys.version_info < (3, 11):
        raise InputError(
            f"Flower {FLOWER} needs Python 3.11 or newer; this is {sys.version.split()[0]}. Use another Python for federated training."
        )
    if not is_installed():
        raise InputError(
            f"Flower {FLOWER} is not installed in {folder()}. Install it with: imagingai federated install "
            "(53 packages from PyPI, 170 MB, into that folder only)."
        )
    os.environ.update(SETTINGS, FLWR_HOME=str(folder() / "home"))
    os.environ[FOLDER_VARIABLE] = str(folder())  # for child processes
    if str(folder()) not in sys.path:
        sys.path.insert(0, str(folder()))
        importlib.invalidate_caches()


def install(wheels: str = "") -> None:
    """Install the packages with pip; wheels: a folder of them for a computer without a network. A stopped installation starts anew."""
    shutil.rmtree(folder(), ignore_errors=True)
    if subprocess.run([sys.executable, "-m", "pip", "install", *pip_arguments(wheels)], check=False).returncode:
        shutil.rmtree(folder(), ignore_errors=True)
        raise JobFailed(
            f"pip could not install Flower into {folder()}; its last lines above say why. "
            "Behind a proxy set HTTPS_PROXY; offline use --wheels."
        )
    mark_installed()


def pip_arguments(wheels: str = "") -> list[str]:
    """What follows `pip install`."""
    offline = ["--no-index", "--find-links", wheels] if wheels else []
    return ["--no-deps", "--upgrade", "--target", str(folder()), *offline, "-r", str(REQUIREMENTS)]


def mark_installed() -> None:
    """Say that the folder is complete; `is_installed` looks for it."""
    (folder() / MARK).write_text(_wanted(), encoding="utf-8")


def _wanted() -> str:
    return REQUIREMENTS.read_text(encoding="utf-8")
