"""How a node behaves on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from edgessl.errors import ConfigError
from federated.compat import fleet

SLACK_BYTES = 1 << 16  # of a message beside its array: names, numbers, headers


@dataclass(frozen=True)
class NodeSettings:
    """What a device is willing to do.

    Attributes:
        heartbeat: seconds between signs of life while there is a message to work on. The SuperLink gives a node up
            after twice that, and a round then ends without it. A node that only waits says so when it looks for a
            message, see `idle_heartbeat`.
        poll: shortest and longest wait between two looks for a message, seconds. The shortest follows a message.
        away: longest wait between two attempts to reach a server that is away, seconds.
        gate: seconds between two looks at a closed gate.
        max_bytes: of a message, its arrays put together.
        message_types: what this node answers; anything else is refused.
    """

    heartbeat: float = 30.0
    poll: tuple[float, float] = (1.0, 60.0)
    away: float = 300.0
    gate: float = 60.0
    max_bytes: int = 256 << 20
    message_types: frozenset[str] = frozenset({"train"})

    @property
    def idle_heartbeat(self) -> float:
        """What an idle node promises: to be heard of again by its next look, spread and all."""
        return min(max(self.heartbeat, 1.25 * self.poll[1]), fleet.LONGEST_HEARTBEAT)

    def __post_init__(self) -> None:
        if not fleet.SHORTEST_HEARTBEAT <= self.heartbeat <= fleet.LONGEST_HEARTBEAT:
            raise ConfigError(
                f"heartbeat: {self.heartbeat:g} s; a SuperLink takes {fleet.SHORTEST_HEARTBEAT:g} to "
                f"{fleet.LONGEST_HEARTBEAT:g}"
            )
        if not 0 < self.poll[0] <= self.poll[1] <= fleet.LONGEST_HEARTBEAT:
            raise ConfigError(
                f"poll: expected shortest and longest wait, at most {fleet.LONGEST_HEARTBEAT:g} s, found {self.poll}"
            )


def message_bytes(parameters: int) -> int:
    """Bound of a message that carries that many weights: Flower's FedAdam sends them as float64."""
    return 8 * parameters + SLACK_BYTES
