"""Keys of sites (EC P-384) and of coordinators (Ed25519), in the format of OpenSSH. A private key never leaves its computer.

A public key is a text, `ecdsa-sha2-nistp384 AAAA...`, without the comment that its file may have. Its fingerprint is the SHA-256 of
what ssh-keygen hashes too, in hexadecimal. Only the functions that use cryptography import it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from imagingai.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SITE, COORDINATOR = "ecdsa-sha2-nistp384", "ssh-ed25519"  # as OpenSSH calls them
WHOSE = {SITE: "a site (EC P-384)", COORDINATOR: "a coordinator (Ed25519)"}
MAKE = "Make one with: imagingai federated key"
DEFAULT_KEY = Path.home() / "ImagingAI" / "site_key"  # of this computer, on the command line and in the panel


def make_site_key(path: str | Path) -> str:
    """Write a site's private key to `path` and its public half to `path`.pub, or use the key that is there; returns the public half."""
    from cryptography.hazmat.primitives.asymmetric import ec

    path = Path(path)
    if path.suffix == ".pub":
        raise InputError(f"{path} would be the public half. Give the name without .pub, and both are written.")
    key = load_site_key(path) if path.exists() else _make(path, ec.generate_private_key(ec.SECP384R1()))
    public = public_text(key)
    write_file(path.with_name(path.name + ".pub"), f"{public} {path.name}\n".encode())
    return public


def site_key_of(given: str) -> Path:
    """The file of this site's private key: the given one, or that of this computer."""
    return Path(given) if given else DEFAULT_KEY


def make_coordinator_key(path: str | Path) -> Ed25519PrivateKey:
    """The key that signs the invitations: written to `path` at the first time, read later."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path)
    return _load(path, COORDINATOR) if path.exists() else _make(path, Ed25519PrivateKey.generate())


def load_site_key(path: str | Path) -> EllipticCurvePrivateKey:
    """Read a site's private key; raises InputError for anything else."""
    return _load(Path(path), SITE)


def public_text(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> str:
    """The public half of a private key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def read_public_key(path: str | Path, kind: str = SITE) -> str:
    """Read the .pub file of a site; raises InputError with the way out for a private key and for anything else."""
    text = _read(Path(path)).decode("utf-8", "replace").lstrip("\ufeff")
    if "PRIVATE KEY" in text:
        raise InputError(f"{path} holds a private key, which must not leave its site. Ask the site for the file that ends in .pub.")
    words = text.split()
    if len(words) < 2 or words[0] != kind or not _is_key(words[1], kind):
        raise InputError(f"{path} is not the public key of {WHOSE[kind]}. {MAKE}, and give the file that ends in .pub.")
    return " ".join(words[:2])


def fingerprint(public: str) -> str:
    """SHA-256 of a public key: 64 hexadecimal digits."""
    return hashlib.sha256(base64.b64decode(public.split()[1])).hexdigest()


def spoken(digits: str) -> str:
    """A fingerprint in groups of four, to read it out on the telephone: `3f2a 91c0 ...`."""
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def public_pem(public: str) -> str:
    """A public key in the format in which Flower knows a site (PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    return load_ssh_public_key(public.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _is_key(text: str, kind: str) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        load_ssh_public_key(f"{kind} {text}".encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _make(path: Path, key):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    write_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), secret=True)
    return key


def _load(path: Path, kind: str):
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    content = _read(path)
    if content.startswith((SITE.encode(), COORDINATOR.encode())):
        raise InputError(f"{path} is the public half of a key. Give the private one, whose name has no .pub.")
    keep_secret(path)
    try:
        key = load_ssh_private_key(content, None)
    except TypeError:
        raise InputError(f"The key {path} has a passphrase, which is not supported. {MAKE}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not the private key of {WHOSE[kind]}. {MAKE}.") from None
    if not public_text(key).startswith(kind):
        raise InputError(f"{path} is not the private key of {WHOSE[kind]}. {MAKE}.")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no key {path}. {MAKE}.") from None
    except OSError as error:
        raise InputError(f"The key {path} cannot be read: {error.strerror}.") from None


def write_file(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a file at once or not at all; a secret one is nobody else's to read from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600 if secret else 0o644)
        with open(handle, "wb") as file:
            if secret:
                keep_secret(temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose a folder that you may write to.") from None
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never made
            temporary.unlink()


def keep_secret(path: Path) -> None:
    """Take a file away from all but its owner; raises InputError if the file system cannot."""
    if os.name == "nt":  # what the folder gives to others is cut off; S-1-3-4 is the owner
        subprocess.run(["icacls", str(path), "/inheritance:r", "/grant:r", "*S-1-3-4:F"], check=False, capture_output=True)
        return
    if path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):  # of somebody else: judged below
            path.chmod(0o600)
        if path.stat().st_mode & 0o077:
            raise InputError(f"Others can read the private key {path}, and this cannot be changed there. Move it to a folder of your own.")
