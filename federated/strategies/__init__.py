"""What a server makes of the replies: strategies by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.serverapp.strategy import Strategy

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.errors import FederationError
from federated.strategies.base import SPENT, Stateful, Streaming
from federated.strategies.fedadam import FedAdam
from federated.strategies.fedavg import StreamingFedAvg
from federated.strategies.fedbuff import FedBuff, staleness_weight
from federated.strategies.ldawa import LDAWA
from federated.strategies.orchestra import Orchestra
from federated.strategies.robust import krum, median, multi_krum, trimmed_mean

__all__ = [
    "LDAWA",
    "SPENT",
    "STRATEGIES",
    "FedAdam",
    "FedBuff",
    "Orchestra",
    "Stateful",
    "Streaming",
    "StreamingFedAvg",
    "build_strategy",
    "krum",
    "median",
    "multi_krum",
    "staleness_weight",
    "trimmed_mean",
]

Layout = Sequence[ParameterEntry]

STRATEGIES: dict[str, Callable[..., Strategy | FedBuff]] = {
    "fedavg": StreamingFedAvg,
    "fedadam": FedAdam,
    "fedbuff": FedBuff,
    "ldawa": LDAWA,
    "orchestra": Orchestra,
    "krum": krum,
    "multi_krum": multi_krum,
    "median": median,
    "trimmed_mean": trimmed_mean,
}
_WITH_LAYOUT = ("ldawa", "orchestra")


def build_strategy(name: str, layout: Layout = (), options: Mapping[str, Any] | None = None) -> Strategy | FedBuff:
    """The strategy of that name with its options; `layout` are the bundle's manifest.parameters.

    FederationError for an unknown name, or options that it does not take.
    """
    if name not in STRATEGIES:
        raise FederationError(f"unknown strategy {name!r}; choose one of {', '.join(STRATEGIES)}")
    given: dict[str, Any] = dict(options or {}) | ({"layout": layout} if name in _WITH_LAYOUT else {})
    try:
        return STRATEGIES[name](**given)
    except TypeError as error:
        raise FederationError(f"strategy {name!r}: {error}") from None
