"""What goes on in a federation, read from its state: for the status page, the terminal and the model card. Standard library only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import Any

from imagingai.errors import InputError
from imagingai.federated.store import RoundRow, SiteRow, Store, UpdateRow

DATABASE = "federation.db"  # in the folder of a project
AT_WORK = {"survey": "counting", "train": "training", "evaluate": "measuring", "finish": "finishing"}  # by the kind of question
SLOW = 2.0  # who needs so many times as long as the others is late
HISTORY = 500  # rounds that are shown
RECENT = 5  # rounds that the time left is estimated from
NAME_WIDTH, REASON_WIDTH = 22, 96


def snapshot(store: Store, last_events: int = 200) -> dict[str, Any]:
    """All that the status page shows, as JSON can hold it (no NaN). Times: seconds since 1970.

    Scores and losses are [round, value]: of the model that the round made (0: the start), on the held-out cases of the sites.
    """
    facts, sites, rounds, updates = store.facts(), store.sites(), store.rounds(), store.updates()
    now, state, total = time.time(), facts.get("state", "waiting"), facts.get("rounds", 0)
    final = facts.get("final", {"mean": {}, "sites": {}})
    by_round = {number: list(group) for number, group in groupby(updates, key=lambda update: update.round)}
    found = {
        "name": facts.get("name", ""),
        "state": state,
        "message": facts.get("message", ""),
        "now": now,
        "started": rounds[0].started if rounds else None,
        "round": rounds[-1].number if rounds else 0,
        "done": sum(row.ended is not None for row in rounds),
        "rounds": total,
        "chosen": facts.get("chosen"),
        "seconds_left": seconds_left(rounds, total, now) if state == "running" else None,
        "sites": [_site(site, rounds, updates, final["sites"].get(site.name, {}), total) for site in sites],
        "history": [_round(row, by_round.get(row.number, [])) for row in rounds[-HISTORY:]],
        "events": [{"time": row.time, "level": row.level, "text": row.text} for row in store.events(last_events)],
    }
    for site, row in zip(sites, found["sites"], strict=True):
        row["state"] = site_state(site, sites, rounds[-1] if rounds else None, row["last_state"], state, facts.get("online"), now)
    for name in ("score", "loss"):
        found[name] = _curve(name, [(row.number, row.metrics) for row in rounds], final["mean"], total)
    for way in ("bytes_down", "bytes_up"):
        found[way] = sum(site[way] for site in found["sites"])
    return finite(found)


def finite(value: Any) -> Any:
    """The same, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure(metrics: Mapping[str, Any], name: str) -> float | None:
    """A number that a site has told; None without one, or if it is none."""
    value = metrics.get(name)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def seconds_left(rounds: Sequence[RoundRow], total: int, now: float) -> float | None:
    """Time until the last round ends, if the rest goes as fast as the last rounds; None before the first and after the last one."""
    ended = [row.ended - row.started for row in rounds if row.ended is not None]
    if not 0 < len(ended) < total:
        return None
    current = next((now - row.started for row in rounds if row.ended is None), 0.0)
    return max(0.0, mean(ended[-RECENT:]) * (total - len(ended)) - current)


def site_state(
    site: SiteRow, sites: Sequence[SiteRow], last: RoundRow | None, update: str, state: str, online: Sequence[str] | None, now: float
) -> str:
    """One word for what a site does: revoked, expired, invited (never seen), offline, late, rejected, failed, training ..., waiting, done.

    update: the state of its update in the last round, if there is one; state: of the federation; online: the sites that are, if known.
    Late is also who still trains while half of the others are ready since as long again as they needed.
    """
    if site.state == "revoked":
        return "revoked"
    if site.seen is None and site.name not in (online or ()):
        return "expired" if site.expires < now else "invited"
    if state != "running":
        return "done" if state == "finished" else "waiting" if online is None or site.name in online else "offline"
    if online is not None and site.name not in online:
        return "offline"
    if update not in ("", "counted"):
        return update
    kind, _, rest = site.activity.partition(" round ")
    if kind not in AT_WORK or rest.endswith("done"):
        return "waiting"
    if kind != "train" or not last:
        return AT_WORK[kind]
    others = [other.seen - last.started for other in sites if other.activity == f"train round {last.number} done" and other.seen]
    slow = 2 * len(others) >= len(last.sites) - 1 > 0 and now - last.started > SLOW * median(others) + 1
    return "late" if slow or rest != str(last.number) else "training"


