"""Files that survive a crash at any instant: whole writes, syncs, and a rename that leaves the old file or the new."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` beside `path`, sync them and rename them over `path`; an OSError leaves `path` as it was."""
    replace_file(path, path.with_name(f".{path.name}.{os.getpid()}.tmp"), parts, 0o666)


def replace_file(path: Path, temporary: Path, parts: Iterable[bytes | memoryview], mode: int) -> None:
    """`write_atomically` by way of a `temporary` in the same directory; `parts` are taken one at a time.

    `mode`: permissions of a new file, less the process's umask. Once it returns, the new file is there after a power
    loss too. When anything fails, the temporary is removed.
    """
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            for part in parts:
                write_all(file, part)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write every byte of `data` to the descriptor `file`, however few a call may take."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(file, rest) :]


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` (files created, renamed, removed) survive a power loss."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
