"""Keys: made once, readable by OpenSSH, nobody else's to read, and every wrong file has its sentence."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imagingai.errors import InputError
from imagingai.federated import keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the key of a site, hospital_a, and that of a coordinator, and files that are none."""
    folder = tmp_path_factory.mktemp("keys")
    keys.make_site_key(folder / "hospital_a")
    keys.make_coordinator_key(folder / "coordinator")
    (folder / "coordinator.pub").write_text(keys.public_text(keys.make_coordinator_key(folder / "coordinator")))
    (folder / "letter.txt").write_text("Dear colleague,")
    (folder / "broken.pub").write_text("ecdsa-sha2-nistp384 AAAA hospital_a")
    return folder


def fails_with(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def test_a_key_is_made_once_and_used_again(tmp_path):
    public = keys.make_site_key(tmp_path / "new folder" / "site_key")
    private = (tmp_path / "new folder" / "site_key").read_bytes()
    (tmp_path / "new folder" / "site_key.pub").unlink()
    assert keys.make_site_key(tmp_path / "new folder" / "site_key") == public
    assert (tmp_path / "new folder" / "site_key").read_bytes() == private
    assert keys.read_public_key(tmp_path / "new folder" / "site_key.pub") == public
    assert keys.make_site_key(tmp_path / "other") != public


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists")
def test_nobody_else_can_read_a_private_key(folder, tmp_path):
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {
        "hospital_a": "0o600",
        "hospital_a.pub": "0o644",
        "coordinator": "0o600",
        "coordinator.pub": "0o644",
        "letter.txt": "0o644",
        "broken.pub": "0o644",
    }
    shutil.copy(folder / "hospital_a", tmp_path / "copy")
    (tmp_path / "copy").chmod(0o644)
    keys.load_site_key(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists")
def test_a_key_that_stays_readable_for_others_is_refused(folder, tmp_path, monkeypatch):
    shutil.copy(folder / "hospital_a", tmp_path / "copy")
    (tmp_path / "copy").chmod(0o644)
    monkeypatch.setattr("pathlib.Path.chmod", lambda *_: None)  # as on a network share
    text = fails_with(keys.load_site_key, tmp_path / "copy")
    assert text == f"Others can read the private key {tmp_path}/copy, and this cannot be changed there. Move it to a folder of your own."


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
def test_openssh_reads_the_keys_and_finds_the_same_fingerprint(folder):
    said = subprocess.run(["ssh-keygen", "-lf", folder / "hospital_a.pub"], capture_output=True, text=True, check=True).stdout
    digits = base64.b64decode(re.search(r"SHA256:(\S+)", said)[1] + "=").hex()
    assert said.startswith("384 ") and digits == keys.fingerprint(keys.read_public_key(folder / "hospital_a.pub"))
    derived = subprocess.run(["ssh-keygen", "-yf", folder / "hospital_a"], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == keys.read_public_key(folder / "hospital_a.pub").split()


def test_flower_knows_a_site_by_the_same_key(folder):
    pem = keys.public_pem(keys.read_public_key(folder / "hospital_a.pub"))
    assert load_pem_public_key(pem.encode()) == keys.load_site_key(folder / "hospital_a").public_key()


def test_a_fingerprint_is_read_out_in_groups_of_four():
    assert keys.spoken("3f2a91c05") == "3f2a 91c0 5"


def test_a_public_key_survives_the_mail(folder, tmp_path):
    (tmp_path / "mailed.pub").write_bytes(b"\xef\xbb\xbf" + (folder / "hospital_a.pub").read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert keys.read_public_key(tmp_path / "mailed.pub") == keys.read_public_key(folder / "hospital_a.pub")


def test_what_a_coordinator_may_get_instead_of_a_public_key(folder):
    wrong = "is not the public key of a site (EC P-384). Make one with: imagingai federated key, and give the file that ends in .pub."
    for name in ("letter.txt", "broken.pub", "coordinator.pub"):
        assert fails_with(keys.read_public_key, folder / name) == f"{folder / name} {wrong}"
    text = fails_with(keys.read_public_key, folder / "hospital_a")
    assert text == f"{folder}/hospital_a holds a private key, which must not leave its site. Ask the site for the file that ends in .pub."
    assert fails_with(keys.read_public_key, folder / "nobody.pub") == (
        f"There is no key {folder}/nobody.pub. Make one with: imagingai federated key."
    )


def test_what_a_site_may_give_instead_of_its_key(folder, tmp_path):
    wrong = "is not the private key of a site (EC P-384). Make one with: imagingai federated key."
    for name in ("letter.txt", "coordinator"):
        assert fails_with(keys.load_site_key, folder / name) == f"{folder / name} {wrong}"
    assert fails_with(keys.load_site_key, folder / "hospital_a.pub") == (
        f"{folder}/hospital_a.pub is the public half of a key. Give the private one, whose name has no .pub."
    )
    assert fails_with(keys.load_site_key, tmp_path) == f"The key {tmp_path} cannot be read: Is a directory."
    assert fails_with(keys.make_site_key, tmp_path / "key.pub") == (
        f"{tmp_path}/key.pub would be the public half. Give the name without .pub, and both are written."
    )
    assert fails_with(keys.make_site_key, folder / "letter.txt").endswith(wrong)
    assert (folder / "letter.txt").read_text() == "Dear colleague,"


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
def test_a_key_with_a_passphrase_or_of_another_kind(tmp_path):
    for name, kind, phrase in (("locked", ["ecdsa", "-b", "384"], "secret"), ("small", ["ecdsa", "-b", "256"], ""), ("rsa", ["rsa"], "")):
        subprocess.run(["ssh-keygen", "-q", "-t", *kind, "-N", phrase, "-f", tmp_path / name], check=True)
    assert fails_with(keys.load_site_key, tmp_path / "locked") == (
        f"The key {tmp_path}/locked has a passphrase, which is not supported. Make one with: imagingai federated key."
    )
    for name in ("small", "rsa"):
        assert fails_with(keys.load_site_key, tmp_path / name).startswith(f"{tmp_path}/{name} is not the private key of a site")
        assert fails_with(keys.read_public_key, tmp_path / f"{name}.pub").startswith(f"{tmp_path}/{name}.pub is not the public key")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    text = fails_with(keys.make_site_key, tmp_path / "file" / "key")
    assert text == f"Cannot write {tmp_path}/file/key: File exists. Choose a folder that you may write to."


def test_reading_public_texts_needs_the_standard_library_only():
    code = """
import sys
from imagingai.federated import keys
assert keys.fingerprint("ecdsa-sha2-nistp384 AAAA").startswith("709e80c8")
assert not {"cryptography", "flwr", "torch", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
