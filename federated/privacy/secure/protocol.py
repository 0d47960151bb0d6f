"""What the two ends of a secure round say to each other, and what each makes sure of in what it hears."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from edgessl.errors import FederationError
from federated.message import records

SECURE = "secure-aggregation"  # the config record of every message of a round
STAGE = "stage"
KEYS, SHARES, MASKED, UNMASK = "keys", "shares", "masked", "unmask"
MASKED_ARRAY = "masked"
MOST = 1 << 14  # devices in a round
KEY_BYTES, CIPHERTEXT_BYTES = 1 << 10, 1 << 13
LEAST_COHORT = 3  # the sum of two tells each of them the other's


@dataclass(frozen=True)
class Terms:
    """What the server proposes for a round and every device checks.

    Attributes:
        number: of the round.
        cohort: devices asked.
        neighbours: devices, itself included, among which each splits its secrets.
        threshold: shares that give a secret back; more than half, or two answers could be had from one round.
        bound: how far a round may move one number of theta.
        clipping_norm: Euclidean length to which a device cuts its change, for central privacy; 0 for none.
    """

    number: int
    cohort: int
    neighbours: int
    threshold: int
    bound: float
    clipping_norm: float

    def check(self) -> None:
        """FederationError for terms under which single updates could be learned."""
        fair = LEAST_COHORT <= self.neighbours <= self.cohort <= MOST and 0 < self.bound < 1e6
        if not fair or not self.neighbours // 2 < self.threshold <= self.neighbours or not self.clipping_norm >= 0:
            raise FederationError(
                f"secure aggregation refused: {self}; at least {LEAST_COHORT} neighbours and a threshold of more than "
                "half of them are needed"
            )

    def config(self) -> dict[str, int | float]:
        """Entries of a config record."""
        return asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Terms":
        """Read and check what `config` gave."""
        kinds = {name: kind for name, kind in cls.__annotations__.items()}
        for name, kind in kinds.items():
            if type(config.get(name)) is not kind:
                raise FederationError(
                    f"secure aggregation: {name}: expected {kind.__name__}, found {config.get(name)!r}"
                )
        terms = cls(**{name: config[name] for name in kinds})
        terms.check()
        return terms


def secure_config(content: RecordDict) -> dict[str, Any]:
    """The secure config of a message; {} when it is none of a secure round."""
    return dict(records(content, ConfigRecord).get(SECURE, ConfigRecord()))


def listed(config: Mapping[str, Any], key: str, kind: type, most: int = MOST) -> list[Any]:
    """A list entry, each element of that kind; FederationError otherwise."""
    found = config.get(key, [])
    if not isinstance(found, list) or len(found) > most or any(type(value) is not kind for value in found):
        raise FederationError(f"secure aggregation: {key}: expected up to {most} of {kind.__name__}")
    return found


def short_bytes(values: list[Any], most: int, what: str) -> list[bytes]:
    """Bytes of bounded length; FederationError otherwise."""
    for value in values:
        if len(value) > most:
            raise FederationError(f"secure aggregation: {what} of {len(value)} bytes, at most {most} are allowed")
    return values
