"""The live view of a stream: what was seen, what was learned, what happened."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgessl.cli.console import PLAIN_EVERY, QUIET, WARNING, console, duration, size
from edgessl.device import Learner, LearnReport


class Display:
    """A table that follows a learner: live in a terminal, a line every few seconds anywhere else."""

    def __init__(self, learner: Learner, title: str, first: int, last: int) -> None:
        self.console = console(stderr=True)
        self.title, self.first, self.last, self.position = title, first, last, first
        self.events: list[dict[str, Any]] = []
        self._learner = learner
        self._now = self._then = learner.metrics()
        self._report: LearnReport | None = None
        self._first_loss = math.nan
        self._novelty: NDArray[np.float64] = np.zeros(0)
        self._novelty_sum, self._novelty_max, self._judged = 0.0, -math.inf, 0
        self._learning_seconds = 0.0
        self._began = self._shown = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def observed(self, position: int, novelty: NDArray[np.float64]) -> None:
        """Samples up to `position` were observed; `novelty` holds their scores, where there was a past."""
        self.position = position
        self._novelty = novelty
        if len(novelty):
            self._novelty_sum += float(novelty.sum())
            self._novelty_max = max(self._novelty_max, float(novelty.max()))
            self._judged += len(novelty)
        if (events := self._learner.metrics()["drift_events"]) > self._now["drift_events"]:
            self._event("drift", f"drift event {events}: the stream changed; what was learned is kept as the anchor")

    def learned(self, report: LearnReport) -> None:
        """The learner took some steps, or says why not."""
        self._learning_seconds += report.seconds
        if report.steps:
            self._report = report
            if math.isnan(self._first_loss):
                self._first_loss = report.metrics["loss"]
        if report.rolled_back_to is not None:
            self._event("rollback", f"{report.stopped}; back to generation {report.rolled_back_to}")
        elif report.rejected:
            self._event("rejected", f"{report.rejected} steps taken back")

    def refresh(self) -> None:
        """Draw what is known now."""
        self._now = self._learner.metrics()
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif time.monotonic() - self._shown >= PLAIN_EVERY:
            self._shown = time.monotonic()
            self.console.print(self._line(), soft_wrap=True)

    def say(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self.console.print(text, style=style, soft_wrap=True)

    def result(self) -> dict[str, Any]:
        """The figures, for JSON and `summary`."""
        metrics = self._report.metrics if self._report else {}
        return {
            "samples": self.position - self.first,
            "position": self.position,
            "seconds": round(time.monotonic() - self._began, 3),
            "learn_steps": self._steps(),
            "ms_per_step": self._ms_per_step(),
            "first_loss": None if math.isnan(self._first_loss) else self._first_loss,
            "metrics": metrics,
            "novelty_mean": self._novelty_sum / self._judged if self._judged else None,
            "novelty_max": self._novelty_max if self._judged else None,
            "events": self.events,
            "learner": self._now,
        }

    def _event(self, kind: str, text: str) -> None:
        self.events.append({"sample": self.position, "kind": kind, "text": text})
        self.say(f"! sample {self.position:,}: {text}", WARNING)

    def _steps(self) -> int:
        return int(self._now["steps"] - self._then["steps"])

    def _ms_per_step(self) -> float | None:
        tried = self._now["attempts"] - self._then["attempts"]
        return 1000 * self._learning_seconds / tried if tried else None

    def _figures(self) -> dict[str, str]:
        m, now, ms = self._report.metrics if self._report else {}, self._now, self._ms_per_step()
        novelty = f"{self._novelty.mean():.2f}" if len(self._novelty) else "-"
        peak = f"{self._novelty_max:.2f}" if self._judged else "-"
        return {
            "steps": f"{self._steps():,}",
            "loss": f"{m['loss']:.4f}" if m else "-",
            "novelty": novelty,
            "ms/step": "-" if ms is None else f"{ms:.1f}",
            "std": f"{m['embedding_std']:.3f}" if m else "-",
            "highest": peak,
            "rejected": str(now["rejected"]),
            "rank": f"{m['effective_rank']:.1f}" if m else "-",
            "drift": str(now["drift_events"]),
            "rollbacks": str(now["rollbacks"]),
            "remembered": f"{now['remembered']:,}",
            "generation": str(now["generation"]),
        }

    def _table(self) -> RenderableType:
        done, total = self.position - self.first, self.last - self.first
        seconds = time.monotonic() - self._began
        rate = done / max(seconds, 1e-9)
        time_left = f"{duration((total - done) / rate)} left" if 0 < done < total else f"in {duration(seconds)}"
        counts = Text(f"{done:,} of {total:,} samples  {rate:,.0f}/s  {time_left}")
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(ProgressBar(total=max(total, 1), completed=done, complete_style="cyan"), counts)
        figures = Table.grid(padding=(0, 2), expand=True)
        for _ in range(3):
            figures.add_column(style=QUIET, no_wrap=True)
            figures.add_column(justify="right", no_wrap=True, ratio=1)
        cells = [cell for pair in self._figures().items() for cell in pair]
        for i in range(0, len(cells), 6):
            figures.add_row(*cells[i : i + 6])
        return Group(Text(f"{self.title}  ({size(self._now['memory_bytes'])} of memory)", style="bold"), bar, figures)

    def _line(self) -> str:
        done, total = self.position - self.first, self.last - self.first
        pairs = "  ".join(f"{name} {value}" for name, value in self._figures().items())
        return f"{done:,} of {total:,} samples  {pairs}"

    def __enter__(self) -> Display:
        for problem in self._now["damaged_slots"]:
            self.say(f"! damaged slot passed over: {problem}", WARNING)
        if self._now["observed"]:
            self.say(f"resumed: generation {self._now['generation']}, {self._now['observed']:,} samples seen before")
        if self.first >= self.last:
            self.say(f"! nothing new: the data ends before sample {self.first:,}; --start 0 streams it again", WARNING)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def summary(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What happened, in a few lines."""
    now, metrics = result["learner"], result["metrics"]
    learning = "no steps"
    if metrics:
        learning = (
            f"{result['learn_steps']:,} steps of {result['ms_per_step']:.1f} ms; loss {result['first_loss']:.3f} to "
            f"{metrics['loss']:.3f}, std {metrics['embedding_std']:.2f}, rank {metrics['effective_rank']:.1f}"
        )
    kept = f"generation {now['generation']} in {result['state']}, {now['observed']:,} samples seen in all"
    return [
        ("done", f"{result['samples']:,} samples in {duration(result['seconds'])}"),
        ("learned", learning),
        ("events", f"{now['drift_events']} drift, {now['rollbacks']} rollbacks, {now['rejected']} rejected steps"),
        ("saved", kept),
    ]
