"""A federation for tests of the panel: the files that `federated-check` and `federated-join` write, made in a moment.

As a program it stands in for `python -m imagingai run FOLDER` and `python -m imagingai federated key`, so that panel and child process are
real and only the work is not. What it does is told by the name of the invited site: `careful` gets warnings from the check, `wrong` data
that cannot be used, `failing` an error while it trains.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from imagingai.errors import Cancelled
from imagingai.federated.audit import Audit
from imagingai.federated.config import ProjectConfig
from imagingai.federated.invitation import Invitation, read_invitation, write_invitation
from imagingai.federated.keys import fingerprint
from imagingai.federated.packages import FLOWER
from imagingai.job import Job, write_json

PUBLIC = "ecdsa-sha2-nistp384 QSBrZXkgb2YgYSB0ZXN0"  # what makes the fingerprint; nothing is signed with it
ROUNDS = 5
PROJECT = {
    "name": "Hippocampus in four hospitals",
    "coordinator": "Dr. Ada Brown, University Hospital, ada.brown@example.org, +1 555 0100",
    "purpose": "A model that measures the hippocampus in T1 images of older people.",
    "address": "federation.example.org:443",
    "classes": ("Anterior", "Posterior"),
    "rounds": ROUNDS,
}
ROWS = [
    ["Cases with labels", "24 (5 of them only measure)"],
    ["Spacing", "1.0 x 1.0 x 1.2 mm"],
    ["Size", "176 x 208 x 176 voxels"],
    ["Anterior", "24 cases, 1.5 ml"],
    ["Posterior", "24 cases, 1.6 ml"],
]
VERDICTS = {
    "careful": (
        "look",
        ["case_07 has no labels and is left out.", "case_11 has a spacing of 3.0 mm along one axis; all others have 1.2 mm."],
    ),
    "wrong": ("bad", ["No case has a structure of this federation (Anterior, Posterior)."]),
}


def writeInvitation(path: Path, site: str = "hospital_a", days: float = 30, key: str = "", **settings) -> Path:
    """An invitation that nobody has signed."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    config = ProjectConfig(**{**PROJECT, **settings})
    start = min(now, now + timedelta(days=days - 1))
    invitation = Invitation(
        format=1,
        software="ImagingAI",
        flower=FLOWER,
        site=site,
        key=key or fingerprint(PUBLIC),
        config=config,
        authority="",
        tensors={"model.0.weight": (32, 1, 3, 3, 3), "model.1.weight": (256, 32, 3, 3, 3)},
        created=start.isoformat(),
        expires=(now + timedelta(days=days)).isoformat(),
        signer="ssh-ed25519 QSBrZXkgb2YgYSBjb29yZGluYXRvcg==",
    )
    write_invitation(invitation, path)
    return path


def agree(host, picture: str = ""):
    """What a person does who reads the question and agrees."""

    def answer(dialog) -> None:
        import slicer  # not in the child process

        ui = slicer.util.childWidgetVariables(dialog)
        button = ui.buttonBox.button(ui.buttonBox.Ok)
        assert not button.enabled, "nobody agrees by accident"
        host.click(ui.agreeBox)
        if picture:
            host.screenshot(dialog, picture)
        assert button.enabled
        host.click(button)

    return answer


def say(fraction: float, text: str) -> None:
    print(json.dumps({"fraction": fraction, "text": text}), flush=True)


def check(folder: Path, job: Job) -> dict:
    site = read_invitation(job.inputs["invitation"]).site
    verdict, problems = VERDICTS.get(site, ("good", []))
    (folder / "report.html").write_text("<p>a report</p>")
    return {"verdict": verdict, "problems": problems, "rows": ROWS, "outputs": ["report.html"]}


