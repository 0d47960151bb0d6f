"""Privacy from options, as a run's or a node's config gives them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from edgessl.errors import FederationError
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.central import CentralPrivacy
from federated.strategies import FedBuff
from federated.strategies.base import Streaming

Settings = TypeVar("Settings")


def from_options(kind: type[Settings], options: Mapping[str, Any], name: str) -> Settings:
    """`kind(**options)`; FederationError, with `name`, for options that it does not take or that it lacks."""
    try:
        return kind(**options)
    except TypeError as error:
        raise FederationError(f"{name}: {error}") from None


def central_privacy(strategy: Any, options: Mapping[str, Any]) -> CentralPrivacy:
    """The strategy under central privacy: the fields of GaussianPrivacy, and `cohort`."""
    if isinstance(strategy, FedBuff) or not isinstance(strategy, Streaming):
        raise FederationError(f"central privacy needs the mean of the replies, and {type(strategy).__name__} has none")
    cohort = options.get("cohort")
    if type(cohort) is not int:
        raise FederationError(f"central-privacy: cohort: expected how many replies a round has, found {cohort!r}")
    rest = {key: value for key, value in options.items() if key != "cohort"}
    return CentralPrivacy(strategy, from_options(GaussianPrivacy, rest, "central-privacy"), cohort=cohort)
