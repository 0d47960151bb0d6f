"""Flower's strategies against devices that lie, set up for these rounds.

All of them hold every reply of a round in memory, and need individual updates: they cannot be had with secure
aggregation.
"""

from typing import Any

from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, MultiKrum

_ALL_CHOSEN: dict[str, Any] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 0.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 0,
    "min_available_nodes": 1,
}


def krum(*, byzantine: int) -> Krum:
    """The one reply nearest to its n - f - 2 nearest others, f = `byzantine` (Blanchard et al., NeurIPS 2017)."""
    return Krum(num_malicious_nodes=byzantine, **_ALL_CHOSEN)


def multi_krum(*, byzantine: int, keep: int) -> MultiKrum:
    """The mean of the `keep` replies that Krum likes best, weighted by examples."""
    return MultiKrum(num_malicious_nodes=byzantine, num_nodes_to_select=keep, **_ALL_CHOSEN)


def median() -> FedMedian:
    """The median of every number (Yin et al., ICML 2018, arXiv 1803.01498)."""
    return FedMedian(**_ALL_CHOSEN)


def trimmed_mean(*, beta: float = 0.25) -> FedTrimmedAvg:
    """The mean of every number without the share `beta` of the least and of the greatest (Yin et al. 2018)."""
    return FedTrimmedAvg(beta=beta, **_ALL_CHOSEN)
