"""The aggregator's certificates: real TLS connections accept them, and only them; what expires says so."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import timedelta

import pytest

from imagingai.errors import InputError
from imagingai.federated import certificates
from imagingai.federated.certificates import check_authority, check_valid, ensure_certificates, make_server_certificate, read_certificates

NOW = datetime.datetime.now(datetime.timezone.utc)
HOSTS = ["federation.hospital.org", "192.0.2.7"]


@pytest.fixture
def folder(tmp_path):
    """The folder of a federation with its certificates."""
    assert ensure_certificates(tmp_path / "ours", "Our federation", HOSTS)
    return tmp_path / "ours"


def fails_with(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def connect(server, client_authority, host):
    """The error of a TLS handshake in this process with the certificate of the folder `server`, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / "server.pem", server / "server.key")
    left, right = socket.socketpair()

    def answer():
        try:
            context.wrap_socket(left, server_side=True).close()
        except OSError:
            left.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ssl.create_default_context(cadata=client_authority.read_text()).wrap_socket(right, server_hostname=host).close()
    except ssl.SSLError as error:
        return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    finally:
        right.close()
        thread.join()
    return ""


@pytest.mark.parametrize("host", [*HOSTS, "127.0.0.1", "localhost"])
def test_sites_that_know_the_authority_can_connect(folder, host):
    assert connect(folder, folder / "ca.pem", host) == ""


def test_another_name_or_another_authority_is_refused(folder, tmp_path):
    ensure_certificates(tmp_path / "theirs", "Our federation", HOSTS)
    assert connect(tmp_path / "theirs", folder / "ca.pem", HOSTS[0]) == "unable to get local issuer certificate"
    assert connect(folder, folder / "ca.pem", "evil.org").startswith("Hostname mismatch")


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_openssl_finds_nothing_wrong(folder):
    strict = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", folder / "ca.pem", folder / "server.pem"]
    subprocess.run(strict, check=True, capture_output=True)
    certificate = read_certificates(folder / "server.pem")[0]
    assert certificate.not_valid_after_utc - NOW <= timedelta(days=398) and certificate.not_valid_before_utc < NOW
    assert read_certificates(folder / "ca.pem")[0].not_valid_after_utc - NOW > timedelta(days=3650)


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists")
def test_nobody_else_can_read_the_keys(folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {
        "ca.pem": "0o644",
        "server.pem": "0o644",
        "ca.key": "0o600",
        "server.key": "0o600",
    }


def test_a_certificate_is_renewed_in_its_last_month_under_the_same_authority(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert not ensure_certificates(folder, "Our federation", HOSTS, NOW + timedelta(days=366))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert ensure_certificates(folder, "Our federation", HOSTS, NOW + timedelta(days=368))
    assert (folder / "server.pem").read_bytes() != before["server.pem"] and (folder / "ca.pem").read_bytes() == before["ca.pem"]
    assert connect(folder, folder / "ca.pem", HOSTS[0]) == ""


def test_a_certificate_is_renewed_for_a_new_address_and_after_a_kill_between_key_and_certificate(folder):
    assert ensure_certificates(folder, "Our federation", ["new.hospital.org"])
    assert connect(folder, folder / "ca.pem", "new.hospital.org") == ""
    shutil.copy(folder / "ca.key", folder / "server.key")
    assert ensure_certificates(folder, "Our federation", ["new.hospital.org"])
    assert connect(folder, folder / "ca.pem", "new.hospital.org") == ""


def test_a_certificate_from_elsewhere_is_used_as_it_is(folder, tmp_path):
    """Who has one replaces ca.pem, server.pem and server.key."""
    ensure_certificates(tmp_path / "hospital", "Certificates of the hospital", ["*.hospital.org"])
    for name in ("ca.pem", "server.pem", "server.key"):
        shutil.copy(tmp_path / "hospital" / name, folder / name)
    before = (folder / "server.pem").read_bytes()
    assert not ensure_certificates(folder, "Our federation", HOSTS, NOW + timedelta(days=390))
    assert (folder / "server.pem").read_bytes() == before
    assert connect(folder, folder / "ca.pem", "federation.hospital.org") == ""
    text = fails_with(ensure_certificates, folder, "Our federation", HOSTS, NOW + timedelta(days=398))
    assert text == f"The certificate {folder}/server.pem expired on {NOW + timedelta(days=397):%Y-%m-%d}. Put a new one there."
    shutil.copy(tmp_path / "hospital" / "ca.key", folder / "server.key")
    text = fails_with(ensure_certificates, folder, "Our federation", HOSTS)
    assert text == f"{folder}/server.key is not the key of {folder}/server.pem. Put the right one there."
    (folder / "server.pem").unlink()
    text = fails_with(ensure_certificates, folder, "Our federation", HOSTS)
    assert text == f"{folder}/ca.key is not the key of ca.pem. Put server.pem and server.key of that authority there."


def test_an_expired_server_certificate_is_refused_by_sites(folder, monkeypatch):
    monkeypatch.setattr(certificates, "SKEW", timedelta(days=3))
    make_server_certificate(folder, HOSTS, days=-1)
    assert connect(folder, folder / "ca.pem", HOSTS[0]) == "certificate has expired"


def test_an_authority_that_has_expired_or_a_clock_that_is_wrong(folder):
    pem = (folder / "ca.pem").read_text()
    check_authority(pem)
    end, begin = NOW + timedelta(days=certificates.CA_DAYS), NOW - certificates.SKEW
    again = "Ask the coordinator for a new invitation."
    assert fails_with(check_authority, pem, NOW + timedelta(days=4000)) == (
        f"The certificate in the invitation expired on {end:%Y-%m-%d}. {again}"
    )
    assert fails_with(check_authority, pem, NOW - timedelta(days=9)) == (
        f"The certificate in the invitation is valid from {begin:%Y-%m-%d} on, and this computer says that it is "
        f"{NOW - timedelta(days=9):%Y-%m-%d}. Set its clock."
    )
    assert fails_with(check_authority, "nonsense") == f"The certificate in the invitation cannot be read. {again}"
    text = fails_with(ensure_certificates, folder, "Our federation", HOSTS, NOW + timedelta(days=4000))
    way = "Remove it and server.pem to have new ones made, and invite all sites again."
    assert text == f"The certificate {folder}/ca.pem expired on {end:%Y-%m-%d}. {way}"


def test_files_that_are_no_certificates_or_keys(folder):
    (folder / "server.pem").write_text("nonsense")
    assert fails_with(check_valid, folder / "server.pem") == (
        f"{folder}/server.pem is not a certificate in PEM format (-----BEGIN CERTIFICATE-----)."
    )
    assert fails_with(check_valid, folder / "none.pem") == f"The certificate {folder}/none.pem cannot be read: No such file or directory."
    (folder / "server.pem").unlink()
    (folder / "ca.key").write_text("nonsense")
    assert fails_with(ensure_certificates, folder, "Our federation", HOSTS) == (
        f"{folder}/ca.key is not a private key in PEM format without a passphrase."
    )
    (folder / "ca.key").unlink()
    assert (
        fails_with(ensure_certificates, folder, "Our federation", HOSTS)
        == f"The key {folder}/ca.key cannot be read: No such file or directory."
    )
