"""Signing bundles at the workstation; a device verifies with edgessl.device.bundle.signature."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgessl.device.bundle.archive import Bundle, write_files
from edgessl.device.bundle.signature import SIGNATURE_FILE, digests, envelope, public_pem, signed_bytes, statement
from edgessl.device.storage.files import write_atomically
from edgessl.errors import MissingDependencyError, SignatureError

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
except ImportError:
    raise MissingDependencyError("signing needs the package cryptography; run: pip install 'edgessl[secure]'") from None


def create_keys(path: str | os.PathLike[str]) -> Path:
    """Write a new Ed25519 private key to `path` (PEM, PKCS #8, readable by its owner only); returns the public key's.

    The public key goes beside it as `path`.pub, for devices. Neither may exist yet; SignatureError otherwise.
    """
    private, public = Path(path), Path(f"{os.fspath(path)}.pub")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for target, data, mode in ((private, pem, 0o600), (public, public_pem(key.public_key().public_bytes_raw()), 0o644)):
        try:
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as out:
                out.write(data)
        except OSError as error:
            raise SignatureError(f"{target}: {error.strerror or error}") from None
    return public


def read_private_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """An Ed25519 private key from an unencrypted PEM file that only its owner can read; SignatureError otherwise."""
    try:
        with open(path, "rb") as file:
            mode, pem = os.fstat(file.fileno()).st_mode, file.read(1 << 16)
    except OSError as error:
        raise SignatureError(f"private key {os.fspath(path)}: {error.strerror or error}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SignatureError(f"private key {os.fspath(path)}: others may read it; run chmod 600 on it")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError) as error:
        raise SignatureError(f"private key {os.fspath(path)}: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"private key {os.fspath(path)}: not an Ed25519 key")
    return key


def sign(bundle: str | os.PathLike[str], key: Ed25519PrivateKey) -> None:
    """Verify the bundle at the path, a file or a directory, and put the signature into it; an old one is replaced."""
    path = Path(bundle)
    opened = Bundle.open(path)
    files = opened.files
    payload = statement(opened.manifest.name, digests(files))
    signature = envelope(payload, key.sign(signed_bytes(payload)), key.public_key().public_bytes_raw())
    if path.is_dir():
        try:
            write_atomically(path / SIGNATURE_FILE, signature)
        except OSError as error:
            raise SignatureError(f"{path}: cannot be written: {error.strerror or error}") from None
    else:
        write_files(path, {**files, SIGNATURE_FILE: signature})
