"""How fast weights move: `python load.py --work FOLDER` writes results/load.md.

1. Eight sites, 19.6 MB, four rounds, over TLS on this computer: seconds, memory, CPU seconds of each process; with float32 and float16.
2. Over lines of 10, 100 and 1000 Mbit/s (of the aggregator, in each direction, shared by all sites): seconds of a round, and how many
   the bytes alone would take at that rate.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import common

common.begin()

from harness import PICTURES, Federation, federation  # noqa: E402
from relay import Line  # noqa: E402

AGGREGATOR = ("aggregator", "link", "rounds_process")
TICK = os.sysconf("SC_CLK_TCK")
TEXT = """\
## Load

`python benchmarks/federated/load.py --work FOLDER`: real processes with TLS, on one computer. *load*: processes that waited for each core
meanwhile. Seconds on a computer that does nothing else are about the CPU seconds of all, divided by the number of its cores.

Eight sites, 19.6 MB, four rounds (the weights go down six times and up four times; a site does one step of training):

"""
SLOW = """
Over a line of the aggregator that all sites share (each direction has its rate; enforced by a relay, measured, not computed). The limit
is the time of the bytes alone: down, then up. The sites train between the two, so that the line is idle then.

"""
LINES = {  # Mbit/s -> sites, network: smaller on the slow line, so that it takes minutes and not hours
    10: (2, "small"),
    100: (4, "resnet10"),
    1000: (4, "resnet10"),
}


class Watch:
    """Peak memory and CPU seconds of the processes of a federation, looked at twice a second until it ends."""

    def __init__(self, fed: Federation) -> None:
        self.fed, self.memory, self.seconds, self.over, self.together = fed, {}, {}, threading.Event(), 0.0
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            now = {name: self._look(name, Path(f"/proc/{number}")) for name, number in self._processes().items()}
            self.together = max(self.together, sum(now.get(name, 0.0) for name in AGGREGATOR))

    def _processes(self) -> dict[str, int]:
        found = {name: process.pid for name, process in list(self.fed.running.items())}
        for name in ("link", "rounds_process"):
            try:
                found[name] = self.fed.child(name)
            except (OSError, KeyError, TimeoutError):  # not there yet, or over
                continue
        return found

    def _look(self, name: str, place: Path) -> float:
        """MB that it takes now; its peak and its CPU seconds are remembered."""
        try:
            status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return 0.0
        if "VmHWM" not in status:  # it is ending
            return 0.0
        now, self.memory[name] = (int(status[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
        self.seconds[name] = (int(fields[11]) + int(fields[12])) / TICK
        return now

    def end(self) -> None:
        """No more looking."""
        self.over.set()
        self.thread.join()


def load(folder: Path, exchange: str, sites: int = 8, rounds: int = 4) -> dict[str, str]:
    """A row of the first table."""
    names = tuple(f"s{k}" for k in range(sites))
    with federation(folder, names, **{**PICTURES, "rounds": rounds, "exchange": exchange}) as fed:
        watch, began = Watch(fed.begin()), time.time()
        codes = fed.end(900)
        watch.end()
        assert not any(codes.values()), {name: fed.last(name) for name, code in codes.items() if code}
        rows, whole = fed.ledger().rounds(), time.time() - began
        moved = sum(row.bytes * len(row.sites) * 2 for row in rows) + 2 * rows[0].bytes * sites  # and once to measure, once to finish
    site, seconds = [watch.memory[name] for name in names], sum(watch.seconds.values())
    return {
        "numbers": exchange,
        "all, s": f"{whole:.0f}",
        "the rounds, s": f"{rows[-1].ended - rows[0].started:.0f}",
        "moved, MB": f"{moved / 1e6:.0f}",
        "peak memory of link / rounds / site, MB": f"{watch.memory['link']:.0f} / {watch.memory['rounds_process']:.0f} / {max(site):.0f}",
        "aggregator at once, MB": f"{watch.together:.0f}",
        "CPU of link / rounds / site, s": f"{watch.seconds['link']:.0f} / {watch.seconds['rounds_process']:.0f} / "
        f"{sum(watch.seconds[name] for name in names) / sites:.0f}",
        "CPU of all, s": f"{seconds:.0f}",
        "load": f"{os.getloadavg()[1] / os.cpu_count():.1f}",
    }


def slow(folder: Path, rate: int, rounds: int = 3) -> dict[str, str]:
    """A row of the second table. rate: Mbit/s."""
    count, network = LINES[rate]
    names = tuple(f"s{k}" for k in range(count))
    with federation(folder, names, **{**PICTURES, "rounds": rounds, "network": network}) as fed:
        line = Line(fed.port, rate * 1e6 / 8)
        for name in names:
            fed.invite(name, line.port)
        codes = fed.begin().end(900)
        assert not any(codes.values()), codes
        rows = fed.ledger().rounds()
        line.close()
        training = [max(row.metrics["seconds"] for row in fed.ledger().updates(number)) for number in range(2, rounds + 1)]
    seconds = sum(row.ended - row.started for row in rows[1:]) / (rounds - 1)
    size, payload = rows[0].bytes, rows[0].bytes * count * rounds
    limit = 2 * size * count * 8 / (rate * 1e6)
    return {
        "Mbit/s": str(rate),
        "sites x MB": f"{count} x {size / 1e6:.1f}",
        "limit of a round, s": f"{limit:.1f}",
        "measured, s": f"{seconds:.1f}",
        "of that training, s": f"{sum(training) / len(training):.1f}",
        "measured / limit": f"{seconds / limit:.2f}",
        "bytes up on the line / weights": f"{line.up.total / payload:.3f}",
        "load": f"{os.getloadavg()[1] / os.cpu_count():.1f}",
    }


def main() -> None:
    options = common.parser(__doc__)
    options.add_argument("--only", nargs="*", default=["float32", "float16", *map(str, LINES)], help="float32, float16, 10, 100, 1000")
    options = options.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        folder = options.work / name
        shutil.rmtree(folder, ignore_errors=True)
        row = load(folder, name) if name.startswith("float") else slow(folder, int(name))
        (options.work / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
        print(row, flush=True)
    known = {file.stem: json.loads(file.read_text()) for file in sorted(options.work.glob("*.json"))}
    common.RESULTS.mkdir(exist_ok=True)
    (common.RESULTS / "load.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    first = [known[name] for name in ("float32", "float16") if name in known]
    second = [known[name] for name in map(str, LINES) if name in known]
    tables = [text + common.table(rows) for text, rows in ((TEXT, first), (SLOW, second)) if rows]
    common.write_result("load.md", "".join(tables))


if __name__ == "__main__":
    main()
