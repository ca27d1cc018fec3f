"""Faults that happen: processes are killed, lines are cut, disks are full, clocks are wrong, sites are late, leave, pause."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from harness import PATIENCE, PICTURES, ROGUE, Federation, federation, until
from relay import Line, Proxy
from report_faults import Found, done, fault, refused, short

RATE = 4e6  # bytes per second, so that the 19.6 MB of PICTURES take five seconds


@contextmanager
def pictures(folder: Path, rate: float = RATE):
    """A federation with a network of 19.6 MB, each site with a line of its own (`lines`)."""
    with federation(folder, **PICTURES) as fed:
        fed.lines = {site: Line(fed.port, rate) for site in fed.sites}
        for site, line in fed.lines.items():
            fed.invite(site, line.port)
        yield fed
        for line in fed.lines.values():
            line.close()


# --- what the others are compared with


@fault("nothing", first=True)
def unbroken(folder: Path) -> Found:
    with federation(folder) as fed:
        return done(fed.begin(), reference=True)


@fault("nothing, 19.6 MB in five seconds", first=True)
def unbroken_upload(folder: Path) -> Found:
    with pictures(folder) as fed:
        return done(fed.begin(), reference=True)


@fault("nothing, the same three sites twice (sums in another order would differ in the last bit)")
def twice(folder: Path) -> Found:
    found = []
    for name in ("one", "two"):
        with federation(folder / name, ("a", "b", "c"), rounds=2) as fed:
            done(fed.begin())
            found.append(fed.digest())
    return Found("completed, twice", equal=found[0] == found[1])


# --- kill -9


@fault("kill -9 of a site while it trains, started again at once")
def site_in_training(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.begin().until_state("a", "training", 2)
        time.sleep(0.5)
        began = time.time()
        fed.kill("a")
        fed.join("a")
        fed.until_round(2)
        return done(fed, time.time() - began, "unbroken")


@fault("kill -9 of a site while it trains, started again after 60 s")
def site_away(folder: Path) -> Found:
    with federation(folder, grace=5) as fed:
        fed.begin().until_state("a", "training", 2)
        fed.kill("a")
        time.sleep(60)
        began = time.time()
        fed.join("a")
        fed.until_round(2)
        return done(fed, time.time() - began, "unbroken", fed.events("left out")[0])


@fault("kill -9 of one of three sites while it trains, for good; two are enough (grace 5 s)")
def site_lost(folder: Path) -> Found:
    with federation(folder, ("a", "b", "c"), min_sites=2, grace=5) as fed:
        fed.begin().until_state("c", "training", 2)
        began = time.time()
        fed.kill("c")
        fed.until_round(2)
        seconds = time.time() - began
        fed.sites = ("a", "b")
        return done(fed, seconds, "", fed.events("left out")[0])


@fault("kill -9 of a site in the middle of an upload, started again at once")
def site_in_upload(folder: Path) -> Found:
    with pictures(folder) as fed:
        fed.begin()
        wait_for_upload(fed, "a")
        began = time.time()
        fed.kill("a")
        fed.join("a")
        fed.until_round(1)
        return done(fed, time.time() - began, "unbroken_upload")


@fault("the line of a site is cut in the middle of an upload, for 20 s")
def line_cut(folder: Path) -> Found:
    with pictures(folder) as fed:
        fed.begin()
        wait_for_upload(fed, "a")
        fed.lines["a"].cut()
        time.sleep(20)
        began = time.time()
        fed.lines["a"].mend()
        fed.until_round(1)
        return done(fed, time.time() - began, "unbroken_upload")


@fault("kill -9 of the aggregator, twice (in training, in an upload), each time `resume` after 5 s")
def aggregator_twice(folder: Path) -> Found:
    with pictures(folder) as fed:
        fed.begin().until_state("a", "training")
        restart(fed)
        wait_for_upload(fed, "b")
        began = restart(fed)
        fed.until_round(1)
        return done(fed, time.time() - began, "unbroken_upload")


@fault("kill -9 of the link process in the middle of an upload")
def link_in_upload(folder: Path) -> Found:
    with pictures(folder) as fed:
        fed.begin()
        wait_for_upload(fed, "a")
        began = time.time()
        fed.kill("link")
        fed.until_round(1)
        return done(fed, time.time() - began, "unbroken_upload", fed.events("started again")[0])


@fault("kill -9 of the process of the rounds, in round 2")
def rounds_killed(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.begin().until_state("a", "training", 2)
        began = time.time()
        fed.kill("rounds_process")
        fed.until_round(2)
        return done(fed, time.time() - began, "unbroken", fed.events("started again")[0])


def restart(fed: Federation) -> float:
    """kill -9 of the aggregator, and on with it; returns the time."""
    fed.kill("aggregator")
    time.sleep(5)
    fed.serve(resume=True)
    return time.time()


def wait_for_upload(fed: Federation, site: str) -> None:
    """Until a third of the weights is on its way up."""
    fed.until_state(site, "sending")
    begin = fed.lines[site].up.total
    until(lambda: fed.lines[site].up.total > begin + 6e6, PATIENCE, f"the upload of {site}")


# --- people


@fault("a site leaves (file `cancel`) while it trains, and joins again after 10 s")
def leave(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.begin().until_state("a", "training", 2)
        (fed.job("a") / "cancel").touch()
        until(lambda: fed.running["a"].poll() is not None, 60, "the site leaves")
        text = f"the site said: {fed.last('a')}"
        time.sleep(10)
        began = time.time()
        fed.join("a")
        fed.until_round(2)
        return done(fed, time.time() - began, "unbroken", text)


@fault("a site pauses for 30 s while it trains")
def pause(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.begin().until_state("a", "training", 2)
        (fed.job("a") / "pause").touch()
        fed.until_state("a", "paused")
        sent = len(fed.audit("a", "sent"))
        time.sleep(30)
        assert len(fed.audit("a", "sent")) == sent and fed.rounds() == 1, "something was sent"
        began = time.time()
        (fed.job("a") / "pause").unlink()
        fed.until_round(2)
        return done(fed, time.time() - began, "unbroken")


@fault("one of three sites pauses beyond the deadline of 40 s, and then goes on")
def late(folder: Path) -> Found:
    with federation(folder, ("a", "b", "c"), min_sites=2, deadline=40, rounds=8) as fed:
        fed.begin().until_state("c", "training", 2)
        number, began = fed.state("c")["round"], time.time()
        (fed.job("c") / "pause").touch()
        fed.until_round(number)
        seconds = time.time() - began
        (fed.job("c") / "pause").unlink()
        found = done(fed, seconds, "", fed.events(f"c is left out of train round {number}")[0])
        counted = {row.round for row in fed.ledger().updates() if row.site == "c" and row.state == "counted"}
        assert number not in counted and max(counted) > number, f"late in round {number}, and counted in {counted}"
        return found


# --- machines


@fault("the disk under the aggregator's database is full (50 MB), then has room and `resume`", root=True)
def disk_full(folder: Path) -> Found:
    place = folder / "fed" / "project-federation"
    with small_disk(place, 50), pictures(folder / "fed", 2 * RATE) as fed:
        fed.begin()
        until(lambda: fed.running["aggregator"].poll() is not None, PATIENCE, "the aggregator stops")
        text = short(fed.last("aggregator").removeprefix("imagingai: "), fed)
        grow(place, 900)
        fed.store, began = None, time.time()
        fed.serve(resume=True)
        fed.until_round(1)
        return done(fed, time.time() - began, "unbroken_upload", text)


@fault("the disk of a site is full (8 MB)", root=True)
def site_disk_full(folder: Path) -> Found:
    with federation(folder, **{**PICTURES, "rounds": 1}) as fed, small_disk(fed.job("a"), 8):
        fed.serve()
        for site in fed.sites:
            fed.join(site)
        until(lambda: fed.running["a"].poll() is not None, PATIENCE, "the site stops")
        return refused(fed, "a")


@contextmanager
def small_disk(place: Path, megabytes: int):
    """A disk of this size at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def grow(place: Path, megabytes: int) -> None:
    """Room on the small disk."""
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(place)], check=True)


