"""Memory given back: what was freed, and pages of files that nothing has changed."""

from __future__ import annotations

import ctypes
import mmap
import resource
from pathlib import Path

import pytest

from federated.node.footprint import _clean, give_back

SMAPS = """\
1000-3000 r-xp 00000000 fe:00 71 /lib/code.so
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r--p 00002000 fe:00 71 /lib/code.so
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 71 /lib/code.so
Anonymous:             0 kB
5000-9000 r--p 00000000 00:00 0
Anonymous:             0 kB
9000-a000 ---p 00003000 fe:00 71 /lib/code.so
Anonymous:             0 kB
ffff0000-ffff1000 r--s 00000000 fe:00 72 /data/with a space: and a colon.npy (deleted)
Anonymous:             0 kB
VmFlags: rd mr mw me
"""


def test_only_what_the_file_still_has_is_dropped(tmp_path):
    """Relocated tables (4 kB of their own), what can be written, what has no file: never."""
    (tmp_path / "smaps").write_text(SMAPS)
    assert list(_clean(tmp_path / "smaps")) == [(0x1000, 0x2000), (0xFFFF0000, 0x1000)]


def test_memory_that_was_freed_goes_back_to_the_system():
    """A thousand small blocks below one that stays: glibc keeps them until it is told."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    blocks = [bytes(60_000) for _ in range(1000)]
    stays = bytes(60_000)
    blocks.clear()
    before = resident()
    give_back()
    assert before - resident() > 40 << 20
    assert len(stays) == 60_000


def test_a_file_that_was_read_goes_back_and_comes_again(tmp_path):
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc/self/smaps here")
    (tmp_path / "file").write_bytes(bytes(range(256)) * (1 << 16))
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        once = sum(mapped[:: mmap.PAGESIZE])
        before = resident()
        give_back()
        assert before - resident() > 12 << 20
        assert sum(mapped[:: mmap.PAGESIZE]) == once


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
