"""The rounds of an aggregator in a process of their own: `python -m imagingai.federated.rounds_process project.toml`."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from imagingai.errors import Cancelled, ImagingAIError
from imagingai.federated import packages
from imagingai.federated.processes import end_with_parent
from imagingai.federated.project import Project, read_project
from imagingai.federated.store import Store


def main(file: str) -> None:
    """Run all rounds that are left; an error that a user can mend is written into the store."""
    packages.activate()
    logging.basicConfig(level=logging.WARNING)
    end_with_parent()
    project = read_project(Path(file))
    store = Store(project.folder / "federation.db")
    signal.signal(signal.SIGTERM, stop)
    try:
        run(project, store)
    except Cancelled:
        pass
    except ImagingAIError as error:
        store.event(str(error), "error")
        store.set("message", str(error))
        store.set("state", "failed")


def stop(*_: object) -> None:
    raise Cancelled("Stopped; go on with: imagingai federated resume.")


def run(project: Project, store: Store) -> None:
    """Open Flower's database, do the rounds, write the model and its card."""
    from imagingai.federated.card import model_card
    from imagingai.federated.flower import LinkGrid
    from imagingai.federated.learner import build_network, save_network, shared_shapes
    from imagingai.federated.rounds import Rounds

    network = build_network(project.config)
    load_initial(network, project.initial)
    shapes = shared_shapes(project.config, network)
    initial = {name: value for name, value in network.state_dict().items() if name in shapes}
    grid = LinkGrid(project.folder / "link.db", project.job)
    rounds = Rounds(project.config, grid, store, project.folder, initial, shapes, lambda: members(store), grid.beat)
    completed = False
    try:
        weights = rounds.run()
        completed = True
    finally:
        grid.close(completed)
    network.load_state_dict({**network.state_dict(), **weights})
    if project.config.private == "none":
        save_network(project.config, network, project.folder / "model.safetensors", {"federation": project.config.name})
    (project.folder / "model_card.md").write_text(model_card(project, store, {}), encoding="utf-8")
    rounds.finished()


def load_initial(network, file: Path | None) -> None:
    """Start from given weights."""
    from imagingai.weights import fill, read_tensors

    if file:
        (tensors, _), own = read_tensors(file), network.state_dict()
        if not set(tensors) <= set(own):  # a segmentation model, which may have several networks
            tensors = {name.removeprefix("0."): value for name, value in tensors.items()}
        fill(network, {name: value for name, value in own.items() if not value.dim()} | tensors, file)


def members(store: Store) -> dict[int, str]:
    """node -> site, of those that the link has let in."""
    return {site.node_id: site.name for site in store.sites() if site.state == "invited" and site.node_id is not None}


if __name__ == "__main__":
    main(sys.argv[1])
