"""The device's secret: authenticates what the device learned, so that nobody else can put a state in its place."""

import os
import secrets
import stat
from collections.abc import Callable

from edgessl.errors import StateError

KEY_BYTES = 32
MOST_BYTES = 1024
DeviceKey = bytes | str | os.PathLike[str] | Callable[[], bytes]


def read_key(key: DeviceKey) -> bytes:
    """The secret itself: given as bytes, by a function (a secure element, a TPM), or in a file.

    A file holds the raw bytes and MUST be readable by its owner only (0600); StateError otherwise.
    """
    if isinstance(key, bytes):
        return key
    if callable(key):
        return key()
    try:
        with open(os.open(key, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077:
                raise StateError(f"device key {os.fspath(key)}: others may read it; run chmod 600 on it, a plain file")
            if not 0 < info.st_size <= MOST_BYTES:
                raise StateError(f"device key {os.fspath(key)}: {info.st_size} bytes; expected {KEY_BYTES} random ones")
            return file.read()
    except OSError as error:
        raise StateError(f"device key {os.fspath(key)}: {error.strerror or error}") from None


def create_key(path: str | os.PathLike[str]) -> None:
    """Write a new random key to `path`, which must not exist yet; StateError otherwise."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as out:
            out.write(secrets.token_bytes(KEY_BYTES))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise StateError(f"device key {os.fspath(path)}: {error.strerror or error}") from None
