"""Which weights come from which: every version of a fleet's weights has a hash, a parent and a layout.

The round log is a file of JSON lines to which is only ever added. Each line names the hash of the line before it, so
that a line changed, lost or put in between is found when the log is opened.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.device.storage import strictjson
from edgessl.device.storage.files import sync_directory, write_all
from edgessl.errors import FederationError
from federated.message import VERSION

# keys of a train message's config, beside those of `message`
LAYOUT, FEDERATION, BRANCH = "layout-hash", "federation", "branch"
_CHAIN = "previous"


def layout_hash(entries: Iterable[ParameterEntry]) -> str:
    """What two layouts have in common only if they are equal: SHA-256 of names, offsets, shapes and kinds."""
    plain = [[entry.name, entry.offset, list(entry.shape), entry.kind] for entry in entries]
    return hashlib.sha256(json.dumps(plain, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Version:
    """One version of a federation's weights.

    Attributes:
        federation: the run it belongs to, however often that was interrupted and resumed.
        number: of the round that made it; 0 for the first weights. No number is given twice.
        branch: how many times the fleet was rolled back before.
        hash: `message.version_of` its weights.
        parent: the hash of those that it was made from; "" for the first.
        layout: `layout_hash` of its parameters; "" where no layout was given.
    """

    federation: str
    number: int
    branch: int
    hash: str
    parent: str
    layout: str

    def config(self) -> dict[str, str | int]:
        """What a train message says of the weights that it carries."""
        config: dict[str, str | int] = {VERSION: self.hash, FEDERATION: self.federation, BRANCH: self.branch}
        return config | ({LAYOUT: self.layout} if self.layout else {})


def check_layout(config: Mapping[str, Any], entries: Sequence[ParameterEntry]) -> None:
    """FederationError when a message's config names another layout than these entries have."""
    if (found := config.get(LAYOUT)) is not None and found != (own := layout_hash(entries)):
        raise FederationError(
            f"{LAYOUT}: expected {own[:12]}, found {str(found)[:12]}: parameters of another model; give every node the "
            "same bundle"
        )


class RoundLog:
    """A federation's round log, `lineage.jsonl`.

    Opening it checks every line; FederationError names the first that is wrong. A last line without an end does not
    count: another process is writing it, or lost power over it, and then the next `append` puts its own in its place.
    One process at a time may append (see checkpoint.ServerStore). `len` counts the lines.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._last, self._lines, self._end = path, "", 0, 0
        for _, line in self._checked():
            self._count(line)

    def __len__(self) -> int:
        return self._lines

    def events(self) -> Iterator[dict[str, Any]]:
        """What each line says, read from the file one at a time: fleets are large and runs long."""
        return (event for event, _ in self._checked())

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Add a line and sync it; returns what it says."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts, _CHAIN: self._last}
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode()
        try:
            existed = self.path.exists()
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(file).st_size > self._end:
                    os.ftruncate(file, self._end)
                write_all(file, data + b"\n")
                os.fsync(file)
            finally:
                os.close(file)
            if not existed:
                sync_directory(self.path.parent)
        except OSError as error:
            raise FederationError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._count(data)
        return line

    def _count(self, line: bytes) -> None:
        self._last, self._lines, self._end = _digest(line), self._lines + 1, self._end + len(line) + 1

    def _checked(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Every whole line, parsed and without its end, each known to follow the one before."""
        last = ""
        try:
            lines = open(self.path, "rb") if self.path.exists() else io.BytesIO()  # noqa: SIM115  (closed below)
        except OSError as error:
            raise FederationError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        with lines as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    event = strictjson.parse(line[:-1])
                    found, _ = event[_CHAIN], event["event"]
                except (ValueError, KeyError, TypeError) as error:
                    raise FederationError(f"{self.path}: line {number} is no line of a round log: {error!r}") from None
                if found != last:
                    raise FederationError(
                        f"{self.path}: line {number} does not follow the one before: one was changed, lost or put in"
                    )
                last = _digest(line[:-1])
                yield event, line[:-1]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
