"""The link process of an aggregator: `python -m imagingai.federated.link project.toml`. HTTPS in front of the database, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from imagingai.federated import packages
from imagingai.federated.processes import end_with_parent
from imagingai.federated.project import Project, host_and_port, read_project


def main(file: str) -> None:
    """Serve until terminated."""
    packages.activate()
    import uvicorn

    from imagingai.federated.flower import make_app

    end_with_parent()
    project = read_project(Path(file))
    host, port = listen_at(project)
    uvicorn.run(
        make_app(project.folder / "link.db"),
        host=host,
        port=port,
        ssl_certfile=str(project.folder / "server.pem"),
        ssl_keyfile=str(project.folder / "server.key"),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )


def listen_at(project: Project) -> tuple[str, int]:
    """Where the aggregator listens: as the project says, or on the port of its address; only here if that address is only here."""
    if project.config.listen:
        return host_and_port(project.config.listen)
    host, port = host_and_port(project.config.address)
    return ("127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0", port)


if __name__ == "__main__":
    main(sys.argv[1])
