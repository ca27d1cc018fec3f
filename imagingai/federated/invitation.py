"""The invitation of one site: all settings of the federation, bound to the site's key, signed by the coordinator.

Reading one needs the standard library only; making and verifying one needs cryptography. What it means is said in consent.py.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from imagingai import __version__
from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.keys import fingerprint, load_site_key, make_coordinator_key, public_text, write_file
from imagingai.federated.packages import FLOWER
from imagingai.federated.project import Project, canonical, job_of
from imagingai.federated.store import check_name
from imagingai.options import from_dict

FORMAT = 1
SUFFIX = ".invitation"
LIMIT = 4 << 20  # bytes of a file that is read
LONGEST = 1000  # days
SKEW = timedelta(hours=1)  # clocks may differ by so much
AGAIN = "Ask the coordinator for a new invitation."
SHOWN = 8  # digits of a fingerprint that are typed


@dataclass(frozen=True)
class Invitation:
    """What is signed, and the signature (base64 of Ed25519 over the canonical JSON of all other fields).

    authority: certificate of the aggregator's authority (PEM); key: fingerprint of the site's public key; tensors: shape of each
    tensor that leaves in every round; created, expires: UTC, ISO 8601; signer: the coordinator's public key.
    """

    format: int
    software: str
    flower: str
    site: str
    key: str
    config: ProjectConfig
    authority: str
    tensors: dict[str, tuple[int, ...]]
    created: str
    expires: str
    signer: str
    signature: str = ""

    @property
    def job(self) -> str:
        """SHA-256 of the settings; the site does only work of this job."""
        return job_of(self.config)

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        content = dataclasses.asdict(self)
        del content["signature"]
        return canonical(content)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is signed: 64 hexadecimal digits, of which the first 8 are shown."""
        return hashlib.sha256(self.signed).hexdigest()

    @property
    def megabytes(self) -> float:
        """Size of the tensors that leave in a round."""
        width = 2 if self.config.exchange == "float16" and not self.config.secure_aggregation else 4  # masked: always 4
        return sum(math.prod(shape) for shape in self.tensors.values()) * width / 1e6


def invite(project: Project, site: str, public_key: str, days: float, shares: Mapping[str, tuple[int, ...]]) -> Invitation:
    """A signed invitation for the site with this public key. shares: shape of each tensor that leaves.

    The folder of the project has ca.pem (certificates.ensure_certificates). Raises InputError if the project does not say who asks.
    """
    check_name(site)
    if not 0 < days <= LONGEST:
        raise InputError(f"--days is {days:g}; it must lie between 0 and {LONGEST}.")
    for name in ("name", "coordinator", "purpose"):
        if not getattr(project.config, name).strip():
            raise InputError(f"{project.file}: {name} is empty. Sites must see who asks for what; fill it in.")
    key = make_coordinator_key(project.folder / "coordinator.key")
    now = datetime.now(timezone.utc).replace(microsecond=0)
    invitation = Invitation(
        format=FORMAT,
        software=f"ImagingAI {__version__}",
        flower=FLOWER,
        site=site,
        key=fingerprint(public_key),
        config=dataclasses.replace(project.config, listen=""),  # nobody else's business
        authority=(project.folder / "ca.pem").read_text(encoding="ascii"),
        tensors={name: tuple(shape) for name, shape in shares.items()},
        created=now.isoformat(),
        expires=(now + timedelta(days=days)).isoformat(),
        signer=public_text(key),
    )
    return dataclasses.replace(invitation, signature=base64.b64encode(key.sign(invitation.signed)).decode())


def write_invitation(invitation: Invitation, path: str | Path) -> None:
    """Write the file that is sent to the site."""
    write_file(Path(path), json.dumps(dataclasses.asdict(invitation), indent=1, ensure_ascii=False).encode())


