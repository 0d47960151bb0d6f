"""A federation's state on the server's disk: every version of the weights, so that a run resumes or goes back.

    state_dir/lineage.jsonl                 the round log
    state_dir/versions/000012.safetensors   all the server knew after round 12; the newest KEEP of them
    state_dir/head.safetensors              the version that goes on; a link to one of those

A file appears whole or not at all. What a run draws depends on its seed and the round alone, so there is no generator
to keep.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.device.storage import tensors
from edgessl.device.storage.files import sync_directory, write_atomically
from edgessl.errors import FederationError, FormatError
from federated.lineage import RoundLog, Version
from federated.message import Float
from federated.strategies.base import SPENT

KEEP = 8  # versions that can be gone back to
LOG, HEAD, VERSIONS, LOCK = "lineage.jsonl", "head.safetensors", "versions", "lock"
PER_NODE = "device_bytes"  # of a record: in the log, and not in results, which are held in memory
State = Mapping[str, Any]


@dataclass(frozen=True)
class Head:
    """What a run goes on from.

    Attributes:
        version, theta: the weights (P,) and whose child they are.
        last: the last round number given; above the version's own after a rollback.
        seconds: that the run took so far.
        lines: of the round log that belong to it.
        states: of whatever keeps something from round to round, by name: arrays, and values that JSON holds.
    """

    version: Version
    theta: Float
    last: int = 0
    seconds: float = 0.0
    lines: int = 0
    states: Mapping[str, State] = field(default_factory=dict)


class ServerStore:
    """The state directory of one federation, made when missing, and this process's from here to `close()`.

    A context manager, which closes it. FederationError when it cannot be used, or another process has it.
    """

    def __init__(self, directory: Path, bundle_digest: str) -> None:
        self.directory, self._digest = directory, bundle_digest
        try:
            (directory / VERSIONS).mkdir(parents=True, exist_ok=True)
            self._lock: int | None = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FederationError(f"{directory}: cannot be made: {error.strerror or error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.log = RoundLog(directory / LOG)
        except BlockingIOError:
            self.close()
            raise FederationError(f"{directory}: a server is running with this state; stop it first") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> "ServerStore":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(self) -> Head | None:
        """What was last written; None at the first start."""
        path = self.directory / HEAD
        return self._read(path) if path.exists() else None

    def write(self, head: Head) -> None:
        """Keep a version and go on from it; the oldest beyond KEEP are removed."""
        path = self.directory / VERSIONS / f"{head.last:06d}.safetensors"
        try:
            write_atomically(path, *_encode(head, self._digest))
            self._point(path)
            for old in sorted(path.parent.glob("*.safetensors"))[:-KEEP]:
                old.unlink()
        except OSError as error:
            raise FederationError(f"{path}: cannot be written: {error.strerror or error}") from None

    def roll_back(self, number: int, reason: str) -> Head:
        """Go back to the version of round `number`: what came after it is nobody's parent.

        The next round gets the number after the last one given, and the branch after the present one, by which devices
        see that they must forget what they kept of the fleet. Privacy budget spent stays spent. FederationError when
        that version is not kept any more.
        """
        now = self.load()
        path = self.directory / VERSIONS / f"{number:06d}.safetensors"
        if now is None or not path.exists():
            kept = ", ".join(str(int(p.stem)) for p in sorted(path.parent.glob("*.safetensors"))) or "none"
            raise FederationError(f"{self.directory}: version {number} is not kept; these are: {kept}")
        then = self._read(path)
        branch, parent = now.version.branch + 1, then.version
        facts = {"reason": reason, "from": now.version.hash, "to": parent.hash, "number": number, "branch": branch}
        self.log.append("rollback", **facts)
        states = {name: unspent(state, now.states.get(name, {})) for name, state in then.states.items()}
        head = replace(
            then,
            version=replace(parent, branch=branch),
            last=now.last,
            seconds=now.seconds,
            lines=len(self.log),
            states=states,
        )
        try:
            write_atomically(self.directory / HEAD, *_encode(head, self._digest))
        except OSError as error:
            raise FederationError(f"{self.directory / HEAD}: cannot be written: {error.strerror or error}") from None
        return head

    def rounds(self, head: Head) -> list[dict[str, Any]]:
        """The records of the rounds that led to `head`, those rolled back included, without the bytes of each node."""
        hidden = ("event", "time", "previous", PER_NODE)
        events = itertools.islice(self.log.events(), head.lines)
        return [{k: v for k, v in e.items() if k not in hidden} for e in events if e["event"] in ("round", "refused")]

    def _point(self, path: Path) -> None:
        """Make HEAD that file, in one rename."""
        temporary = self.directory / f".{HEAD}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
            os.replace(temporary, self.directory / HEAD)
            sync_directory(self.directory)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _read(self, path: Path) -> Head:
        try:
            head, digest = _decode(path.read_bytes())
        except OSError as error:
            raise FederationError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (FormatError, KeyError, ValueError, TypeError) as error:
            raise FederationError(
                f"{path}: damaged: {error}; link another file of {VERSIONS}/ in its place, or start in a new directory"
            ) from None
        if digest != self._digest:
            raise FederationError(
                f"{path}: a federation of bundle {digest[:12]}, expected {self._digest[:12]}; give another directory"
            )
        return head


def unspent(state: State, now: State) -> State:
    """An earlier `state`, but with what was spent until `now`."""
    return {k: v for k, v in state.items() if not k.startswith(SPENT)} | {
        k: v for k, v in now.items() if k.startswith(SPENT)
    }


def _encode(head: Head, digest: str) -> list[memoryview]:
    arrays: dict[str, np.ndarray] = {"theta": head.theta}
    plain: dict[str, dict[str, Any]] = {}
    for part, state in head.states.items():
        plain[part] = {k: v for k, v in state.items() if not isinstance(v, np.ndarray)}
        arrays |= {f"{part}:{k}": v for k, v in state.items() if isinstance(v, np.ndarray)}
    facts = {"version": asdict(head.version), "last": head.last, "seconds": head.seconds, "lines": head.lines}
    text = json.dumps({**facts, "bundle": digest, "states": plain}, allow_nan=False).encode()
    arrays["facts"] = np.frombuffer(text, np.uint8)  # not metadata, which has to fit a header of 1 MiB
    return tensors.pieces(arrays, {"sha256": _checksum(arrays)})


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _decode(data: bytes) -> tuple[Head, str]:
    arrays, metadata = tensors.loads(data)
    if _checksum(arrays) != metadata["sha256"]:
        raise ValueError("its checksum is wrong")
    facts = json.loads(arrays.pop("facts").tobytes())
    theta, version = arrays.pop("theta"), Version(**facts["version"])
    states: dict[str, dict[str, Any]] = facts["states"]
    for name, array in arrays.items():
        part, key = name.split(":", 1)
        states[part][key] = array
    head = Head(version, theta, int(facts["last"]), float(facts["seconds"]), int(facts["lines"]), states)
    return head, str(facts["bundle"])
