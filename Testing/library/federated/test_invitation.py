"""Invitations: what is signed cannot be changed, and every invitation that cannot be used says why."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from datetime import datetime, timedelta, timezone

import pytest

from imagingai import __version__
from imagingai.errors import InputError
from imagingai.federated import invitation as module
from imagingai.federated.certificates import ensure_certificates
from imagingai.federated.config import ProjectConfig
from imagingai.federated.invitation import Invitation, invite, read_invitation, verify, write_invitation
from imagingai.federated.keys import fingerprint, make_coordinator_key, make_site_key, public_text
from imagingai.federated.packages import FLOWER
from imagingai.federated.project import Project

NOW = datetime.now(timezone.utc)
AGAIN = "Ask the coordinator for a new invitation."
CHANGED = f"The invitation of hospital_a was changed after it had been signed. {AGAIN}"
SHARES = {"conv.weight": (16, 1, 3, 3, 3), "conv.bias": (16,), "head.weight": (2, 16)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    config = ProjectConfig(
        name="Five clinics",
        coordinator="Dr. Grün, Clinic A, +49 30 1234",
        purpose="Find the hippocampus.",
        address="federation.clinic.org:8443",
        listen="10.0.0.5:9000",
        classes=("hippocampus",),
    )
    folder = tmp_path_factory.mktemp("coordinator")
    ensure_certificates(folder / "project-federation", config.name, ["federation.clinic.org"])
    return Project(config, folder / "project.toml", folder / "project-federation")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """The private key of hospital_a."""
    path = tmp_path_factory.mktemp("site") / "hospital_a"
    make_site_key(path)
    return path


@pytest.fixture(scope="module")
def invitation(project, key):
    return invite(project, "hospital_a", make_site_key(key), 30, SHARES)


@pytest.fixture
def file(invitation, tmp_path):
    """The file that hospital_a gets."""
    write_invitation(invitation, tmp_path / "hospital_a.invitation")
    return tmp_path / "hospital_a.invitation"


def fails_with(function, *arguments, **named):
    with pytest.raises(InputError) as error:
        function(*arguments, **named)
    return str(error.value)


def edit(file, **changes):
    """Change fields of the file; the signature stays as it was."""
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return file


def test_a_site_reads_what_the_coordinator_has_written(file, invitation, project, key):
    read = read_invitation(file)
    assert read == invitation and read.fingerprint == invitation.fingerprint
    verify(read, key)
    verify(read, None)
    assert (read.site, read.tensors, read.flower) == ("hospital_a", SHARES, FLOWER)
    assert read.job == project.job and read.config == dataclasses.replace(project.config, listen="")
    assert read.key == fingerprint(make_site_key(key))
    assert read.signer == public_text(make_coordinator_key(project.folder / "coordinator.key"))
    assert read.authority == (project.folder / "ca.pem").read_text()
    assert datetime.fromisoformat(read.expires) - datetime.fromisoformat(read.created) == timedelta(days=30)
    assert read.megabytes == pytest.approx(4 * (16 * 27 + 16 + 32) / 1e6)


def test_the_file_holds_no_secret_of_the_coordinator(file, project):
    text = file.read_text(encoding="utf-8")
    assert "PRIVATE" not in text and "10.0.0.5" not in text and str(project.folder) not in text


def other(field, value):
    """Another value that the field can have."""
    if field.metadata["choices"] and not isinstance(value, tuple):
        return next(choice for choice in field.metadata["choices"] if choice not in (value, ""))
    hint = typing.get_type_hints(ProjectConfig)[field.name]
    if typing.get_origin(hint) is tuple:
        return [*value, "other"] if typing.get_args(hint)[0] is str else [*value, 20]
    if hint is bool:
        return not value
    if hint is str:
        return f"{value}1"
    low, high = field.metadata["limits"]
    return value + 1 if value + 1 <= high else low


@pytest.mark.parametrize("field", dataclasses.fields(ProjectConfig), ids=lambda field: field.name)
def test_a_changed_setting_is_found(file, invitation, field, key):
    config = dataclasses.asdict(invitation.config)
    changed = read_invitation(edit(file, config={**config, field.name: other(field, config[field.name])}))
    assert changed.config != invitation.config
    assert fails_with(verify, changed, key) == CHANGED


@pytest.mark.parametrize(
    "field, value",
    [
        ("software", "ImagingAI 9.9"),
        ("flower", "9.9.9"),
        ("key", "00" * 32),
        ("authority", "-----BEGIN CERTIFICATE-----"),
        ("tensors", {**SHARES, "conv.weight": (16, 1, 3, 3, 4)}),
        ("tensors", {**SHARES, "all images": (10, 512, 512, 512)}),
        ("created", "2020-01-01T00:00:00+00:00"),
        ("expires", "2099-01-01T00:00:00+00:00"),
        ("signature", ""),
        ("signature", "nonsense"),
        ("signer", "ecdsa-sha2-nistp384 AAAA"),
    ],
)
def test_a_changed_field_is_found(file, key, field, value):
    assert fails_with(verify, read_invitation(edit(file, **{field: value})), key) == CHANGED


def test_a_changed_name_of_the_site_is_found(file, key):
    text = fails_with(verify, read_invitation(edit(file, site="hospital_b")), key)
    assert text == CHANGED.replace("hospital_a", "hospital_b")


def test_the_signature_of_somebody_else_is_found(file, key, tmp_path):
    """Who signs everything anew has another key, which is what the site compares by telephone."""
    signer = public_text(make_coordinator_key(tmp_path / "mallory.key"))
    assert fails_with(verify, read_invitation(edit(file, signer=signer)), key) == CHANGED


def test_every_field_is_tried_above():
    assert {field.name for field in dataclasses.fields(Invitation)} == {
        *("format", "software", "flower", "site", "key", "config", "authority", "tensors", "created", "expires", "signer", "signature")
    }


def test_an_expired_invitation_says_when(invitation, key):
    expires = datetime.fromisoformat(invitation.expires)
    verify(invitation, key, now=expires)
    text = fails_with(verify, invitation, key, now=expires + timedelta(seconds=1))
    assert text == f"The invitation of hospital_a expired on {expires:%Y-%m-%d %H:%M} UTC. {AGAIN}"


def test_a_clock_that_is_behind(invitation, key):
    created = datetime.fromisoformat(invitation.created)
    verify(invitation, key, now=created - timedelta(minutes=50))
    wrong = created - timedelta(hours=2)
    says = f"and this computer says that it is {wrong:%Y-%m-%d %H:%M} UTC. Set its clock."
    assert fails_with(verify, invitation, key, now=wrong) == f"The invitation was made on {created:%Y-%m-%d %H:%M} UTC, {says}"


def test_an_invitation_for_another_key(invitation, tmp_path):
    make_site_key(tmp_path / "hospital_b")
    assert fails_with(verify, invitation, tmp_path / "hospital_b") == (
        f"The invitation of hospital_a is for another key than {tmp_path}/hospital_b. Give the key whose .pub was sent, with --key."
    )


def test_an_invitation_for_another_flower(project, key, monkeypatch):
    monkeypatch.setattr(module, "FLOWER", "1.99.0")
    invitation = invite(project, "hospital_a", make_site_key(key), 30, SHARES)
    monkeypatch.undo()
    assert fails_with(verify, invitation, key) == (
        f"The invitation needs Flower 1.99.0, and this ImagingAI has {FLOWER}. Use the coordinator's version."
    )


def test_an_invitation_whose_authority_has_expired(invitation, key, project, tmp_path):
    long = dataclasses.replace(invitation, expires="2999-01-01T00:00:00+00:00")
    signature = make_coordinator_key(project.folder / "coordinator.key").sign(long.signed)
    long = dataclasses.replace(long, signature=module.base64.b64encode(signature).decode())
    text = fails_with(verify, long, key, now=NOW + timedelta(days=4000))
    assert re.fullmatch(rf"The certificate in the invitation expired on 20\d\d-\d\d-\d\d\. {AGAIN}", text)


def test_what_is_not_an_invitation(tmp_path, file):
    way = f"is not an invitation. Its name ends in .invitation; {AGAIN[0].lower()}{AGAIN[1:]}"
    for content in (b"Dear colleague,", b"\xff\xfe", b"[]", b"{}", b'{"format": 1}', b"[" * 100_000, file.read_bytes()[:-100]):
        (tmp_path / "wrong").write_bytes(content)
        assert fails_with(read_invitation, tmp_path / "wrong") == f"{tmp_path}/wrong {way}"
    assert fails_with(read_invitation, tmp_path / "none") == f"The invitation {tmp_path}/none cannot be read: No such file or directory."


def test_an_invitation_of_another_format(file):
    assert fails_with(read_invitation, edit(file, format=2)) == (
        f"{file} has format 2, and this ImagingAI {__version__} reads format 1. Use the coordinator's version."
    )


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"note": "hello"}, "the fields note are missing or unknown."),
        ({"config": {}}, "the settings address, augmentation, batch and "),
        ({"config": None}, "the settings address, augmentation, batch and "),
        ({"site": "../../etc"}, "'../../etc' cannot be the name of a site."),
        ({"site": 7}, "site is 7, not text."),
        ({"expires": "tomorrow"}, "Invalid isoformat string: 'tomorrow'"),
        ({"expires": "2027-01-01T00:00:00"}, "expires is 2027-01-01T00:00:00, not a time."),
        ({"created": "0001-01-01T00:00:00+14:00"}, "created is 0001-01-01T00:00:00+14:00, not a time."),
        ({"tensors": [1]}, "the tensors have no shapes."),
        ({"tensors": {"w": 3}}, "the tensors have no shapes."),
        ({"tensors": {"w": [3, -1]}}, "the shape of the tensor w is [3, -1]."),
        ({"signer": "ssh-ed25519"}, "list index out of range"),
        ({"signer": "ssh-ed25519 A"}, "Invalid base64-encoded string"),
        ({"software": "\ud800"}, "'utf-8' codec can't encode"),
    ],
)
def test_a_file_that_only_looks_like_an_invitation(file, changes, reason):
    made = changes.get("software", f"ImagingAI {__version__}")
    text = fails_with(read_invitation, edit(file, **changes))
    assert text.startswith(f"{file} does not fit this ImagingAI {__version__} (it was made with {made}): {reason}")
    assert text.endswith(AGAIN)


def test_settings_of_a_newer_version(file, invitation):
    config = {**dataclasses.asdict(invitation.config), "telepathy": True}
    text = fails_with(read_invitation, edit(file, config=config, software="ImagingAI 9.9"))
    assert text.endswith(f"(it was made with ImagingAI 9.9): the settings telepathy are missing or unknown. {AGAIN}")


def test_settings_out_of_their_limits(file, invitation):
    for name, value, sentence in (("rounds", 0, "it must lie between 1 and 10000"), ("epochs", 10**400, "int too large")):
        text = fails_with(read_invitation, edit(file, config={**dataclasses.asdict(invitation.config), name: value}))
        assert sentence in text and text.endswith(AGAIN)


def test_a_project_that_does_not_say_who_asks(project, key):
    for name in ("name", "coordinator", "purpose"):
        anonymous = dataclasses.replace(project, config=dataclasses.replace(project.config, **{name: " "}))
        text = fails_with(invite, anonymous, "hospital_a", make_site_key(key), 30, SHARES)
        assert text == f"{project.file}: {name} is empty. Sites must see who asks for what; fill it in."


def test_days_and_names_that_cannot_be(project, key):
    for days in (0, -1, 1001, float("nan")):
        text = fails_with(invite, project, "hospital_a", make_site_key(key), days, SHARES)
        assert text == f"--days is {days:g}; it must lie between 0 and 1000."
    assert fails_with(invite, project, "../a", make_site_key(key), 30, SHARES).startswith("'../a' cannot be the name of a site.")


def test_reading_and_showing_needs_the_standard_library_only(file):
    code = f"""
import sys
from imagingai.federated.consent import summary
from imagingai.federated.invitation import read_invitation
assert summary(read_invitation({str(file)!r}))
assert not {{"cryptography", "flwr", "torch", "numpy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