def read_invitation(path: str | Path) -> Invitation:
    """Read an invitation without checking its signature; raises InputError if it is none, or of another version."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes()[:LIMIT])
    except OSError as error:
        raise InputError(f"The invitation {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):  # neither text nor JSON
        content = None
    if not isinstance(content, dict) or type(content.get("format")) is not int or "signer" not in content:
        raise InputError(f"{path} is not an invitation. Its name ends in {SUFFIX}; {AGAIN[0].lower()}{AGAIN[1:]}")
    if content["format"] != FORMAT:
        raise InputError(
            f"{path} has format {content['format']}, and this ImagingAI {__version__} reads format {FORMAT}. Use the coordinator's version."
        )
    try:
        return _invitation(content)
    except (InputError, ValueError, IndexError, OverflowError) as error:
        made = content.get("software")
        raise InputError(f"{path} does not fit this ImagingAI {__version__} (it was made with {made}): {error} {AGAIN}") from None


def _invitation(content: dict[str, Any]) -> Invitation:
    """Raises InputError, ValueError, IndexError or OverflowError if the content is not that of an invitation."""
    _check_names(content, Invitation, "fields")
    _check_names(content["config"], ProjectConfig, "settings")
    for field in dataclasses.fields(Invitation):
        if field.type == "str" and not isinstance(content[field.name], str):
            raise InputError(f"{field.name} is {content[field.name]!r}, not text.")
    check_name(content["site"])
    for name in ("created", "expires"):
        time = datetime.fromisoformat(content[name])
        if time.tzinfo is None or not 2000 < time.year < 9000:
            raise InputError(f"{name} is {content[name]}, not a time.")
    config = from_dict(ProjectConfig, content["config"])
    invitation = Invitation(**{**content, "config": config, "tensors": _tensors(content["tensors"])})
    fingerprint(invitation.signer), invitation.fingerprint  # fail if a text is no key, or cannot be signed
    return invitation


def _tensors(content: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(content, dict) or not all(isinstance(shape, list) for shape in content.values()):
        raise InputError("the tensors have no shapes.")
    for name, shape in content.items():
        if not all(type(size) is int and size > 0 for size in shape):
            raise InputError(f"the shape of the tensor {name} is {shape}.")
    return {name: tuple(shape) for name, shape in content.items()}


def _check_names(content: Any, kind: type, what: str) -> None:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if odd := sorted(wanted ^ set(content if isinstance(content, dict) else ())):
        some = ", ".join(odd[:3]) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
        raise InputError(f"the {what} {some} are missing or unknown.")


def verify(invitation: Invitation, key: str | Path | None, now: datetime | None = None) -> None:
    """Raise InputError unless the invitation is as it was signed, valid now, for this Flower and for the site's private key.

    Without a key, whose it is stays open.
    """
    from imagingai.federated.certificates import check_authority

    _check_signature(invitation)
    if invitation.flower != FLOWER:
        raise InputError(
            f"The invitation needs Flower {invitation.flower}, and this ImagingAI has {FLOWER}. Use the coordinator's version."
        )
    check_expiry(invitation, now)
    check_authority(invitation.authority, now)
    if key is not None and fingerprint(public_text(load_site_key(key))) != invitation.key:
        raise InputError(
            f"The invitation of {invitation.site} is for another key than {key}. Give the key whose .pub was sent, with --key."
        )


def _check_signature(invitation: Invitation) -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        signer = load_ssh_public_key(invitation.signer.encode())
        if not isinstance(signer, Ed25519PublicKey):
            raise InvalidSignature
        signer.verify(base64.b64decode(invitation.signature, validate=True), invitation.signed)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, binascii.Error):
        raise InputError(f"The invitation of {invitation.site} was changed after it had been signed. {AGAIN}") from None


def check_expiry(invitation: Invitation, now: datetime | None = None) -> None:
    """Raise InputError if the invitation has expired, or if this computer's clock is behind its making."""
    now = now or datetime.now(timezone.utc)
    created, expires = map(datetime.fromisoformat, (invitation.created, invitation.expires))
    if now > expires:
        raise InputError(f"The invitation of {invitation.site} expired on {day_of(expires)}. {AGAIN}")
    if now < created - SKEW:
        raise InputError(f"The invitation was made on {day_of(created)}, and this computer says that it is {day_of(now)}. Set its clock.")


def check_accepted(invitation: Invitation, accept: str) -> None:
    """Raise InputError unless `accept` is the fingerprint of the invitation, or at least its first 8 digits."""
    digits = accept.replace(" ", "").lower()
    if len(digits) < SHOWN or not invitation.fingerprint.startswith(digits):
        what = "Nobody has agreed to this invitation" if not digits else f"--accept {accept} is not the fingerprint of this invitation"
        raise InputError(f"{what}. Read it with `imagingai federated show`, and agree with: --accept {invitation.fingerprint[:SHOWN]}")


def day_of(time: datetime | str) -> str:
    """A time, or its ISO 8601 text, in words."""
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
