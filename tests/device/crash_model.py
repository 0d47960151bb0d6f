"""A disk that may lose power between any two system calls: what POSIX lets it keep, and nothing more.

`Recorder` notes the real calls a piece of code makes in a directory; `crashes` gives the directories that may be found
after a power loss: data not synced may be there, half there or missing, names not synced with their directory too, in
any combination. (Pillai et al., "All file systems are not created equal", OSDI 2014.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Event = tuple[Any, ...]


class Recorder:
    """Patches the calls of `os` with which edgessl.device writes; use under `monkeypatch.context()`."""

    def __init__(self, patch: Any, directory: Path) -> None:
        self.trace: list[Event] = []
        self.directory = directory
        self._inodes: dict[int, str] = {}  # open descriptor -> name it was opened by
        real = {
            name: getattr(os, name)
            for name in ("open", "write", "ftruncate", "lseek", "fsync", "replace", "unlink", "close")
        }

        def open_(path: Any, flags: int, *rest: Any, **kw: Any) -> int:
            there = os.path.exists(path)
            fd = real["open"](path, flags, *rest, **kw)
            path = Path(path)
            if path == directory:
                self._inodes[fd] = ""
            elif path.parent == directory and flags & (os.O_WRONLY | os.O_RDWR):
                self._inodes[fd] = path.name
                self._offset[fd] = 0
                self.trace.append(("open", path.name, not there, bool(flags & os.O_TRUNC)))
            return int(fd)

        def write(fd: int, data: Any) -> int:
            done = real["write"](fd, data)
            if fd in self._inodes:
                self.trace.append(("write", self._inodes[fd], self._offset[fd], bytes(data[:done])))
                self._offset[fd] += done
            return int(done)

        def ftruncate(fd: int, size: int) -> None:
            real["ftruncate"](fd, size)
            self.trace.append(("truncate", self._inodes[fd], size))

        def lseek(fd: int, place: int, how: int) -> int:
            self._offset[fd] = place
            return int(real["lseek"](fd, place, how))

        def fsync(fd: int) -> None:
            real["fsync"](fd)
            if fd in self._inodes and self.counts(self._inodes[fd]):
                self.trace.append(("fsync", self._inodes[fd]))

        def replace(old: Any, new: Any) -> None:
            real["replace"](old, new)
            self.trace.append(("rename", Path(old).name, Path(new).name))

        def unlink(path: Any, *rest: Any, **kw: Any) -> None:
            real["unlink"](path, *rest, **kw)
            if Path(path).parent == directory:
                self.trace.append(("unlink", Path(path).name))

        def close(fd: int) -> None:
            self._inodes.pop(fd, None)
            real["close"](fd)

        self._offset: dict[int, int] = {}
        for name, function in (("open", open_), ("write", write), ("ftruncate", ftruncate), ("lseek", lseek)):
            patch.setattr(os, name, function)
        for name, function in (("fsync", fsync), ("replace", replace), ("unlink", unlink), ("close", close)):
            patch.setattr(os, name, function)

    def counts(self, name: str) -> bool:
        """Whether a sync of the file `name` ("": the directory) has any effect; for tests of the tests."""
        return True

    def mark(self, what: Any) -> None:
        """Note that something was acknowledged here."""
        self.trace.append(("mark", what))


class _Disk:
    def __init__(self) -> None:
        self.content: list[bytes] = []  # durable, by inode
        self.pending: dict[int, list[Event]] = {}
        self.names: dict[str, int] = {}  # durable
        self.links: list[tuple[str, int | None]] = []  # pending: name -> inode, None: removed
        self.now: dict[str, int] = {}

    def apply(self, event: Event) -> None:
        match event:
            case ("open", name, created, truncated):
                if created:
                    self.content.append(b"")
                    self.now[name] = len(self.content) - 1
                    self.links.append((name, self.now[name]))
                elif truncated:
                    self.pending.setdefault(self.now[name], []).append(("truncate", 0))
            case ("write", name, place, data):
                self.pending.setdefault(self.now[name], []).append(("write", place, data))
            case ("truncate", name, size):
                self.pending.setdefault(self.now[name], []).append(("truncate", size))
            case ("fsync", ""):
                for name, inode in self.links:
                    _link(self.names, name, inode)
                self.links = []
            case ("fsync", name):
                inode = self.now[name]
                self.content[inode] = _changed(self.content[inode], self.pending.pop(inode, []))
            case ("rename", old, new):
                self.now[new] = self.now.pop(old)
                self.links += [(new, self.now[new]), (old, None)]
            case ("unlink", name):
                del self.now[name]
                self.links.append((name, None))

    def lose_power(self, rng: np.random.Generator) -> dict[str, bytes]:
        names = dict(self.names)
        for name, inode in self.links:
            if rng.random() < 0.5:
                _link(names, name, inode)
        found = {}
        for name, inode in names.items():
            kept = [event for event in self.pending.get(inode, []) if rng.random() < 0.7]
            if kept and kept[-1][0] == "write" and rng.random() < 0.5:  # torn
                _, place, data = kept[-1]
                kept[-1] = ("write", place, data[: int(rng.integers(len(data)))])
            found[name] = _changed(self.content[inode], kept)
        return found


def _link(names: dict[str, int], name: str, inode: int | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def _changed(content: bytes, events: list[Event]) -> bytes:
    data = bytearray(content)
    for event in events:
        if event[0] == "truncate":
            data = data[: event[1]] + bytes(max(0, event[1] - len(data)))
        else:
            _, place, new = event
            data += bytes(max(0, place - len(data)))
            data[place : place + len(new)] = new
    return bytes(data)


def crashes(trace: list[Event], each: int, seed: int = 0) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """(what was last acknowledged, files) of `each` random outcomes of a power loss after every event."""
    rng, disk, acknowledged = np.random.default_rng(seed), _Disk(), None
    for event in trace:
        if event[0] == "mark":
            acknowledged = event[1]
            continue
        disk.apply(event)
        for _ in range(each):
            yield acknowledged, disk.lose_power(rng)
