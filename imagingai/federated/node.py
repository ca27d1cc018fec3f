"""A site on the line: connect, ask for instructions, answer, write down what came and what left; pause, leave, come back."""

from __future__ import annotations

import json
import os
import ssl
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message

from imagingai.errors import Cancelled, ImagingAIError, InputError, JobFailed
from imagingai.federated.audit import Audit
from imagingai.federated.flower import Connection
from imagingai.federated.member import Member
from imagingai.federated.messages import bytes_in, instruction, refusal
from imagingai.federated.site import Site
from imagingai.job import Report, write_json

POLL = 1.0  # seconds between two questions for work
SKEW = 240.0  # seconds; Flower refuses signatures that are 305 s old


@dataclass
class Diary:
    """What a person at the site can see while it takes part: state.json, history.json, and the audit log."""

    folder: Path
    rounds: int
    audit: Audit
    history: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=lambda: {"state": "waiting", "message": ""})  # what state.json says

    def __post_init__(self) -> None:
        file = self.folder / "history.json"
        if file.is_file():
            self.history = json.loads(file.read_text(encoding="utf-8"))

    def state(self, state: str, message: str, number: int = 0, **more: Any) -> None:
        """Write state.json if something has changed."""
        content = {"state": state, "message": message, "round": number or self.round, "rounds": self.rounds, **more}
        if content != self.last:
            self.last = content
            write_json(self.folder / "state.json", content)

    @property
    def round(self) -> int:
        """The last round that this site has answered."""
        return min(self.rounds, max((row["round"] for row in self.history), default=0))

    def add(self, row: dict[str, Any]) -> None:
        """A round is done; one that was repeated replaces its first try."""
        self.history = [other for other in self.history if other["round"] != row["round"]] + [row]
        write_json(self.folder / "history.json", self.history)


@dataclass
class Pause:
    """The file `pause` in the job folder: nothing is computed or sent while it is there. report: raises Cancelled to leave."""

    folder: Path
    diary: Diary
    report: Report

    def __call__(self, fraction: float, text: str) -> None:
        self.report(fraction, text)
        if (self.folder / "pause").exists():
            before = self.diary.last
            self.diary.audit.write("paused")
            while (self.folder / "pause").exists():
                self.diary.state("paused", "Paused: nothing is computed or sent until you go on.")
                self.report(fraction, "Paused")
                time.sleep(0.3)
            self.diary.audit.write("went on")
            self.diary.state(before["state"], before["message"])


def take_part(site: Site, address: str, ca: str, key: Any, job: str, diary: Diary, pause: Pause, patience: float) -> None:
    """Answer the aggregator's instructions until it says that the federation is over.

    ca: certificate (PEM) that must have signed the aggregator's; job: what the site has agreed to. When the report raises Cancelled it
    leaves at once, and tells the aggregator so. Raises JobFailed when the aggregator is away for longer than `patience` seconds,
    InputError when it does not let us in.
    """
    waiting = Waiting(diary, pause, patience)
    check_line(address, ca, waiting)
    number_file = site.folder / "node.json"
    known = json.loads(number_file.read_text(encoding="utf-8"))["node_id"] if number_file.is_file() else 0
    connection, member = Connection(address, ca.encode(), key, waiting, known), Member(site)
    write_json(number_file, {"node_id": connection.node_id})
    diary.audit.write("connected", address=address)
    try:
        over = False
        while not over:
            diary.state("waiting", "Waiting for the aggregator and the other sites.")
            site.report(diary.round / diary.rounds, f"Round {diary.round} of {diary.rounds}: waiting")
            got = connection.receive()
            waiting.reset()
            if got is None:
                time.sleep(POLL)
            else:
                over = follow(member, connection, *got, job, diary)
        diary.state("done", "The federation is over; its model is here.")
    except Cancelled:
        diary.audit.write("left")
        diary.state("left", "You have left; join again with the same folder.")
        raise
    finally:
        connection.close()


