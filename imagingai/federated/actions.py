"""What the commands of `imagingai federated` do; each is named like its command, takes its options and returns the exit code."""

from __future__ import annotations

import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from imagingai.errors import InputError
from imagingai.federated import audit as audit_log
from imagingai.federated import packages
from imagingai.federated.config import ProjectConfig
from imagingai.federated.consent import summary
from imagingai.federated.invitation import SUFFIX, Invitation, check_accepted, read_invitation, verify, write_invitation
from imagingai.federated.invitation import invite as make_invitation
from imagingai.federated.keys import fingerprint, make_site_key, read_public_key, site_key_of, spoken
from imagingai.federated.project import Project, read_project, write_template
from imagingai.federated.status import DATABASE, table
from imagingai.federated.store import Store

WIDTH, TITLE = 120, 24  # columns
REFUSED = 130  # exit code


# --- everybody


def install(options: Namespace) -> int:
    """Install Flower, unless it is there."""
    if packages.is_installed():
        print(f"Flower {packages.FLOWER} is installed in {packages.folder()}.")
        return 0
    packages.install(options.wheels)
    print(f"Installed Flower {packages.FLOWER} into {packages.folder()}; delete that folder to remove it.")
    return 0


def demo(options: Namespace) -> int:
    """A whole federation on this computer."""
    packages.activate()
    from imagingai.federated.demo import demo as run

    run(options)
    return 0


# --- a site


def key(options: Namespace) -> int:
    """Make the key of a site, or show the one that is there."""
    packages.activate()
    path = site_key_of(options.output)
    public = make_site_key(path)
    print(f"Private key: {path} (keep it here)\nPublic key:  {path}.pub (send this file to the coordinator)")
    print(f"Fingerprint: {spoken(fingerprint(public))} (read it out when the coordinator calls)")
    return 0


def show(options: Namespace) -> int:
    """Show an invitation, which needs nothing, and check it, which needs Flower's packages."""
    invitation = read_invitation(options.invitation)
    print(page(invitation))
    packages.activate()
    path = site_key_of(options.key)
    known = bool(options.key) or path.exists()
    verify(invitation, path if known else None)
    print("\nThe signature is right" + (f", and it is for {path}." if known else ". Whether it is for this site needs --key."))
    return 0


def audit(options: Namespace) -> int:
    """Follow the chain of an audit log."""
    verdict = audit_log.verify(options.log)
    if verdict.broken:
        raise InputError(f"{options.log}: {verdict}")
    print(verdict)
    return 0


def join(options: Namespace) -> int:
    """Ask before the task of the same name runs, unless --accept says that the user has read the invitation."""
    packages.activate()
    invitation = read_invitation(options.invitation)
    verify(invitation, site_key_of(getattr(options, "key", "")))
    if not hasattr(options, "accept"):
        if not sys.stdin.isatty():
            check_accepted(invitation, "")
        print(page(invitation))
        print("\nDo you agree, for your site, that this leaves it? Type yes to join: ", end="", flush=True)
        if sys.stdin.readline().strip().lower() != "yes":
            print("You have not agreed. Nothing was sent.")
            return REFUSED
        options.accept = invitation.fingerprint
    return options.run(options)


def page(invitation: Invitation) -> str:
    """The summary for a terminal."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * TITLE)
    return "\n".join(wrap.fill(f"{title:{TITLE}s}{text}") for title, text in summary(invitation))


# --- the coordinator


def new(options: Namespace) -> int:
    """Write a project.toml."""
    write_template(options.project, options.task)
    print(f"Wrote {options.project}. Fill in coordinator, purpose and address, and look at what is learned.")
    return 0


def invite(options: Namespace) -> int:
    """Write the invitation of a site, which the aggregator then lets in."""
    project = _project(options)
    from imagingai.federated.certificates import ensure_certificates

    public = read_public_key(options.key)
    ensure_certificates(project.folder, project.config.name, project.hosts)
    invitation = make_invitation(project, options.site, public, options.days, shares(project.config))
    with _store(project) as store:
        store.add_site(options.site, public, invitation.key, datetime.fromisoformat(invitation.expires).timestamp())
    target = options.output or project.file.with_name(options.site + SUFFIX)
    write_invitation(invitation, target)
    print(f"Wrote {target}; send it to {options.site}, and compare by telephone:")
    print(f"key of the site:        {spoken(invitation.key)}\nkey of the coordinator: {spoken(fingerprint(invitation.signer))}")
    if project.hosts[0] in ("127.0.0.1", "localhost", "::1"):
        print(f"Only this computer reaches {project.config.address}. For others, change address in {project.file.name} and invite again.")
    return 0


def shares(config: ProjectConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a site sends in a round."""
    from imagingai.federated.learner import build_network, shared_shapes

    return shared_shapes(config, build_network(config))


def serve(options: Namespace, resume: bool = False) -> int:
    """Run the aggregator."""
    project = _project(options)
    from imagingai.federated.serve import serve as run

    run(project, resume=resume, port=options.status_port)
    return 0


def resume(options: Namespace) -> int:
    """Go on with the aggregator."""
    return serve(options, resume=True)


def status(options: Namespace) -> int:
    """Show sites and rounds."""
    print(table(_project(options).folder))
    return 0


def revoke(options: Namespace) -> int:
    """Shut a site out."""
    with _store(_project(options)) as store:
        store.revoke(options.site)
    print(f"{options.site} is shut out: the aggregator refuses its key from now on.")
    return 0


def _project(options: Namespace) -> Project:
    packages.activate()  # first: it says that an old Python cannot
    return read_project(options.project)


@contextmanager
def _store(project: Project) -> Iterator[Store]:
    if not project.folder.is_dir():
        raise InputError(f"No site has been invited to {project.file} yet. Do that with: imagingai federated invite.")
    store = Store(project.folder / DATABASE)
    try:
        yield store
    finally:
        store.close()
