"""Networks with plastic connections, held still: frozen copies, embeddings, thresholds that balance a firing rate.

record = Simulator(network).run({"input": spikes})           # it learns while it runs
inference = frozen(network, record.weights)                  # the same synapses, no longer plastic
z = embed(inference, spikes, "hidden")                       # (N, n) mean spikes
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, InputError
from neuromorphic.network import IDLE, IntegerNetwork
from neuromorphic.populations import LIF
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import make_simulator

Array = np.ndarray[Any, np.dtype[Any]]
NEVER = LearningRule(IDLE)
"""A rule that changes nothing: a frozen connection keeps its learned 9-bit weights, which only a plastic one may."""


def balance(
    network: IntegerNetwork, spikes: Array, rate: float = 0.1, population: str = "hidden", engine: str = "auto"
) -> IntegerNetwork:
    """The network with the threshold at which a population fires at `rate` per neuron and step on unlabelled spikes.

    Args:
        network: whose `population` is of LIF neurons.
        spikes: (N, T, n) of the first input; a few dozen samples do.
        rate: wanted, in 0..1.
        population: whose threshold to choose, by halving.
        engine: see `simulator.make_simulator`.

    Raises:
        ConfigError: the population is no LIF, or the rate is out of reach.
    """
    layer = network.population(population)
    if not isinstance(layer, LIF) or not 0 < rate < 1:
        raise ConfigError(f"balance: expected a LIF population and 0 < rate < 1, found {layer.kind!r} and {rate}")
    fixed = frozen(network)
    low, high = 1, (1 << 17) - 1
    while low < high:  # the lowest threshold at which it fires at most so often
        middle = (low + high) // 2
        fires = embed(_threshold(fixed, layer, middle), spikes, population, engine=engine).mean()
        low, high = (low, middle) if fires <= rate else (middle + 1, high)
    if not embed(_threshold(fixed, layer, low), spikes, population, engine=engine).any():
        raise ConfigError(f"balance: {population!r} is silent at every threshold; its input is too weak")
    return _threshold(network, layer, low)


def frozen(network: IntegerNetwork, weights: Mapping[str, Array] | None = None) -> IntegerNetwork:
    """The network with its plastic connections at `weights` and changing no more.

    Args:
        network: any.
        weights: plastic connection -> (n_post, n_pre), or one lane of `Record.weights` (1, n_post, n_pre); those that
            are not named keep their first ones.

    Raises:
        ConfigError: a name is not a plastic connection, or a shape does not fit.
    """
    return _with_weights(network, weights or {}, freeze=True)


def relearned(network: IntegerNetwork, weights: Mapping[str, Array]) -> IntegerNetwork:
    """The network with its plastic connections at `weights`, still plastic; errors as in `frozen`."""
    return _with_weights(network, weights, freeze=False)


def plastic_names(network: IntegerNetwork) -> list[str]:
    """The connections whose rule can change them."""
    return [c.name for c in network.connections if c.learns]


def embed(
    network: IntegerNetwork, spikes: Array, population: str, bins: int = 1, lanes: int = 64, engine: str = "auto"
) -> Array:
    """Mean spikes of a population in `bins` equal parts of the time, (N, bins * n) float32, from rest.

    Nothing is learned: plastic connections are frozen. Inputs other than the first one, which teach, stay silent.

    Args:
        network: any.
        spikes: (N, T, n_in) of the first input.
        population: whose spikes.
        bins: parts, 1..T.
        lanes: samples simulated at a time.
        engine: see `simulator.make_simulator`.

    Raises:
        InputError: spikes do not fit, or there are fewer steps than bins.
    """
    x = np.asarray(spikes)
    if x.ndim != 3 or not 1 <= bins <= x.shape[1]:
        raise InputError(f"spikes must be (N, T, n) with T >= bins = {bins}, found {x.shape}")
    edges = [round(i * x.shape[1] / bins) for i in range(bins + 1)]
    parts = []
    for fired in fires(network, x, population, lanes, engine):
        means = [fired[:, a:b].mean(1, dtype=np.float32) for a, b in itertools.pairwise(edges)]
        parts.append(np.concatenate(means, 1))
    return np.concatenate(parts)


def fires(
    network: IntegerNetwork, spikes: Array, population: str, lanes: int = 64, engine: str = "auto"
) -> Iterator[Array]:
    """A population's spikes (M, T, n), M <= `lanes` samples at a time, each from rest; arguments as in `embed`."""
    fixed = _upstream(frozen(network), population)
    for start in range(0, len(spikes), lanes):
        batch = spikes[start : start + lanes]
        record = make_simulator(fixed, len(batch), engine).run(with_silent(fixed, batch), spikes=[population])
        yield record.spikes[population]


def learn_from(network: IntegerNetwork, batches: Iterable[Array], engine: str = "auto") -> IntegerNetwork:
    """The network after its rules saw every sample once, one after the other, in one lane, as a device would.

    Args:
        network: with plastic connections.
        batches: spikes (N, T, n_in) of the first input; membranes and traces go on from sample to sample.
        engine: see `simulator.make_simulator`.
    """
    simulator = make_simulator(network, engine=engine)
    for spikes in batches:
        x = np.asarray(spikes).reshape(1, -1, network.inputs[0].size)
        simulator.run(with_silent(network, x), spikes=False)
    return relearned(network, {name: simulator.weights(name)[0] for name in plastic_names(network)})


def with_silent(network: IntegerNetwork, spikes: Array) -> dict[str, Array]:
    """`spikes` (B, T, n) for the network's first input, silence for the others."""
    first, *others = network.inputs
    return {first.name: spikes} | {i.name: np.zeros((*spikes.shape[:2], i.size), np.int8) for i in others}


def _upstream(network: IntegerNetwork, population: str) -> IntegerNetwork:
    """What a population's spikes depend on; nothing learns, so that modulators do not count."""
    needed = {population}
    while more := {c.pre for c in network.connections if c.post in needed} - needed:
        needed |= more
    populations = [p for p in network.populations if p.name in needed]
    return replace(network, populations=populations, connections=[c for c in network.connections if c.post in needed])


def _threshold(network: IntegerNetwork, layer: LIF, vth: int) -> IntegerNetwork:
    populations = [replace(layer, vth=vth) if p.name == layer.name else p for p in network.populations]
    return replace(network, populations=populations)


def _with_weights(network: IntegerNetwork, weights: Mapping[str, Array], freeze: bool) -> IntegerNetwork:
    plastic = [c.name for c in network.connections if c.rule is not None]
    if unknown := sorted(set(weights) - set(plastic)):
        raise ConfigError(f"{unknown[0]!r} is not a plastic connection; there are {', '.join(plastic) or 'none'}")
    connections = []
    for c in network.connections:
        rule = c.rule
        if rule is not None:
            found = np.asarray(weights.get(c.name, c.weights))
            if found.shape == (1, *c.weights.shape):
                found = found[0]
            if found.shape != c.weights.shape:
                raise ConfigError(f"weights of {c.name!r} must be {c.weights.shape}, found {found.shape}")
            bits = 9 if c.sign == "mixed" else 8  # learned weights need not be even
            c = replace(c, weights=found, bits=bits)
            if freeze:
                nowhere = {"y0": c.post} if c.modulators else {}
                c = replace(c, rule=replace(NEVER, three_factor=rule.three_factor), modulators=nowhere)
        connections.append(c)
    return replace(network, connections=connections)
