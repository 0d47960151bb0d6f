"""Small networks of the local learning rules, and the spikes and modulators under which each of them learns.

    network, inputs = rule_network("ESPP", seed=0, steps=1000)     # as its driver drove it, step by step

A driver (ESPP, prototypes) computes modulators between two steps from what the simulator showed it. What it sent is
kept here as plain inputs, so that Lava can be asked whether it learns the same weights from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgessl.errors import ConfigError
from neuromorphic.espp import EchoLearner, echo_network
from neuromorphic.local import competitive, predictive_coding
from neuromorphic.network import IntegerNetwork
from neuromorphic.plastic import balance, with_silent
from neuromorphic.prototypes import Prototypes
from neuromorphic.record import Record
from neuromorphic.simulator import Simulator

Array = np.ndarray[Any, np.dtype[Any]]
Driven = tuple[IntegerNetwork, dict[str, Array]]
WINDOW = 12


class Overheard(Simulator):
    """A simulator that keeps what was sent in: `sent`, name -> (1, steps, n)."""

    def __init__(self, network: IntegerNetwork) -> None:
        super().__init__(network)
        self._parts: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array], **chosen: Any) -> Record:
        """As `Simulator.run`."""
        self._parts.append({name: np.array(array) for name, array in inputs.items()})
        return super().run(inputs, **chosen)

    @property
    def sent(self) -> dict[str, Array]:
        """All inputs so far, one after the other."""
        return {name: np.concatenate([part[name] for part in self._parts], 1) for name in self._parts[0]}


def patterns(rng: np.random.Generator, n: int, steps: int) -> Array:
    """Four patterns of rates that take turns, (steps, n) of 0 and 1; there is something to learn in them."""
    rates = rng.random((4, n)) * 0.5
    which = np.repeat(rng.integers(0, 4, -(-steps // WINDOW)), WINDOW)[:steps]
    return (rng.random((steps, n)) < rates[which]).astype(np.int8)


def _kolen_pollack(rng: np.random.Generator, steps: int) -> Driven:
    n, hidden = (int(k) for k in rng.integers(8, 16, 2))
    return _free(predictive_coding(n, hidden, feedback="kolen_pollack", seed=int(rng.integers(1000))), rng, steps)


def _competitive(rng: np.random.Generator, steps: int) -> Driven:
    n, hidden = (int(k) for k in rng.integers(8, 16, 2))
    return _free(competitive(n, hidden, seed=int(rng.integers(1000))), rng, steps)


def _free(network: IntegerNetwork, rng: np.random.Generator, steps: int) -> Driven:
    """Without a driver: the network's own neurons modulate."""
    spikes = patterns(rng, network.inputs[0].size, steps)[None]
    return balance(network, spikes[:, :100], 0.1, engine="numpy"), with_silent(network, spikes)


def _espp(rng: np.random.Generator, steps: int) -> Driven:
    n, hidden = (int(k) for k in rng.integers(8, 16, 2))
    network = echo_network(n, hidden, seed=int(rng.integers(1000)))
    windows = patterns(rng, n, WINDOW * steps).reshape(-1, WINDOW, n)
    network = balance(network, windows[:20], 0.1, engine="numpy")
    learner = EchoLearner(network, engine="numpy")
    learner.simulator = overheard = Overheard(network)
    for window in windows[: -(-steps // (WINDOW + learner.gap))]:
        learner.present(window, bool(rng.random() < 0.6))
    return network, {name: array[:, :steps] for name, array in overheard.sent.items()}


def _prototypes(rng: np.random.Generator, steps: int) -> Driven:
    n = int(rng.integers(8, 16))
    learner = Prototypes(n, capacity=int(rng.integers(4, 9)), novelty=0.9)
    learner._simulator = overheard = Overheard(learner.network)
    centres = rng.random((6, n)) * (rng.random((6, n)) < 0.6)
    for _ in range(steps):
        learner.observe(np.abs(centres[rng.integers(6)] + rng.normal(0, 0.1, n)))
    return learner.network, overheard.sent


RULES: dict[str, Callable[[np.random.Generator, int], Driven]] = {
    "predictive coding, Kolen-Pollack": _kolen_pollack,
    "STDP, competitive": _competitive,
    "ESPP": _espp,
    "prototypes": _prototypes,
}


def rule_network(rule: str, seed: int, steps: int) -> Driven:
    """A network of a rule, its sizes drawn, and inputs (1, steps, n) under which it learns.

    Raises:
        ConfigError: no such rule.
    """
    if rule not in RULES:
        raise ConfigError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
    return RULES[rule](np.random.default_rng([seed, 11]), steps)
