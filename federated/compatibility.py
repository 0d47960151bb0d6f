"""What may run together is settled before the first round; docs/federated_codecs.md has the same as a table.

Three reasons stand behind every refusal. A strategy that looks at single replies cannot work on their sum, nor on
their noisy mean. One that compares replies number by number cannot when each sends other numbers. A noisy mean or a
sum of masks needs a cohort that is known beforehand, which asynchronous rounds have not.
"""

from dataclasses import dataclass

from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, MultiKrum, Strategy

from edgessl.errors import FederationError
from federated.codecs import Codec, parse_codec
from federated.codecs.link import WHOLE
from federated.codecs.payload import ALL
from federated.privacy.central import CentralPrivacy
from federated.settings import RoundSettings
from federated.strategies import LDAWA, FedAdam, FedBuff, Orchestra, StreamingFedAvg

MEAN = ("fedavg", "fedadam")  # work on the mean of the replies alone
COMPARING = ("krum", "multi_krum", "median", "trimmed_mean")
_NAMES: tuple[tuple[str, type], ...] = (
    ("krum", Krum),  # before MultiKrum, which it derives from
    ("multi_krum", MultiKrum),
    ("median", FedMedian),
    ("trimmed_mean", FedTrimmedAvg),
    ("ldawa", LDAWA),
    ("orchestra", Orchestra),
    ("fedbuff", FedBuff),
    ("fedadam", FedAdam),
    ("fedavg", StreamingFedAvg),
)
PRIVACY = ("none", "local", "central", "secure", "central+secure", "local+secure")
MASKED = ("secure", "central+secure", "local+secure")


@dataclass(frozen=True)
class Plan:
    """A federation's choices by name.

    strategy: of `federated.strategies`, or "flower" for a strategy of Flower's own. codec, downlink: "whole" or what
    `parse_codec` reads. privacy: one of PRIVACY.
    """

    strategy: str = "fedavg"
    codec: str = WHOLE
    downlink: str = WHOLE
    privacy: str = "none"
    over_selection: float = 1.0

    def check(self) -> None:
        """FederationError with the first reason why these do not go together, and what to choose instead."""
        if self.privacy not in PRIVACY:
            raise FederationError(f"privacy {self.privacy!r} is unknown; choose one of {', '.join(PRIVACY)}")
        for reason in (*self._codecs(), *self._privacy()):
            raise FederationError(reason)

    def _codecs(self) -> list[str]:
        up, down = (_parsed(name) for name in (self.codec, self.downlink))
        sparse = [name for name, codec in ((self.codec, up), (self.downlink, down)) if codec and codec.pick != ALL]
        reasons = []
        if up and up.pick != ALL and self.strategy in COMPARING:
            reasons.append(
                f"strategy {self.strategy} compares replies number by number, and codec {self.codec} sends other "
                "numbers from every device; use int8, delta or whole"
            )
        if sparse and self.strategy == "orchestra":
            reasons.append(
                f"orchestra's centroids are replaced, not changed, and codec {sparse[0]} would send parts of them; use "
                "int8, delta or whole"
            )
        return reasons

    def _privacy(self) -> list[str]:
        reasons = []
        if self.privacy in ("central", *MASKED) and self.strategy not in MEAN:
            reasons.append(
                f"{self.privacy} privacy leaves the server the mean of the replies, and strategy {self.strategy} needs "
                f"every one; use {' or '.join(MEAN)}, or local privacy"
            )
        if self.privacy in MASKED and self.codec != WHOLE:
            reasons.append(
                f"masked updates are sums of whole vectors, and codec {self.codec} sends something else; leave the "
                "codec out (the downlink may have one)"
            )
        if self.privacy in MASKED and self.over_selection > 1:
            reasons.append(
                "with secure aggregation a device that is not waited for costs as much as one that failed; set "
                "over_selection to 1"
            )
        return reasons


def plan_of(strategy: Strategy | FedBuff, settings: RoundSettings, *, secure: bool = False) -> Plan:
    """The plan that a server was given."""
    kinds = []
    if isinstance(strategy, CentralPrivacy):
        kinds.append("central")
        strategy = strategy.inner
    if secure:
        kinds.append("secure")
    name = next((name for name, kind in _NAMES if isinstance(strategy, kind)), "flower")
    privacy = "+".join(kinds) or "none"
    return Plan(name, settings.codec, settings.downlink, privacy, settings.over_selection)


def _parsed(name: str) -> Codec | None:
    return None if name == WHOLE else parse_codec(name)
