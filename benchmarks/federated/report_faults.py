"""The list of faults, what was found of each, and how a federation is judged after one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import PATIENCE, Federation, until

FAULTS: dict[str, Fault] = {}
REFERENCES: dict[str, str] = {}  # name of an unbroken run -> SHA-256 of its weights


@dataclass(frozen=True)
class Found:
    """What happened. seconds: until the next round was complete; equal: to the unbroken run, if it should be.

    reference: SHA-256 of the weights of an unbroken run.
    """

    text: str
    seconds: float | None = None
    equal: bool | None = None
    reference: str = ""


@dataclass(frozen=True)
class Fault:
    """text: what was done; first: others are compared with it; root: needs the rights of an administrator."""

    text: str
    run: Callable[[Path], Found]
    first: bool
    root: bool


def fault(text: str, first: bool = False, root: bool = False, name: str = "") -> Callable:
    """A row of the table."""

    def add(run: Callable[[Path], Found]) -> Callable[[Path], Found]:
        FAULTS[name or run.__name__] = Fault(text, run, first, root)
        return run

    return add


def done(fed: Federation, seconds: float | None = None, like: str = "", text: str = "", reference: bool = False) -> Found:
    """All end well and all have the same model; like: an unbroken run with the same settings, whose weights must be these."""
    codes = fed.end()
    assert not any(codes.values()), f"{codes}: " + "; ".join(f"{name}: {fed.last(name)}" for name, code in codes.items() if code)
    assert len(fed.models()) == 1, "the sites have different models"
    equal = fed.digest() == REFERENCES[like] if like else None
    return Found(f"completed{f'; {text}' if text else ''}", seconds, equal, fed.digest() if reference else "")


def refused(fed: Federation, site: str, patience: float = PATIENCE) -> Found:
    """The site ends with one sentence, and has sent nothing but its question whether anybody is there."""
    until(lambda: fed.running[site].poll() is not None, patience, lambda: f"{site} has not ended: {fed.last(site)}")
    assert fed.running[site].returncode == 2, f"{fed.running[site].returncode}: {fed.last(site)}"
    lines = [line for line in (fed.folder / f"{site}.log").read_text().splitlines() if line.startswith("imagingai: ")]
    assert len(lines) == 1, lines
    return Found(f"the site stopped: {short(lines[0].removeprefix('imagingai: '), fed)}")


def short(text: str, fed: Federation) -> str:
    """Without the folders of this computer."""
    return re.sub(rf"{re.escape(str(fed.folder))}\S*/", "", text).strip()


def may_run(one: Fault) -> bool:
    """True unless it needs rights that we do not have."""
    return not one.root or (hasattr(os, "geteuid") and os.geteuid() == 0)
