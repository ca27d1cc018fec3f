"""The aggregator's TLS certificates: an authority of the federation's own, and a server certificate that it renews.

Files in the folder of the federation: ca.pem (goes into the invitations), ca.key, server.pem, server.key. Who has a certificate from
elsewhere puts it there as server.pem and server.key, and as ca.pem that of its authority; it is then used as it is.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imagingai.errors import InputError
from imagingai.federated.keys import keep_secret, write_file

CA_DAYS, SERVER_DAYS = 3653, 397  # ten years; the longest that all TLS libraries accept
RENEW = timedelta(days=30)
SKEW = timedelta(days=1)  # clocks of sites may be behind


def make_ca(folder: Path, name: str) -> None:
    """Write ca.pem and ca.key (EC P-384) for the federation `name`, unless there is a ca.pem."""
    if (folder / "ca.pem").exists():
        return
    key, subject = ec.generate_private_key(ec.SECP384R1()), _name(f"{name} (ImagingAI federation)")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and lists of revoked ones
    builder = _builder(subject, key, CA_DAYS).issuer_name(subject).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    certificate = builder.add_extension(usage, True).add_extension(_identifier(key), False).sign(key, hashes.SHA384())
    _write_key(folder / "ca.key", key)
    write_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))


def make_server_certificate(folder: Path, hosts: list[str], days: int = SERVER_DAYS) -> None:
    """Write server.pem and server.key, signed by ca.pem, for these DNS names and IP addresses and for 127.0.0.1."""
    authority, signer = read_certificates(folder / "ca.pem")[0], _read_key(folder / "ca.key")
    if signer.public_key() != authority.public_key():
        raise InputError(f"{folder / 'ca.key'} is not the key of ca.pem. Put server.pem and server.key of that authority there.")
    key = ec.generate_private_key(ec.SECP384R1())
    names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys([*hosts, "127.0.0.1", "localhost"])])
    builder = _builder(_name(hosts[0]), key, days).issuer_name(authority.subject)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (_identifier(key), False),
        (names, False),
    ):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(signer, hashes.SHA384())
    _write_key(folder / "server.key", key)
    write_file(folder / "server.pem", certificate.public_bytes(Encoding.PEM))


def ensure_certificates(folder: Path, name: str, hosts: list[str], now: datetime | None = None) -> bool:
    """Make what is missing, and renew a server certificate of ours that soon expires or lacks a host; True if server.pem is new.

    A certificate from elsewhere is left alone; raises InputError if it has expired or if server.key is the key of another one.
    """
    now = now or datetime.now(timezone.utc)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_ca(folder, name)
    server, key = folder / "server.pem", folder / "server.key"
    if server.exists():
        certificate = read_certificates(server)[0]
        matches = key.exists() and _read_key(key).public_key() == certificate.public_key()
        lasts = certificate.not_valid_after_utc - now >= RENEW
        if not _is_ours(folder, certificate):
            check_valid(server, now)
            if not matches:
                raise InputError(f"{key} is not the key of {server}. Put the right one there.")
            return False
        if matches and lasts and {str(_host(host).value) for host in hosts} <= _hosts(certificate):
            return False
    check_valid(folder / "ca.pem", now, "Remove it and server.pem to have new ones made, and invite all sites again")
    make_server_certificate(folder, hosts)
    return True


def check_valid(path: Path, now: datetime | None = None, way: str = "Put a new one there") -> None:
    """Raise InputError, with the date and the way out, if a certificate of the file has expired or is not valid yet."""
    for certificate in read_certificates(path):
        check_dates(certificate, f"The certificate {path}", way, now)


def check_authority(pem: str, now: datetime | None = None) -> None:
    """Raise InputError unless the text of an invitation's authority is a certificate that is valid now."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise InputError("The certificate in the invitation cannot be read. Ask the coordinator for a new invitation.") from None
    for certificate in certificates:
        check_dates(certificate, "The certificate in the invitation", "Ask the coordinator for a new invitation", now)


def check_dates(certificate: x509.Certificate, what: str, way: str, now: datetime | None = None) -> None:
    """Raise InputError with `what` has expired and the `way` out."""
    now = now or datetime.now(timezone.utc)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise InputError(f"{what} expired on {end:%Y-%m-%d}. {way}.")
    if now < begin:
        raise InputError(f"{what} is valid from {begin:%Y-%m-%d} on, and this computer says that it is {now:%Y-%m-%d}. Set its clock.")


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise InputError(f"The certificate {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise InputError(f"{path} is not a certificate in PEM format (-----BEGIN CERTIFICATE-----).") from None


def _is_ours(folder: Path, certificate: x509.Certificate) -> bool:
    """True if the key that would sign a new certificate is here and has signed this one."""
    if not (folder / "ca.key").exists():
        return False
    try:
        certificate.verify_directly_issued_by(read_certificates(folder / "ca.pem")[0])
    except (InvalidSignature, ValueError, TypeError):
        return False
    return read_certificates(folder / "ca.pem")[0].public_key() == _read_key(folder / "ca.key").public_key()


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - SKEW).not_valid_after(now + timedelta(days=days))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), secret=True)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        content = path.read_bytes()
        keep_secret(path)
        return load_pem_private_key(content, None)
    except OSError as error:
        raise InputError(f"The key {path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise InputError(f"{path} is not a private key in PEM format without a passphrase.") from None