class Site:
    """Trains without training: each round takes a moment, all that is exchanged goes into the log."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.place, self.invitation = folder, folder / "federation", read_invitation(job.inputs["invitation"])
        self.place.mkdir(exist_ok=True)
        file = self.place / "history.json"
        self.history = json.loads(file.read_text()) if file.exists() else []
        self.audit = Audit(self.place / "audit.jsonl")

    def state(self, state: str, message: str = "") -> None:
        write_json(self.place / "state.json", {"state": state, "round": len(self.history), "rounds": ROUNDS, "message": message})

    def wait(self, seconds: float, state: str) -> None:
        """Work for a while; a file `pause` or `cancel` is noticed."""
        end = time.monotonic() + seconds
        self.state(state)
        while time.monotonic() < end or (self.folder / "pause").exists():
            if (self.folder / "cancel").exists():
                self.audit.write("left")
                self.state("left")
                raise Cancelled("Stopped on request; nothing was written.")
            time.sleep(0.02)

    def take_part(self) -> dict:
        if not self.history:
            self.audit.write("agreed", invitation=self.invitation.fingerprint)
            self.wait(0.2, "connecting")
        self.audit.write("connected", address=self.invitation.config.address)
        while len(self.history) < ROUNDS:
            self.round(len(self.history) + 1)
        return self.results()

    def round(self, number: int) -> None:
        self.wait(0.1, "waiting")
        self.audit.write("received", kind="train", round=number, bytes=24_600_000, sha256=f"{number:02x}" * 32)
        say(number / ROUNDS, f"Round {number} of {ROUNDS}: training")
        self.wait(0.4, "training")
        score, loss = 0.86 - 0.6 / number, 0.2 + 0.9 / number
        figures = {"num-examples": 19, "score_before": score, "loss_before": loss, "loss": loss * 0.9, "dice Anterior_before": score}
        self.audit.write("sent", kind="train", round=number, bytes=24_600_000, sha256=f"{number + 160:02x}" * 32, figures=figures)
        self.history.append(
            {"round": number, **figures, "epsilon": self.invitation.config.epsilon * number / ROUNDS, "seconds": 0.4, "bytes": 24_600_000}
        )
        write_json(self.place / "history.json", self.history)

    def results(self) -> dict:
        self.state("done")
        for name in ("model.safetensors", "personal.safetensors", "model_card.md", "report.html", "audit.jsonl"):
            (self.folder / name).write_bytes(b"made by a test")
        figures = {"global": {"loss": 0.38, "score": 0.741, "dice": 0.741}, "personal": {"loss": 0.31, "score": 0.792, "dice": 0.792}}
        config, models = self.invitation.config, {"model": "model.safetensors", "personal": "personal.safetensors"}
        found = {"federation": config.name, "site": self.invitation.site, "task": config.task, "rounds": ROUNDS, "figures": figures}
        return {**found, "models": models, "history": self.history, "outputs": sorted([*models.values(), "report.html"])}


def main(folder: Path) -> None:
    job = Job.read(folder)
    about = {"job": {"task": job.task, "inputs": job.inputs, "config": job.config}}
    try:
        if job.task == "federated-predict":
            (folder / "predictions.csv").write_text("case,prediction,healthy,ill\nanna,ill,0.02345,0.97655\nben,healthy,1.0,0.0\n")
            found = {"state": "done", "outputs": ["predictions.csv"]}
        elif job.task == "federated-check":
            found = {"state": "done", **check(folder, job)}
        elif read_invitation(job.inputs["invitation"]).site == "failing":
            found = {"state": "failed", "error": "The proxy of this network does not let us through. Check HTTPS_PROXY."}
        else:
            found = {"state": "done", **Site(folder, job).take_part()}
    except Cancelled as error:
        found = {"state": "cancelled", "error": str(error)}
    write_json(folder / "result.json", {**found, **about})


def make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a private key")
    path.with_name(path.name + ".pub").write_text(f"{PUBLIC} {path.name}\n")


if __name__ == "__main__":
    if "key" in sys.argv:
        make_key(Path(sys.argv[sys.argv.index("--output") + 1]))
    else:
        main(Path(sys.argv[sys.argv.index("run") + 1]))
