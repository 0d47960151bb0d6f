"""What people see: results on stdout, progress on stderr; bars in a terminal, plain lines anywhere else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from edgessl.device import MemberSpec

WIDE = 120  # columns where there is no terminal to ask
PLAIN_EVERY = 5.0  # least seconds between progress lines where there is no terminal
WARNING, QUIET = "yellow", "bright_black"


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no highlighting."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    # Two columns less than the terminal has: the ^C that it echoes then stays on its line.
    found.width = max(found.width - 2, 20) if found.is_terminal else WIDE
    return found


def show_facts(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns; one line each where there is no terminal to fold them for."""
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0)
    if not console.is_terminal:
        for name, value in listed:
            console.print(f"{name:<{width}}  {value}", soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in listed:
        table.add_row(name, value)
    console.print(table)


def show_grid(
    console: Console, columns: Sequence[str], rows: Iterable[Iterable[str]], left: Collection[str] = ()
) -> None:
    """A table with a header, set off by blank lines; the first column and those in `left` are text, others numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style=QUIET, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in (columns[0], *left) else "right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()


def show_members(console: Console, members: Mapping[str, MemberSpec]) -> None:
    """A bundle's files, their sizes and the start of their hashes."""
    rows = [(name, size(m.bytes), m.sha256[:12]) for name, m in sorted(members.items())]
    show_grid(console, ("member", "size", "sha256"), rows)


def print_json(value: Mapping[str, Any]) -> None:
    """Exactly one JSON object on stdout; numbers that are not finite, which JSON does not have, become null."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size(n: int) -> str:
    """Bytes for people, in thousands: 812 B, 3.4 kB, 4.2 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= limit:
            return f"{n / limit:.1f} {unit}"
    return f"{n} B"


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3:05, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stages:
    """Progress by stages on stderr: a bar for each in a terminal, plain lines anywhere else.

    `done` is a stage's finished share in [0, 1], or None where that is not known: such a stage is over when the
    next one is named. A stage may be left and come back to (the demo's seeds). `silent` says nothing at all (the
    other processes of torchrun).
    """

    def __init__(self, silent: bool = False) -> None:
        self.console = console(stderr=True)
        self.console.quiet = silent
        self._live = _bars(self.console) if self.console.is_terminal and not silent else None
        self._tasks: dict[str, TaskID] = {}
        self._current, self._note, self._shown = "", "", 0.0
        self._done: float | None = None
        self._began = time.monotonic()

    def update(self, stage: str, done: float | None = None, note: str = "") -> None:
        """Show how far `stage` is."""
        if stage != self._current:
            self._close()
            self._current, self._began = stage, time.monotonic()
            self._shown = -math.inf
        self._note, self._done = note, done
        if self._live is not None:
            self._draw(stage, done, note)
        elif (now := time.monotonic()) - self._shown >= max(PLAIN_EVERY, 0.05 * (now - self._began)):
            self._shown = now
            share = "" if done is None else f" {done:4.0%}"
            self._line(f"{stage}{share}: {note}" if note else f"{stage} ...")

    def say(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self.console.print(text, style=style, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that stays and should be noticed."""
        self.say(f"! {text}", WARNING)

    def _draw(self, stage: str, done: float | None, note: str) -> None:
        assert self._live is not None
        if stage not in self._tasks:
            self._tasks[stage] = self._live.add_task(stage, total=None, note=note, share="")
        share = "" if done is None else f"{done:4.0%}"
        total = None if done is None else 1.0
        self._live.update(self._tasks[stage], total=total, completed=done or 0.0, note=note, share=share)

    def _close(self) -> None:
        """Another stage begins, or the work is over: what has no share of its own is finished."""
        if not self._current or (self._done is not None and self._done < 1):
            return
        if self._live is not None:
            self._draw(self._current, 1.0, self._note)
        else:
            self._line(f"{self._current}: done in {duration(time.monotonic() - self._began)}")
        self._current = ""

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def __enter__(self) -> Stages:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        if self._live is not None:
            self._live.stop()


def _bars(console: Console) -> Progress:
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # what gives way in a narrow terminal
    return Progress(
        SpinnerColumn(finished_text="\N{CHECK MARK}", style="cyan"),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(8 if console.width < 100 else 20, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[share]}", markup=False, table_column=Column(no_wrap=True, width=4)),
        TextColumn("{task.fields[note]}", style=QUIET, markup=False, table_column=note),
        _Elapsed(table_column=Column(justify="right", no_wrap=True, min_width=5)),
        console=console,
        expand=True,
    )


class _Elapsed(ProgressColumn):
    """How long a stage has taken."""

    def render(self, task: Task) -> Text:
        """The time of a running stage, or all of a finished one's."""
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(duration(seconds or 0.0), QUIET)
