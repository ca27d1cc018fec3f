"""Faults with real processes: `python faults.py --work FOLDER` does each to a federation of its own and writes results/faults.md.

Each row: what was done, how the federation ended, after how many seconds the next round was complete, and whether
the weights are those of an unbroken run, bit by bit.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import common

common.begin()

import broken as broken  # noqa: E402  adds its rows
import hostile as hostile  # noqa: E402  adds its rows
from report_faults import FAULTS, REFERENCES, Found, may_run  # noqa: E402

FILE = common.RESULTS / "faults.json"
TEXT = """\
## Faults

`python benchmarks/federated/faults.py --work FOLDER`: an aggregator and sites as real processes on one computer, with TLS, keys and
invitations; each row is a federation of its own. *s*: seconds until the next round was complete after the fault was over, with all that
has to start again (a process takes 5 s of CPU to start); *load*: processes that waited for each core meanwhile, so divide by it.
*same weights*: the last model is that of the unbroken run, bit by bit.

"""
EQUAL = {True: "yes", False: "NO", None: ""}


def main() -> None:
    arguments = common.parser(__doc__)
    arguments.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"some of: {', '.join(FAULTS)}")
    arguments.add_argument("--jobs", type=int, default=3, help="federations at a time; much of each is waiting")
    options = arguments.parse_args()
    wanted = options.only or list(FAULTS)
    options.work.mkdir(parents=True, exist_ok=True)
    for group in ([name for name in wanted if FAULTS[name].first == first] for first in (True, False)):
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda name: attempt(name, options.work.absolute()), group))
        collect(options.work)
    print((common.RESULTS / "faults.md").read_text(encoding="utf-8"))


def attempt(name: str, work: Path) -> None:
    """Do one fault; what went wrong is a row, too."""
    began, folder = time.time(), work / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        found = FAULTS[name].run(folder) if may_run(FAULTS[name]) else Found("not run: needs the rights of an administrator")
    except (AssertionError, TimeoutError, LookupError, OSError, TypeError, ValueError) as error:  # a row; the others go on
        traceback.print_exc()
        found = Found(f"FAILED: {type(error).__name__}: {error}")
    print(f"{time.strftime('%H:%M:%S')} {name} ({time.time() - began:.0f} s): {found}", flush=True)
    row = {**asdict(found), "load": round(os.getloadavg()[1] / os.cpu_count(), 1)}
    (work / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")


def collect(work: Path) -> None:
    """All rows that are there, as figures and as a table; what unbroken runs gave is remembered."""
    known = {name: json.loads(file.read_text(encoding="utf-8")) for name in FAULTS if (file := work / f"{name}.json").exists()}
    REFERENCES.update({name: found["reference"] for name, found in known.items() if found["reference"]})
    if not known:
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    FILE.with_suffix(".md").write_text(table_of(known), encoding="utf-8")


def table_of(known: dict) -> str:
    """A row for each fault."""
    rows = [
        {
            "what was done": FAULTS[name].text,
            "what happened": found["text"].replace("|", "/"),
            "s": "" if found["seconds"] is None else f"{found['seconds']:.0f}",
            "load": "" if found["seconds"] is None else str(found.get("load", "")),
            "same weights": EQUAL[found["equal"]],
        }
        for name in FAULTS
        if (found := known.get(name))
    ]
    return TEXT + common.table(rows)


if __name__ == "__main__":
    main()
