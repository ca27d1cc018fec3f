"""A federation as this site sees it: its folder, its key, the job that takes part, what has been exchanged. No Qt."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from imagingai.errors import ImagingAIError
from imagingai.federated import keys
from imagingai.job import Job, read_result
from ImagingAILib import install
from ImagingAILib.segmentation import FolderRun, writePairs
from ImagingAILib.world import NodeError

FOLDERS_KEY = "ImagingAI/Federations"  # setting: folders of federations, the latest first
MOST = 20  # federations that are remembered
CHECK, OWN = "check", "federation"  # folders inside that of a federation: the data check, what the site keeps and logs
DATA = ("images", "labels", "table")
PATIENCE = 120  # seconds that making a key may take


class CheckRun(FolderRun):
    """Looks at the data of this site, which may be pairs of the scene; they are written for it, and learned from as they were then."""

    def __init__(
        self, source: tuple, inputs: dict[str, str], config: dict[str, Any], folder: Path, pairs: list[tuple], known: dict[int, str]
    ) -> None:
        super().__init__("federated-check", inputs, config, folder)
        self.source, self.pairs, self.known = source, pairs, known

    def writeInputs(self) -> dict[str, str]:
        return {**self.inputs, **(writePairs(self.pairs, self.folder, self.known) if self.pairs else {})}

    @property
    def checked(self) -> Checked:
        """Of a check that is done."""
        return Checked(self.source, self.result["job"]["inputs"], self.result)


class JoinRun(FolderRun):
    """Takes part in a federation until it is done, or this site leaves. It needs nothing of the scene."""

    grace = 30.0  # to say goodbye to the aggregator

    def __init__(self, inputs: dict[str, str], config: dict[str, Any], folder: Path) -> None:
        super().__init__("federated-join", inputs, config, folder)

    def writeInputs(self) -> dict[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pause(False)
        return super().writeInputs()

    @property
    def textWhenStopped(self) -> str:
        return _("You have left. Join again with the same folder to go on.")

    @property
    def isPaused(self) -> bool:
        return (self.folder / "pause").exists()

    def pause(self, isPaused: bool) -> None:
        """Stop training here for a while, or go on."""
        if isPaused:
            (self.folder / "pause").touch()
        else:
            (self.folder / "pause").unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leave without waiting for the end: the panel goes away. A kill would leave the other sites in doubt."""
        if self.run and self.run.running:
            self.run.release()
            self.state = "cancelled"


@dataclass
class Checked:
    """A data check that ended well: what was looked at (source), the files of it, what was found."""

    source: tuple
    inputs: dict[str, str]
    result: dict[str, Any]

    @property
    def verdict(self) -> str:
        return self.result.get("verdict", "good")


def readChecked(folder: Path) -> Checked | None:
    """The last data check of a federation, if it ended well; its source are the files."""
    result = read_result(folder / CHECK)
    if result.get("state") != "done":
        return None
    inputs = result["job"]["inputs"]
    return Checked(sourceOf(inputs), inputs, result)


def sourceOf(inputs: dict[str, str]) -> tuple:
    """What a check was about: the same files of the same invitation."""
    return tuple(sorted(inputs.items()))


def joinedInputs(folder: Path) -> dict[str, str]:
    """What this site has joined with before in this folder; empty if it has not."""
    try:
        job = Job.read(folder)
    except ImagingAIError:
        return {}
    return job.inputs if job.task == "federated-join" else {}


def keepInvitation(invitation: Path, folder: Path) -> Path:
    """Copy an invitation into the folder of its federation, which may be joined again when the mail is long gone."""
    kept = folder / invitation.name
    if kept != invitation:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(invitation, kept)
        except OSError as error:
            text = _("The folder {folder} cannot be written: {reason}. Choose another one in the tab Invitation.")
            raise NodeError(text.format(folder=folder, reason=error.strerror)) from None
    return kept


# --- remembered


def remember(folder: Path) -> None:
    """Put a federation at the head of those of this computer."""
    others = [known for known in remembered() if known != folder]
    slicer.app.settings().setValue(FOLDERS_KEY, "\n".join(map(str, [folder, *others][:MOST])))


def remembered() -> list[Path]:
    """The folders of the federations of this computer that are still there, the latest first."""
    lines = (slicer.util.settingsValue(FOLDERS_KEY, "") or "").splitlines()
    return [folder for folder in map(Path, lines) if (folder / "job.json").is_file()]


@dataclass(frozen=True)
class Model:
    """A model of a federation that is done. kind: model (the global one) or personal; figures: on the held-out cases of this site."""

    folder: Path
    federation: str
    task: str
    kind: str
    path: Path
    figures: dict[str, float]


def models() -> list[Model]:
    """The models of all federations of this computer."""
    found = []
    for folder in remembered():
        result = read_result(folder)
        for kind, name in result.get("models", {}).items():
            if (folder / name).is_file():
                figures = result["figures"].get("personal" if kind == "personal" else "global", {})
                found.append(Model(folder, result["federation"], result["task"], kind, folder / name, figures))
    return found


# --- the key of this site


def keyFile() -> Path:
    """The private key of this site, whether it is there or not."""
    return keys.DEFAULT_KEY


def publicFile() -> Path:
    return keyFile().with_name(keyFile().name + ".pub")


def keyFingerprint() -> str:
    """The fingerprint of this site's key, or nothing if there is none."""
    if not keyFile().is_file():
        return ""
    try:
        return keys.fingerprint(publicFile().read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError):
        return ""


def makeKey() -> None:
    """Make the key of this site, if it has none, in a child process. Raises `InstallError` with what it says."""
    command = [*install.python(), "-m", "imagingai", "federated", "key", "--output", str(keyFile())]
    options = {"env": install.jobEnvironment(), "timeout": PATIENCE, **install.NO_WINDOW}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise install.InstallError(_("The key could not be made ({reason}).").format(reason=error)) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [_("exit code {code}").format(code=done.returncode)]
        raise install.InstallError(_("The key could not be made ({reason}).").format(reason=lines[-1].removeprefix("imagingai: ")))


# --- what has been exchanged


@dataclass
class Follower:
    """Reads what a federation writes while it runs; each call reads only what is new in the log."""

    folder: Path
    log: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    @property
    def audit(self) -> Path:
        return self.folder / OWN / "audit.jsonl"

    def state(self) -> dict[str, Any]:
        found = readJson(self.folder / OWN / "state.json")
        return found if isinstance(found, dict) else {}

    def history(self) -> list[dict[str, Any]]:
        found = readJson(self.folder / OWN / "history.json")
        return found if isinstance(found, list) else []

    def readLog(self) -> bool:
        """Add the new lines of the audit log to `log`; whether there were any."""
        try:
            with self.audit.open("rb") as file:
                file.seek(self._read)
                *lines, _rest = file.read().split(b"\n")
        except OSError:
            return False
        self._read += sum(len(line) + 1 for line in lines)
        rows = [row for line in lines if (row := _parsed(line))]
        self.log += rows
        return bool(rows)


def readJson(path: Path) -> Any:
    """The content of a file; None if it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
