"""`imagingai federated ...`: the commands of coordinators and sites; what they do is in actions.py. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagingai.federated.config import NETWORKS
from imagingai.tasks import TASKS, load

PREFIX = "federated-"  # of the tasks that are commands here
HELP = """Train one model at several sites. Images never leave their site; weights of the network do.

The coordinator (on a computer that all sites reach at one port):
  imagingai federated new project.toml --task segmentation     then edit project.toml: who asks, what is learned, address
  imagingai federated invite project.toml --site hospital_a --key hospital_a.pub      for every site; send it hospital_a.invitation
  imagingai federated serve project.toml                       until all rounds are done; Ctrl+C stops, `resume` goes on
  imagingai federated status project.toml                      who is there, who is late, what came in

A site (on any computer that reaches the coordinator's; nothing needs to reach it):
  imagingai federated key                                      once; send the file that ends in .pub to the coordinator
  imagingai federated show hospital_a.invitation               who asks, what would leave this site, how it is protected
  imagingai federated check --invitation hospital_a.invitation --images scans/ --labels drawn/ --output check/
  imagingai federated join  --invitation hospital_a.invitation --images scans/ --labels drawn/ --output hospital_a/

Both, once:   imagingai federated install                      Flower, in a folder of its own
To try it:    imagingai federated demo                         an aggregator and four sites on this computer"""
PROJECT = "project.toml of the federation"
SITE_KEY = "private key of this site. Default: that of this computer, ImagingAI/site_key in the home folder"


def add_federated(commands: Any, add_task: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `federated` with all of its own; add_task(commands, name, task) makes the parser of a row of TASKS."""
    parser = commands.add_parser(
        "federated", help="Train together with other sites.", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_for_all(inner)
    _add_for_sites(inner, add_task)
    _add_for_coordinators(inner)


def _add(commands: Any, name: str, help: str, example: str) -> argparse.ArgumentParser:
    """A command that is a function of the same name in actions.py, which is imported when it is needed."""
    parser = commands.add_parser(
        name,
        help=help,
        description=f"{help}\n\nexample:\n  imagingai federated {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_later(name))
    return parser


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    return lambda options: load(f"imagingai.federated.actions:{name}")(options)


def _add_for_all(commands: Any) -> None:
    install = _add(commands, "install", "Install Flower into a folder of its own.", "install")
    install.add_argument("--wheels", default="", metavar="FOLDER", help="folder with the packages, for a computer without a network")
    demo = _add(commands, "demo", "Run an aggregator and four sites on this computer.", "demo --output demo/")
    demo.add_argument("--output", type=Path, default=Path("federation-demo"), metavar="FOLDER", help="default: federation-demo")


def _add_for_sites(commands: Any, add_task: Callable[..., argparse.ArgumentParser]) -> None:
    key = _add(commands, "key", "Make the key of this site, or show the one that is there.", "key")
    key.add_argument("--output", default="", metavar="FILE", help=f"{SITE_KEY}; the public half is FILE.pub")
    show = _add(commands, "show", "Show what an invitation asks for, and check it.", "show hospital_a.invitation")
    show.add_argument("invitation", type=Path)
    show.add_argument("--key", default="", metavar="FILE", help=SITE_KEY)
    for name, task in TASKS.items():
        if name.startswith(PREFIX):
            parser = add_task(commands, name.removeprefix(PREFIX), task)
            parser.set_defaults(task=name)
            if name == "federated-join":
                parser.set_defaults(command=_later("join"), run=parser.get_default("command"))
    audit = _add(commands, "audit", "Check that nobody has changed an audit log.", "audit hospital_a/audit.jsonl")
    audit.add_argument("log", type=Path)


def _add_for_coordinators(commands: Any) -> None:
    new = _add(commands, "new", "Write a project.toml with every setting explained.", "new project.toml --task segmentation")
    new.add_argument("project", type=Path, help="file to write")
    new.add_argument("--task", default="segmentation", metavar="TASK", help=f"one of: {', '.join(NETWORKS)}; default: segmentation")
    example = "invite project.toml --site hospital_a --key hospital_a.pub"
    invite = _add_for_project(commands, "invite", "Write the signed invitation of a site.", example)
    invite.add_argument("--site", required=True, metavar="NAME", help="name of the site, also that of its files")
    invite.add_argument("--key", required=True, type=Path, metavar="FILE", help="public key that the site has sent (.pub)")
    invite.add_argument("--days", type=float, default=90.0, help="valid for so long (default 90)")
    invite.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.invitation beside the project")
    serve = _add_for_project(commands, "serve", "Run the aggregator until all rounds are done.", "serve project.toml")
    resume = _add_for_project(commands, "resume", "Go on after a stop, a crash or a power cut.", "resume project.toml")
    for parser in (serve, resume):
        parser.add_argument("--status-port", type=int, default=8080, metavar="PORT", help="status page; default: 8080")
    _add_for_project(commands, "status", "Show sites and rounds.", "status project.toml")
    revoke = _add_for_project(commands, "revoke", "Shut a site out.", "revoke project.toml --site hospital_a")
    revoke.add_argument("--site", required=True, metavar="NAME", help="as it was invited")


def _add_for_project(commands: Any, name: str, help: str, example: str) -> argparse.ArgumentParser:
    parser = _add(commands, name, help, example)
    parser.add_argument("project", type=Path, help=PROJECT)
    return parser