def follow(member: Member, connection: Connection, message: Message, job: str, agreed: str, diary: Diary) -> bool:
    """Do one instruction and send the answer; True after the last one. What the invitation does not allow is refused."""
    began = time.time()
    kind, number = instruction(message)
    diary.audit.write("received", kind=kind, round=number, bytes=bytes_in(message), sha256=message.content.object_id)
    try:
        if job != agreed:
            raise InputError(f"The aggregator runs the job {job[:8]}, and this site has agreed to {agreed[:8]}; it was refused.")
        diary.state("training" if kind == "train" else "waiting", f"{kind} in round {number} of {diary.rounds}", number)
        reply = member.answer(message)
    except Cancelled:
        raise
    except ImagingAIError as error:
        diary.audit.write("refused", kind=kind, round=number, reason=str(error.__cause__ or error))
        connection.send(refusal(message, str(error)), time.time() - began)
        return False
    seconds, sent = time.time() - began, bytes_in(reply)
    figures = dict(reply.content.get("metrics", {}))
    member.site.report(diary.round / diary.rounds, f"Sending the answer to {kind} of round {number}")  # the last chance to pause or leave
    # written down before it leaves: a kill in between leaves a line too many, never one too few
    diary.audit.write("sent", kind=kind, round=number, bytes=sent, sha256=reply.content.object_id, figures=figures)
    diary.state("sending", f"Sending the answer to {kind} of round {number}", number)
    connection.send(reply, seconds)
    if figures and kind in ("train", "evaluate"):
        row = number if kind == "train" else number + 1  # the measure of the last model stands after its round
        numbers = {name: value for name, value in {**member.figures, **figures}.items() if isinstance(value, (int, float))}
        diary.add({"round": row, **numbers, "seconds": round(seconds, 2), "bytes": sent})
    return kind == "finish"


@dataclass
class Waiting:
    """Called while the aggregator does not answer: says so, and gives up after `patience` seconds."""

    diary: Diary
    pause: Pause
    patience: float
    since: float | None = None

    def __call__(self, problem: str) -> None:
        self.since = self.since or time.monotonic()
        gone = time.monotonic() - self.since
        if gone > self.patience:
            raise JobFailed(
                f"{problem} for {gone:.0f} s. Check the network (one outgoing HTTPS connection; a proxy is taken from HTTPS_PROXY), "
                "ask the coordinator whether the aggregator runs, and join again with the same folder."
            )
        self.diary.state("connecting", f"{problem}; trying again.")
        for _ in range(int(min(10, 1 + gone / 5) * 5)):
            self.pause(self.diary.round / self.diary.rounds, "The aggregator does not answer; trying again")
            time.sleep(0.2)

    def reset(self) -> None:
        """The line is up."""
        self.since = None


def check_line(address: str, ca: str, waiting: Waiting) -> None:
    """Ask for a sign of life first, so that a wrong certificate, a wrong clock or a proxy in between get a sentence of their own."""
    context = ssl.create_default_context(cadata=ca)
    while True:
        try:
            found = httpx.get(f"https://{address}/health", verify=context, timeout=10)
            break
        except httpx.ProxyError as error:
            raise InputError(
                f"The proxy {proxy()} does not let us through to {address}: {error}. Check HTTPS_PROXY, or ask your IT department."
            ) from None
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise InputError(certificate_problem(address, str(error))) from None
            waiting(f"The aggregator {address} does not answer ({error})")
    if "date" in found.headers:
        ahead = time.time() - parsedate_to_datetime(found.headers["date"]).timestamp()
        if abs(ahead) > SKEW:
            raise InputError(
                f"The clock of this computer is {abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} the aggregator's, "
                "which refuses signatures that are off by more than 5. Set the clock."
            )
    waiting.reset()


def certificate_problem(address: str, error: str) -> str:
    """The sentence for a certificate that cannot be trusted."""
    if "expired" in error:
        return f"The certificate of the aggregator {address} has expired. The coordinator renews it with: imagingai federated resume."
    if "not valid for" in error or "mismatch" in error:
        name = error.rpartition(": ")[2]
        return f"The certificate at {address} is for another name ({name}). Ask the coordinator for an invitation with the right address."
    return (
        f"The certificate at {address} was not issued by the authority in the invitation: this may be another server, or a firewall "
        "that opens encrypted connections. Nothing was sent; ask the coordinator or your IT department."
    )


def proxy() -> str:
    """The proxy that is used."""
    return os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or "of the system"
