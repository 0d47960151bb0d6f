"""Who a device is: an elliptic-curve key whose public half is registered at the SuperLink."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from edgessl.errors import ConfigError
from federated.compat.fleet import public_bytes

_MOST_BYTES = 1 << 14


@dataclass(frozen=True)
class Identity:
    """A private key and the PEM bytes of its public half."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    public_key: bytes

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Identity:
        """The key in an OpenSSH or PEM file that its owner alone may read; ConfigError otherwise."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077:
                    raise ConfigError(f"key {path}: others may read it; run chmod 600 on it, a plain file")
                data = file.read(_MOST_BYTES)
        except OSError as error:
            raise ConfigError(f"key {path}: {error.strerror or error}; edgessl federate keys makes one") from None
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
        try:
            key = load(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"key {path}: no unencrypted private key: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"key {path}: expected an elliptic-curve key, found {type(key).__name__}")
        return cls(key, public_bytes(key.public_key()))

    @classmethod
    def create(cls, path: Path) -> Identity:
        """A new P-384 key at `path` (OpenSSH format, 0600) and its public half beside it, `path`.pub.

        Neither may exist; ConfigError otherwise.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        write_new(path, private, 0o600)
        write_new(path.with_name(f"{path.name}.pub"), public + b" " + path.name.encode() + b"\n", 0o644)
        return cls(key, public_bytes(key.public_key()))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, whole and synced; ConfigError otherwise."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(f"{path}: exists already, and is not overwritten; choose another name or remove it") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
