"""The link process of an aggregator: `python -m imagingai.federated.link project.toml`. HTTPS in front of the database, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from imagingai.federated import packages
from imagingai.federated.project import read_project
from imagingai.federated.serve import end_with_parent, listen_at


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


if __name__ == "__main__":
    main(sys.argv[1])
