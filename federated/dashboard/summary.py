"""What a round log says of a fleet: rounds, devices, traffic, representation, privacy, failures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgessl.errors import ConfigError
from federated.checkpoint import LOG, PER_NODE
from federated.lineage import RoundLog

Event = Mapping[str, Any]
RECENT = 40  # events in the table


@dataclass
class Device:
    """What the log says of one device; `reason`: of its last failure."""

    node: str
    asked: int = 0
    failed: int = 0
    last: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    reason: str = ""


@dataclass
class Summary:
    """A federation so far.

    Attributes:
        rounds: the records of its rounds, refused ones included, as logged and without bytes by device.
        devices: by node id, in order of the last round with a failure, then of the id.
        events: the newest first: (time, event, round, what happened).
        begun, latest: times of the first and the last line, ISO 8601, UTC; "" for an empty log.
        failed: why the run ended, "" if it has not failed.
    """

    rounds: list[dict[str, Any]] = field(default_factory=list)
    devices: dict[str, Device] = field(default_factory=dict)
    events: list[tuple[str, str, str, str]] = field(default_factory=list)
    begun: str = ""
    latest: str = ""
    failed: str = ""

    def total(self, key: str) -> int:
        """A count over all rounds."""
        return sum(int(record.get(key, 0)) for record in self.rounds)

    @property
    def version(self) -> str:
        """The hash of the weights that go on; "" before the first round."""
        return next((str(r["version"]) for r in reversed(self.rounds) if "refused" not in r), "")

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Rounds in which `key` was reported, and its values."""
        found = [(int(r["round"]), float(r[key])) for r in self.rounds if isinstance(r.get(key), int | float)]
        return [number for number, _ in found], [value for _, value in found]


def log_of(directory: Path) -> Path:
    """The round log of a run's directory, or of the state directory in it; ConfigError when there is none."""
    for place in (directory, directory / "state", directory / "run" / "state"):
        if (place / LOG).is_file():
            return place / LOG
    raise ConfigError(
        f"{directory}: no {LOG} in it; give the directory of a run, which federate run or serve --run has made"
    )


def read(path: Path) -> Summary:
    """The summary of the log at `path`, every line of which is checked; FederationError for a damaged one."""
    return summarize(RoundLog(path).events())


def summarize(events: Iterable[Event]) -> Summary:
    """The summary of a log's events."""
    found = Summary()
    for event in events:
        kind, time = str(event["event"]), str(event.get("time", ""))
        found.begun, found.latest = found.begun or time, time
        if kind in ("round", "refused"):
            found.failed = ""
            _round(found, event)
        elif kind == "failed":
            found.failed = str(event.get("reason", "no reason given"))
        elif kind == "resume":
            found.failed = ""
        found.events.append((time, kind, str(event.get("round", event.get("number", ""))), _words(event)))
    found.events = found.events[: -RECENT - 1 : -1]
    return found


def _round(found: Summary, event: Event) -> None:
    number = int(event["round"])
    for node, (down, up) in dict(event.get(PER_NODE, {})).items():
        device = found.devices.setdefault(node, Device(node))
        device.asked, device.last = device.asked + (down > 0), number
        device.bytes_down, device.bytes_up = device.bytes_down + down, device.bytes_up + up
    for node, reason in dict(event.get("failures", {})).items():
        device = found.devices.setdefault(node, Device(node))
        device.failed, device.last, device.reason = device.failed + 1, number, str(reason)
    record = {key: value for key, value in event.items() if key != PER_NODE}
    found.rounds.append(record)


def _words(event: Event) -> str:
    """What happened, in a line."""
    kind = event["event"]
    if kind in ("round", "refused"):
        failed = len(event.get("failures", {}))
        words = f"{event.get('clients', 0)} replies" + (f", {failed} failed" if failed else "")
        if late := event.get("late", 0):
            words += f", {late} late"
        if reminded := event.get("reminded", 0):
            words += f", {reminded} reminded"
        return words + (f"; refused: {event['refused']}" if kind == "refused" else "")
    return str(event.get("reason", ""))
