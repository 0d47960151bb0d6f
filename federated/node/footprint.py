"""Memory given back to the system: what the C library keeps of freed memory, and code that ran once.

Half of a node's resident memory are pages of libraries, most of them read by imports and by onnxruntime's making of
sessions, and not needed again. The kernel takes such pages back when it runs short; here it gets them at once.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")


def give_back() -> None:
    """Free what this process holds and does not use; on Linux alone (malloc_trim: with glibc alone).

    What is needed after all is read again from the page cache: some milliseconds in the next round. Not while another
    thread loads a library.
    """
    libc = ctypes.CDLL(None)
    if trim := getattr(libc, "malloc_trim", None):
        trim(0)
    if _SMAPS.exists():
        for start, size in list(_clean(_SMAPS)):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _clean(smaps: Path) -> Iterator[tuple[int, int]]:
    """Start and size of every mapping that is a file's, cannot be written, and has no page that differs from the file.

    A library's relocated tables cannot be written either, but differ: they would come back without the relocations.
    """
    span: tuple[int, int] | None = None
    with smaps.open() as lines:
        for line in lines:
            name, *rest = line.split()
            if not name.endswith(":"):  # 7f00-7f80 r-xp offset device inode path
                start, end = (int(part, 16) for part in name.split("-"))
                mapped = rest[3] != "0" and rest[0].startswith("r-")
                span = (start, end - start) if mapped else None
            elif name == "Anonymous:" and span is not None and rest[0] == "0":
                yield span
