"""When a node speaks: often while a federation is at work, seldom otherwise, and ever less to a server that is away."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Pace:
    """Seconds to wait: `least` after something happened, then `growth` times more each time up to `most`.

    Each wait is spread by `jitter` of itself to both sides, so that a fleet which lost its server at the same moment
    does not come back at the same moment.
    """

    least: float
    most: float
    growth: float = 2.0
    jitter: float = 0.25
    draw: random.Random = field(default_factory=random.Random, repr=False)
    _next: float = field(default=0.0, init=False)

    def wait(self) -> float:
        """The next wait in seconds; the one after is longer."""
        current = max(self._next, self.least)
        self._next = min(current * self.growth, self.most)
        return min(current, self.most) * (1 + self.jitter * (2 * self.draw.random() - 1))

    def restart(self) -> None:
        """Something happened: the next wait is the shortest again."""
        self._next = self.least
