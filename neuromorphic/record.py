"""What a run leaves: spikes, currents, voltages, weights and exact counts, within a memory budget; and states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgessl.errors import BudgetError, ConfigError, StateMismatchError
from neuromorphic.network import IntegerNetwork
from neuromorphic.populations import Graded, Population

Choice = bool | Sequence[str]


@dataclass
class Counts:
    """Exact numbers of operations, per lane: name -> (batch,) int64.

    Attributes:
        steps: time steps of the run.
        spikes: nonzero spikes of every input and population.
        synaptic_operations: per connection, spikes times their nonzero synapses (plastic ones: all synapses).
        driven_updates: per population, neuron updates with input from a synapse; the others were idle.
        idle_updates: per population, neuron updates without.
        rule_evaluations: per plastic connection, synapses for which the learning rule was computed.
        weight_changes: per plastic connection, weights that became another number.
    """

    steps: int
    spikes: dict[str, np.ndarray]
    synaptic_operations: dict[str, np.ndarray]
    driven_updates: dict[str, np.ndarray]
    idle_updates: dict[str, np.ndarray]
    rule_evaluations: dict[str, np.ndarray]
    weight_changes: dict[str, np.ndarray]


@dataclass
class Record:
    """What a run left.

    Attributes:
        spikes: population -> (batch, steps, n), int8 or, where graded, int32; of an error unit y1 - y2.
        u: population -> (batch, steps, n) int32 currents after each step; of an error unit p.
        v: population -> (batch, steps, n) int32 voltages after reset; of an error unit t.
        weights: plastic connection -> (batch, n_post, n_pre) int16 after the run.
        weight_history: plastic connection -> (batch, steps, n_post, n_pre) int16 after each step, where asked for.
        counts: operations of this run.
    """

    spikes: dict[str, np.ndarray]
    u: dict[str, np.ndarray]
    v: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    counts: Counts
    weight_history: dict[str, np.ndarray] = field(default_factory=dict)


def spike_dtype(population: Population) -> type:
    """int8 where spikes fit, else int32."""
    return np.int8 if population.spike_limit <= 127 else np.int32


def choose(network: IntegerNetwork, choice: Choice, what: str) -> list[str]:
    """Names of the populations to record: all, none, or those named.

    Raises:
        ConfigError: a name is not a population.
    """
    names = [p.name for p in network.populations]
    if isinstance(choice, bool):
        return names if choice else []
    if unknown := sorted(set(choice) - set(names)):
        raise ConfigError(f"cannot record {what} of {unknown[0]!r}; populations are {', '.join(names)}")
    return [name for name in names if name in choice]


def state_bytes(network: IntegerNetwork, batch: int) -> int:
    """What a simulator of this network holds: per-lane state and the weights."""
    neurons = sum(p.size for p in network.populations) * 8
    lanes = sum(
        len(c.weights) * 4 * (c.max_delay + 1) + (c.weights.size * 4 if c.learns else 0) for c in network.connections
    )
    fixed = sum(c.weights.size * 4 for c in network.connections)
    return batch * (neurons + lanes) + fixed


def check_budget(needed: int, allowed: int, what: str, advice: str) -> None:
    """Refuse what does not fit.

    Raises:
        BudgetError: says how much is needed, how much is allowed and what to do.
    """
    if needed > allowed:
        raise BudgetError(f"{what} needs {needed / 2**20:.1f} MiB, allowed are {allowed / 2**20:.1f} MiB; {advice}")


@dataclass
class RecordArrays:
    """The arrays behind a record: populations side by side on the last axis, `offsets` where each begins."""

    small: np.ndarray
    graded: np.ndarray
    u: np.ndarray
    v: np.ndarray
    offsets: dict[str, dict[str, int]]


def empty_record(
    network: IntegerNetwork, batch: int, steps: int, max_bytes: int, spikes: Choice, u: Choice, v: Choice, weights: bool
) -> tuple[Record, RecordArrays]:
    """A record of zeros of the chosen size, and the arrays its views lie in.

    Raises:
        BudgetError: it would not fit.
    """
    parts = {p.name: p for p in network.populations}
    fired = choose(network, spikes, "spikes")
    chosen = {
        "small": [n for n in fired if spike_dtype(parts[n]) is np.int8],
        "graded": [n for n in fired if spike_dtype(parts[n]) is np.int32],
        "u": [n for n in choose(network, u, "u") if not isinstance(parts[n], Graded)],  # a graded one has no u and v
        "v": [n for n in choose(network, v, "v") if not isinstance(parts[n], Graded)],
    }
    plastic = [c for c in network.connections if c.rule is not None]
    width = {what: sum(parts[n].size for n in names) for what, names in chosen.items()}
    needed = batch * steps * (width["small"] + 4 * (width["graded"] + width["u"] + width["v"]))
    needed += batch * steps * 2 * sum(c.weights.size for c in plastic) * weights
    check_budget(
        needed, max_bytes, "the record", "record fewer populations, run fewer steps at a time, or raise max_bytes"
    )
    arrays: dict[str, np.ndarray] = {}
    views: dict[str, dict[str, np.ndarray]] = {}
    offsets: dict[str, dict[str, int]] = {}
    for what, names in chosen.items():
        arrays[what] = np.zeros((batch, steps, width[what]), np.int8 if what == "small" else np.int32)
        views[what], offsets[what], start = {}, {}, 0
        for name in names:
            views[what][name] = arrays[what][:, :, start : start + parts[name].size]
            offsets[what][name] = start
            start += parts[name].size
    counts = Counts(
        steps,
        {name: np.zeros(batch, np.int64) for name in network.sizes},
        {c.name: np.zeros(batch, np.int64) for c in network.connections},
        {name: np.zeros(batch, np.int64) for name in parts},
        {name: np.zeros(batch, np.int64) for name in parts},
        {c.name: np.zeros(batch, np.int64) for c in plastic},
        {c.name: np.zeros(batch, np.int64) for c in plastic},
    )
    history = {c.name: np.zeros((batch, steps, *c.weights.shape), np.int16) for c in plastic} if weights else {}
    ordered = {name: {**views["small"], **views["graded"]}[name] for name in fired}
    record = Record(ordered, views["u"], views["v"], {}, counts, history)
    return record, RecordArrays(arrays["small"], arrays["graded"], arrays["u"], arrays["v"], offsets)


def keep_still(network: IntegerNetwork, record: Record, batch: int) -> None:
    """Write the weights of frozen connections, which no simulator computes, into a record."""
    for c in network.connections:
        if c.rule is not None and not c.learns:
            record.weights[c.name] = np.repeat(c.weights[None], batch, 0)
            if c.name in record.weight_history:
                record.weight_history[c.name][...] = c.weights


def check_state(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Refuse a state that belongs to another network or batch.

    Raises:
        StateMismatchError: names the first array that differs.
    """
    if set(own) != set(given):
        odd = sorted(set(own) ^ set(given))[0]
        raise StateMismatchError(f"state array {odd!r} is on one side only; the state belongs to another network")
    for name, array in own.items():
        if not name.endswith(".streams") and np.shape(given[name]) != array.shape:
            raise StateMismatchError(
                f"state array {name!r} must have shape {array.shape}, found {np.shape(given[name])}; "
                "the state belongs to another network or batch"
            )
