"""A whole federation on this computer: an aggregator and four sites as processes of their own, with TLS, keys and invitations."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from imagingai.device import use_threads
from imagingai.errors import InputError, JobFailed
from imagingai.federated import actions
from imagingai.federated.config import ProjectConfig
from imagingai.federated.demo_sites import PROJECT, SITES, write_sites
from imagingai.federated.invitation import read_invitation
from imagingai.federated.keys import make_site_key
from imagingai.federated.project import read_project
from imagingai.federated.report import simulation_page
from imagingai.federated.simulate import compare
from imagingai.federated.status import snapshot
from imagingai.federated.store import Store
from imagingai.job import Report, part, read_result
from imagingai.progress import Bar

MARK = "imagingai-demo.txt"  # tells our folder from one of the user
STRATEGIES = {"fedavg": "FedAvg", "fedprox": "FedProx"}
NAMES = {"cross": "Cross", "single": "Single", "mix": "Mix"}


def demo(options: Namespace) -> None:
    """Make the sites, train alone and pooled, then twice as a federation over the network of this computer; print and write the table."""
    use_threads(1)  # as the sites do: with another number sums round differently, and the figures are others
    began, folder = time.time(), options.output.absolute()
    new_folder(folder)
    bar, curves = Bar(), {}
    try:
        data = write_sites(folder / "sites")
        config = ProjectConfig(**PROJECT, coordinator="The demonstration, on this computer", min_sites=len(SITES))
        rows = compare(config, data, tuple(NAMES), folder / "alone", report=part(bar, 0.0, 0.25))
        for number, strategy in enumerate(STRATEGIES):
            step = part(bar, 0.25 + 0.375 * number, 0.25 + 0.375 * (number + 1))
            found, curves[STRATEGIES[strategy]] = federation(
                replace(config, strategy=strategy, address=f"127.0.0.1:{free_port()}"), data, folder, step
            )
            rows += found
        bar(1.0, "Done")
    finally:
        bar.close()
    names = {**NAMES, **STRATEGIES}
    rows = [{**row, "method": names[row["method"]]} for row in rows]
    (folder / "report.html").write_text(simulation_page(rows, config, "Four hospitals on one computer", curves), encoding="utf-8")
    print(table(rows, list(names.values())))
    print("A site measures on 40 to 75 cases: differences below 0.03 are chance.")
    print(f"{time.time() - began:.0f} s. Open {folder / 'report.html'}; each site's own page is in {folder / 'fedavg'}/SITE/report.html.")


def federation(
    config: ProjectConfig, data: dict[str, dict[str, Path]], folder: Path, report: Report
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """One federation with real processes; returns the figures of its model at each site, and the curve of its mean score."""
    place = folder / config.strategy
    place.mkdir()
    project = place / "project.toml"
    settings = {name: value for name, value in asdict(config).items() if value != getattr(ProjectConfig(), name)}
    project.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")
    report(0.0, f"{STRATEGIES[config.strategy]}: making keys and invitations")
    for site in data:
        with contextlib.redirect_stdout(io.StringIO()):
            make_site_key(place / f"{site}_key")
            actions.invite(Namespace(project=project, site=site, key=place / f"{site}_key.pub", days=1.0, output=None))
    commands = {"aggregator": ["serve", str(project)]}
    for site, files in data.items():
        invitation = place / f"{site}.invitation"
        inputs = [text for name, path in files.items() for text in (f"--{name}", str(path))]
        accept = ["--accept", read_invitation(invitation).fingerprint, "--key", str(place / f"{site}_key"), "--threads", "1"]
        commands[site] = ["join", "--invitation", str(invitation), *inputs, *accept, "--output", str(place / site)]
    with processes(commands, place) as running:
        store = Store(read_project(project).folder / "federation.db")
        follow(running, store, config, place, report)
    figures = {site: read_result(place / site)["figures"]["global"] for site in data}
    rows = [{"method": config.strategy, "trained_at": "all", "site": site, **found} for site, found in figures.items()]
    return rows, snapshot(store)["score"]


@contextlib.contextmanager
def processes(commands: dict[str, list[str]], place: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Commands of `imagingai federated` as processes, each with a log; none of them outlives the block."""
    environment, running = {**os.environ, "OMP_NUM_THREADS": "1"}, {}
    try:
        for name, command in commands.items():
            with (place / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", "imagingai", "federated", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def follow(
    running: dict[str, subprocess.Popen], store: Store, config: ProjectConfig, place: Path, report: Callable[[float, str], None]
) -> None:
    """Wait for all of them; raises JobFailed with the last line of the one that failed."""
    while any(process.poll() is None for process in running.values()):
        if failed := [name for name, process in running.items() if process.poll()]:
            lines = (place / f"{failed[0]}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise JobFailed(f"{failed[0]} stopped: {lines[-1] if lines else 'it says nothing'} ({place / failed[0]}.log).")
        done = store.get("round", 0)
        report(done / (config.rounds + 1), f"{STRATEGIES[config.strategy]}: {store.get('message', 'starting')}")
        time.sleep(0.3)


def table(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """Accuracy and AUC on held-out cases: a row per method, a column per site, and the mean."""
    lines = [f"{'':10s}" + "".join(f"{site:>14s}" for site in (*SITES, "mean")), f"{'':10s}" + f"{'ACC   AUC':>14s}" * (len(SITES) + 1)]
    for method in methods:
        cells = []
        for site in SITES:
            found = [row for row in rows if row["method"] == method and row["site"] == site]
            cells.append([sum(row[name] for row in found) / len(found) for name in ("accuracy", "auc")])
        cells.append([sum(cell[k] for cell in cells) / len(cells) for k in range(2)])
        lines.append(f"{method:10s}" + "".join(f"{accuracy:>8.3f} {auc:.3f}" for accuracy, auc in cells))
    return "\n".join(lines)


def new_folder(folder: Path) -> None:
    """An empty folder; what an earlier demonstration left there is removed, anything else is not touched."""
    if folder.exists() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} holds files that are not of this demonstration. Choose another one with --output.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("Made by: imagingai federated demo. It may be deleted.\n", encoding="utf-8")


def free_port() -> int:
    """A port of this computer that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
