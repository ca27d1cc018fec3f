"""The invitation of one site: all settings of the federation, bound to the site's key, signed by the coordinator.

Reading one and showing what it means needs the standard library only; making and verifying one needs cryptography. What leaves the
site is worked out here, at the site, from the settings; nothing that the coordinator writes can make it sound smaller.
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
from imagingai.federated.keys import fingerprint, load_site_key, make_coordinator_key, public_text, spoken, write_file
from imagingai.federated.packages import FLOWER
from imagingai.federated.project import TABLES, Project, canonical, job_of
from imagingai.federated.store import check_name
from imagingai.options import from_dict

FORMAT = 1
SUFFIX = ".invitation"
LIMIT = 4 << 20  # bytes of a file that is read
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
        width = 2 if self.config.exchange == "float16" else 4
        return sum(math.prod(shape) for shape in self.tensors.values()) * width / 1e6


def invite(project: Project, site: str, public_key: str, days: float, shares: Mapping[str, tuple[int, ...]]) -> Invitation:
    """A signed invitation for the site with this public key. shares: shape of each tensor that leaves.

    The folder of the project has ca.pem (certificates.ensure_certificates). Raises InputError if the project does not say who asks.
    """
    check_name(site)
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
    except ValueError:  # also of UnicodeDecodeError
        content = None
    if not isinstance(content, dict) or type(content.get("format")) is not int or "signer" not in content:
        raise InputError(f"{path} is not an invitation. Its name ends in {SUFFIX}; {AGAIN[0].lower()}{AGAIN[1:]}")
    if content["format"] != FORMAT:
        raise InputError(
            f"{path} has format {content['format']}, and this ImagingAI {__version__} reads format {FORMAT}. Use the coordinator's version."
        )
    try:
        return _invitation(content)
    except (InputError, TypeError, ValueError, AttributeError) as error:
        made = content.get("software")
        raise InputError(f"{path} does not fit this ImagingAI {__version__} (it was made with {made}): {error} {AGAIN}") from None


def _invitation(content: dict[str, Any]) -> Invitation:
    """Raises anything but a bug if the content is not that of an invitation."""
    _check_names(content, Invitation, "fields")
    _check_names(content["config"], ProjectConfig, "settings")
    for field in dataclasses.fields(Invitation):
        if field.type == "str" and not isinstance(content[field.name], str):
            raise InputError(f"{field.name} is {content[field.name]!r}, not text.")
    tensors = {name: tuple(shape) for name, shape in content["tensors"].items()}
    if not all(type(size) is int and size > 0 for shape in tensors.values() for size in shape):
        raise InputError("the shapes of the tensors are no positive numbers.")
    for name in ("created", "expires"):
        if datetime.fromisoformat(content[name]).tzinfo is None:
            raise InputError(f"{name} has no time zone.")
    return Invitation(**{**content, "config": from_dict(ProjectConfig, content["config"]), "tensors": tensors})


def _check_names(content: dict[str, Any], kind: type, what: str) -> None:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if odd := sorted(wanted ^ set(content)):
        raise InputError(f"the {what} {', '.join(odd)} are missing or unknown.")


def verify(invitation: Invitation, key: str | Path | None, now: datetime | None = None) -> None:
    """Raise InputError unless the invitation is as it was signed, valid now, for this Flower and for the site's private key.

    Without a key, whose it is stays open.
    """
    _check_signature(invitation)
    if invitation.flower != FLOWER:
        raise InputError(
            f"The invitation needs Flower {invitation.flower}, and this ImagingAI has {FLOWER}. Use the coordinator's version."
        )
    check_expiry(invitation, now)
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
        raise InputError(f"The invitation of {invitation.site} expired on {_day(expires)}. {AGAIN}")
    if now < created - SKEW:
        raise InputError(f"The invitation was made on {_day(created)}, and this computer says that it is {_day(now)}. Set its clock.")


def check_accepted(invitation: Invitation, accept: str) -> None:
    """Raise InputError unless `accept` is the fingerprint of the invitation, or at least its first 8 digits."""
    digits = accept.replace(" ", "").lower()
    if len(digits) < SHOWN or not invitation.fingerprint.startswith(digits):
        what = "Nobody has agreed to this invitation" if not digits else f"--accept {accept} is not the fingerprint of this invitation"
        raise InputError(f"{what}. Read it with `imagingai federated show`, and agree with: --accept {invitation.fingerprint[:SHOWN]}")


def _day(time: datetime) -> str:
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def summary(invitation: Invitation) -> list[tuple[str, str]]:
    """What a person must know before agreeing, as titles and texts; the same in the panel and in the terminal."""
    config = invitation.config
    return [
        ("Who asks", f"{config.coordinator}, for the federation {config.name}"),
        ("What for", config.purpose),
        ("Who is invited", f"{invitation.site}, with the key {spoken(invitation.key)}"),
        ("What is learned", _learned(config)),
        ("How", _course(config)),
        ("Leaves in every round", _leaves_often(invitation)),
        ("Leaves once", _leaves_once(config)),
        ("Never leaves", _stays(config)),
        ("Privacy", " ".join(_privacy(config))),
        ("Where it goes", f"{config.address}, encrypted (HTTPS). This computer opens one connection to it and accepts none."),
        ("Who gets the model", "The coordinator and all sites of the federation."),
        ("Valid", f"from {_day(datetime.fromisoformat(invitation.created))} to {_day(datetime.fromisoformat(invitation.expires))}"),
        ("Key of the coordinator", f"{spoken(fingerprint(invitation.signer))}. Compare it by telephone: it proves who has signed."),
        ("Fingerprint", f"{invitation.fingerprint[:SHOWN]} (of this invitation)"),
    ]


def _learned(config: ProjectConfig) -> str:
    names = ", ".join(config.classes)
    axes = f"{config.dimension}-D images"
    what = {
        "segmentation": f"Segmentation of {names} in {axes}",
        "image-classification": f"Classification of {axes} as {names}",
        "roi-classification": f"Classification as {names} from {len(config.features)} columns of a table: {', '.join(config.features)}",
        "roi-regression": f"Prediction of {config.target} from {len(config.features)} columns of a table: {', '.join(config.features)}",
    }[config.task]
    return f"{what}. Network: {config.size}."


def _course(config: ProjectConfig) -> str:
    long = f"about {config.seconds:g} s" if config.seconds else f"{config.epochs:g} x all cases"
    alone = f" At the end this site goes on alone for {config.fine_tune:g} x all cases, for a model of its own." if config.fine_tune else ""
    return (
        f"{config.rounds} rounds. In each, this computer trains ({long}) and sends the changed weights; the aggregator joins those of all "
        f"sites (method {config.strategy}, at least {config.min_sites} sites). {config.held_out:.0%} of the cases only measure.{alone}"
    )


def _leaves_often(invitation: Invitation) -> str:
    numbers = sum(math.prod(shape) for shape in invitation.tensors.values())
    return (
        f"Weights of the network: {len(invitation.tensors)} tensors with {numbers:,} numbers, {invitation.megabytes:.3g} MB. "
        f"With them the number of training cases, the loss, how good the model was on this site's held-out cases, and the time it took."
    )


def _leaves_once(config: ProjectConfig) -> str:
    parts = ["the numbers of training and of held-out cases"]
    if config.label_weighting:
        parts.append("how much there is of each class (label distribution)")
    if config.harmonization == "nyul":
        parts.append("one average histogram of the intensities of this site's images")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _stays(config: ProjectConfig) -> str:
    layers = {
        "none": "",
        "norm": " The normalization layers of the network stay here, too.",
        "statistics": " The running statistics of the normalization layers stay here, too.",
        "head": " The last layers of the network stay here, too.",
    }[config.private]
    data = "The table" if config.task in TABLES else "Images, labels"
    return (
        f"{data}, names of files and cases, the site's private key.{layers} The aggregator sends numbers only; no program of it runs here."
    )


def _privacy(config: ProjectConfig) -> list[str]:
    """What protects the data, and what does not: in this order, the bound, who sees the update, what remains."""
    if config.epsilon:
        first = (
            f"Differential privacy: the weights of all rounds together tell at most epsilon {config.epsilon:g} about one case "
            f"(delta {config.delta:g}; the smaller the better, and above about 10 it promises little). Counts and measures have no noise."
        )
    else:
        first = "No differential privacy: an expert who has the weights of this site may be able to tell that a case was in the training."
    if config.secure_aggregation:
        return [
            first,
            "Secure aggregation: the aggregator sees only the sum of the weights of all sites, unless it works with other sites.",
        ]
    return [first, "No secure aggregation: the aggregator sees the weights of this site by themselves."]
