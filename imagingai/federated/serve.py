"""The aggregator in one command: a link process (HTTPS, SQLite), a process for the rounds, a status page, and a watch over them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.federated.certificates import check_valid, ensure_certificates
from imagingai.federated.processes import Kept, only_one
from imagingai.federated.project import Project
from imagingai.federated.status import table
from imagingai.federated.status_page import serve_status
from imagingai.federated.store import Store

ENDED = ("finished", "failed")


def serve(project: Project, resume: bool = False, port: int = 8080, say: Callable[[str], None] = print) -> None:
    """Run the aggregator until all rounds are done. Ctrl+C stops it; `resume` goes on after the last complete round.

    Raises InputError if the project has rounds already and `resume` is False, JobFailed if a process cannot be kept alive.
    """
    store = Store(project.folder / "federation.db")
    rounds = len([row for row in store.rounds() if row.ended])
    check_start(project, store, rounds, resume)
    with only_one(project.folder, "This aggregator runs already"):
        if ensure_certificates(project.folder, project.config.name, project.hosts):
            say("Made the certificates of the aggregator.")
        check_valid(project.folder / "server.pem")
        store.set("state", "waiting")
        store.event(f"The aggregator starts{f' after round {rounds}' if rounds else ''}.")
        page = serve_status(store.path, port=port)
        say(f"Sites reach this aggregator at {project.config.address}; watch it at {page.url}; stop with Ctrl+C.")
        processes = [
            Kept(["imagingai.federated.link", str(project.file)], project.folder),
            Kept(["imagingai.federated.rounds_process", str(project.file)], project.folder),
        ]
        try:
            watch(store, processes, say)
        except Cancelled:
            store.set("state", "stopped")
            store.event("The aggregator was stopped.")
            raise
        finally:
            for process in reversed(processes):
                process.stop()
            page.close()
        say(table(project.folder))
        say(f"The model is {project.folder / 'model.safetensors'}; {project.folder / 'model_card.md'} says what it is.")


def check_start(project: Project, store: Store, rounds: int, resume: bool) -> None:
    """Raise InputError if this would not do what the coordinator means."""
    if not [site for site in store.sites() if site.state == "invited"]:
        raise InputError(f"No site is invited yet. Invite one with: imagingai federated invite {project.file} --site NAME --key NAME.pub")
    if rounds and not resume:
        raise InputError(f"{project.folder} has {rounds} rounds already. Go on with: imagingai federated resume {project.file}")
    if resume and store.get("state") == "finished" and rounds >= project.config.rounds:
        model = str(project.folder / "model.safetensors")
        raise InputError(f"All {rounds} rounds are done. To train on, begin another project that has: initial = {json.dumps(model)}")
    known = store.get("job", project.job)
    if rounds and known != project.job:
        raise InputError(
            f"{project.file} has changed since the first round (job {known[:8]}, now {project.job[:8]}), and the sites agreed to "
            f"the old settings. Undo the change, or move {project.folder} away, and invite the sites again."
        )
    store.set("job", project.job)


def watch(store: Store, processes: list[Kept], say: Callable[[str], None]) -> None:
    """Keep the processes alive until the rounds are over, and say what happens."""
    last = max((event.number for event in store.events(1)), default=0)
    message = ""
    while True:
        for event in store.events(50):
            if event.number > last:
                last = event.number
                say(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {event.text}")
        if (now := str(store.get("message", ""))) != message:
            message = now
            say(f"{time.strftime('%H:%M:%S')}  {message}")
        if store.get("state") in ENDED:
            break
        for process in processes:
            process.keep(store)
        time.sleep(0.5)
    if store.get("state") == "failed":
        raise JobFailed(str(store.get("message")))