def _site(
    site: SiteRow, rounds: Sequence[RoundRow], updates: Sequence[UpdateRow], final: Mapping[str, float], total: int
) -> dict[str, Any]:
    own = [update for update in updates if update.site == site.name]
    counted = [update for update in own if update.state == "counted"]
    measured = [(update.round, update.metrics) for update in own]
    return {
        "name": site.name,
        "activity": site.activity,
        "seen": site.seen,
        "last_state": own[-1].state if own and own[-1].round == rounds[-1].number else "",
        "round": counted[-1].round if counted else None,
        "examples": figure(counted[-1].metrics, "num-examples") if counted else None,
        "seconds": mean(update.seconds for update in counted) if counted else None,
        "bytes_down": sum(row.bytes for row in rounds if site.name in row.sites),
        "bytes_up": sum(update.bytes for update in own),
        "weight": counted[-1].weight if counted else None,
        "score": _curve("score", measured, final, total),
        "loss": _curve("loss", measured, final, total),
    }


def _curve(name: str, measured: Sequence[tuple[int, Mapping[str, Any]]], final: Mapping[str, Any], total: int) -> list[list[float]]:
    """[round, value]: in a round the sites measure the model of the round before; `final` is measured after the last one."""
    points = [(number - 1, figure(metrics, f"{name}_before")) for number, metrics in measured[-HISTORY:]]
    points.append((total, figure(final, f"{name}_before")))
    return [[number, value] for number, value in points if value is not None]


def _round(row: RoundRow, updates: Sequence[UpdateRow]) -> dict[str, Any]:
    return {
        "number": row.number,
        "seconds": None if row.ended is None else row.ended - row.started,
        "asked": row.sites,
        "sites": {update.site: {"state": update.state, "reason": update.reason, "weight": update.weight} for update in updates},
    }


# --- the terminal


def table(folder: Path) -> str:
    """The state of the federation of a project folder, for a terminal of 100 columns. Raises InputError if there is none yet."""
    if not (folder / DATABASE).is_file():
        raise InputError(f"There is no federation in {folder} yet. Start it with: imagingai federated serve project.toml.")
    store = Store(folder / DATABASE)
    try:
        return format_snapshot(snapshot(store))
    finally:
        store.close()


def format_snapshot(found: Mapping[str, Any]) -> str:
    """A snapshot as text: header, sites in columns, why updates of the last round were left out, the last warnings."""
    columns = ("site", "state", "seen", "examples", "s/round", "down", "up", "weight", "score")
    rows = [columns, *(_cells(site, found["now"]) for site in found["sites"])]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    lines = [_header(found), ""]
    for row in rows:
        cells = [cell.ljust(width) if k < 3 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    last = found["history"][-1] if found["history"] else {"sites": {}, "number": 0}
    out = {name: row for name, row in last["sites"].items() if row["state"] != "counted"}
    notes = [f"round {last['number']}: {name} {row['state']}: {row['reason']}" for name, row in out.items()]
    notes += [f"{clock_time(row['time'])} {row['level']}: {row['text']}" for row in found["events"] if row["level"] != "info"][-5:]
    return "\n".join([*lines, *([""] if notes else []), *(plain(note, REASON_WIDTH) for note in notes)])


def _header(found: Mapping[str, Any]) -> str:
    state = found["state"] + (f", round {found['round']} of {found['rounds']}" if found["round"] else "")
    if found["seconds_left"] is not None:
        state += f", about {duration(found['seconds_left'])} left"
    filled = round(30 * found["done"] / found["rounds"]) if found["rounds"] else 0
    best = max(found["score"], key=lambda point: point[1], default=None)
    score = f", score {found['score'][-1][1]:.4g} (best {best[1]:.4g}, round {best[0]})" if best else ""
    traffic = f"down {size(found['bytes_down'])}, up {size(found['bytes_up'])}"
    lines = [f"{plain(found['name'] or 'Federation', 60)}: {state}", f"[{'#' * filled}{'.' * (30 - filled)}] {traffic}{score}"]
    return "\n".join([*lines, *([plain(found["message"], REASON_WIDTH)] if found["message"] else [])])


def _cells(site: Mapping[str, Any], now: float) -> tuple[str, ...]:
    seen = "never" if site["seen"] is None else f"{duration(max(0.0, now - site['seen']))} ago"
    numbers = (site["examples"], "{:d}"), (site["seconds"], "{:.1f}"), (site["weight"], "{:.3f}")
    examples, seconds, weight = ("-" if value is None else text.format(value) for value, text in numbers)
    score = f"{site['score'][-1][1]:.4g}" if site["score"] else "-"
    name = plain(site["name"], NAME_WIDTH)
    return (name, site["state"], seen, examples, seconds, size(site["bytes_down"]), size(site["bytes_up"]), weight, score)


def plain(text: str, width: int) -> str:
    """One line of at most `width` characters that cannot steer the terminal, whoever wrote it."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= width else line[: width - 1] + "…"


def size(bytes: float) -> str:
    """1234567 -> '1.2 MB'; steps of 1000."""
    power = min(int(math.log10(max(bytes, 1))) // 3, 4)
    value, unit = bytes / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{value:.0f} {unit}" if not power or value >= 99.95 else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """90 -> '2 min'."""
    for limit, one, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / one:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def clock_time(seconds: float) -> str:
    """A time of day, with the date if it was not today."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
