"""When a node may speak at all: a gate looks at the device and says why not, or nothing.

A node whose gate is closed says goodbye to the server, so that no round waits for it, and comes back when the gate is
open. A gate is any function without arguments; those here read Linux's own files, and `Command` asks a program.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgessl.errors import ConfigError

Gate = Callable[[], str | None]  # None when open, else the reason
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_ROUTED, _FLAG_UP = "00000000", 1


@dataclass(frozen=True)
class TimeWindow:
    """Open from `start` to `end`, minutes of the local day; over midnight when `end` is the smaller."""

    start: int
    end: int
    now: Callable[[], datetime] = datetime.now

    @classmethod
    def parse(cls, text: str) -> TimeWindow:
        """ "22:00-06:30"; ConfigError otherwise."""
        minutes = [60 * int(m[1]) + int(m[2]) for part in text.split("-") if (m := _CLOCK.fullmatch(part.strip()))]
        if len(minutes) != 2 or text.count("-") != 1 or minutes[0] == minutes[1]:
            raise ConfigError(f"time window {text!r}: expected HH:MM-HH:MM, as in 22:00-06:30")
        return cls(minutes[0], minutes[1])

    def __call__(self) -> str | None:
        """None inside the window, the time of day outside."""
        clock = self.now()
        minute = 60 * clock.hour + clock.minute
        after, before = minute >= self.start, minute < self.end
        is_open = (after and before) if self.start < self.end else (after or before)
        if is_open:
            return None
        return f"{minute // 60:02}:{minute % 60:02} is outside {_clock(self.start)}-{_clock(self.end)}"


@dataclass(frozen=True)
class Battery:
    """Open on mains, or with every battery charged to at least `percent`; a device without a battery is on mains."""

    percent: int
    folder: Path = Path("/sys/class/power_supply")

    def __call__(self) -> str | None:
        """None on mains or charged enough, the lowest level otherwise."""
        levels = []
        for supply in sorted(self.folder.glob("*")):
            kind = _read(supply / "type")
            if kind in ("Mains", "USB", "Wireless") and _read(supply / "online") == "1":
                return None
            if kind == "Battery" and _read(supply / "scope") != "Device" and (level := _read(supply / "capacity")):
                levels.append(int(level))
        if levels and min(levels) < self.percent:
            return f"battery at {min(levels)} %, below {self.percent} %"
        return None


@dataclass(frozen=True)
class Interfaces:
    """Closed while the default route goes over an interface that matches one of `avoided` ("wwan*": a metered link)."""

    avoided: tuple[str, ...] = ("wwan*", "ppp*", "rmnet*")
    routes: Path = Path("/proc/net/route")

    def __call__(self) -> str | None:
        """None over another interface, the interface and the pattern otherwise."""
        best: tuple[int, str] | None = None
        for line in _read(self.routes).splitlines()[1:]:
            fields = line.split()
            if len(fields) >= 8 and fields[1] == fields[7] == _ROUTED and int(fields[3], 16) & _FLAG_UP:
                best = min(best or (1 << 62, ""), (int(fields[6]), fields[0]))
        if best is None:
            return None  # no IPv4 route, as with IPv6 alone: whether the server can be reached shows soon enough
        for pattern in self.avoided:
            if fnmatch.fnmatchcase(best[1], pattern):
                return f"the default route is {best[1]}, which matches {pattern}"
        return None


@dataclass(frozen=True)
class Command:
    """Open while a program of the device's own exits with 0; otherwise the reason is the first line it prints.

    So NetworkManager's idea of a metered link, a charger's temperature or a user's setting can close the gate.
    """

    command: tuple[str, ...]
    seconds: float = 10.0

    def __call__(self) -> str | None:
        """None when the program exits with 0, what it says otherwise."""
        try:
            done = subprocess.run(
                self.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=self.seconds
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{self.command[0]}: {error}"
        if done.returncode == 0:
            return None
        return (done.stdout.strip().splitlines() or [f"{self.command[0]} exited with {done.returncode}"])[0][:200]


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