def _clock(minutes: int):
    def run(folder: Path) -> Found:
        with federation(folder, rounds=2) as fed:
            fed.serve()
            fed.join("b")
            fed.join("a", program=(ROGUE, f"clock={60 * minutes}"))
            if abs(minutes) > 5:
                return refused(fed, "a")
            return done(fed)

    return run


for minutes in (10, -10, 2, -2):
    fault(f"the clock of a site is {abs(minutes)} minutes {'fast' if minutes > 0 else 'slow'}", name=f"clock_{minutes}")(_clock(minutes))


# --- networks


@fault("all sites behind a forward proxy (HTTPS_PROXY)")
def proxy(folder: Path) -> Found:
    there = Proxy()
    with federation(folder) as fed:
        fed.serve()
        for site in fed.sites:
            fed.join(site, env={"HTTPS_PROXY": f"http://127.0.0.1:{there.port}"})
        found = done(fed, None, "unbroken")
        assert set(there.asked) == {f"127.0.0.1:{fed.port}"}, there.asked
        return Found(f"{found.text}; {len(there.asked)} tunnels, all to the aggregator", found.seconds, found.equal)


@fault("a forward proxy that refuses")
def proxy_refuses(folder: Path) -> Found:
    there = Proxy(refuses=True)
    with federation(folder) as fed:
        fed.join("a", env={"HTTPS_PROXY": f"http://127.0.0.1:{there.port}"})
        return refused(fed, "a")


@fault("no route: the port is closed (--patience 5)")
def no_route(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.join("a", "--patience", "5")
        return refused(fed, "a")


@fault("no route: a site in a network of its own without a way out (--patience 5)", root=True)
def no_network(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.join("a", "--patience", "5", before=("unshare", "--net"), env={"PATH": os.environ["PATH"]})
        return refused(fed, "a")
