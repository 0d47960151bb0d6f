"""A ledger of exact counts, apart from what they cost: synaptic operations, updates, spikes, learning, host traffic.

    counted = ledger(network, record)                # of a simulator's run: nothing is estimated here
    twin = dense_twin(network, samples=len(spikes))  # the same layers as an int8 network without spikes
    priced = price(counted, table("loihi1-2018-presilicon"))     # neuromorphic.prices

Counts are integers over a whole run; divide by `samples` for one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgessl.errors import ConfigError
from neuromorphic.network import IntegerNetwork
from neuromorphic.populations import LIF, ErrorUnit, Graded, TernaryLIF
from neuromorphic.record import Record

TERMS = {
    "synaptic_operation": "a spike of magnitude 1 added through a nonzero synapse",
    "graded_operation": "a graded spike multiplied and added through a nonzero synapse",
    "driven_update": "a neuron update with synaptic input",
    "idle_update": "a neuron update without",
    "spike": "a spike sent by a neuron",
    "spike_hop": "a spike carried from one tile to the next",
    "weight_update": "a learning rule evaluated for one synapse",
    "host_write": "a spike or value sent in by the host",
    "host_read": "a spike or value read out by the host",
    "multiply_accumulate": "an int8 product added to an int32 sum, of a network without spikes",
    "weight_byte": "a byte of weights read",
    "state_byte": "a byte of neuron state or activation read or written",
}
"""Everything a ledger may count. The last three are memory traffic and arithmetic of a plain processor."""
ON_CHIP = ("synaptic_operation", "graded_operation", "driven_update", "idle_update", "spike", "spike_hop",
           "weight_update", "host_write", "host_read")  # fmt: skip
STATE_BYTES = 12  # u and v, 24 bits each, read and written


@dataclass(frozen=True)
class Ledger:
    """Counts of one run.

    Attributes:
        subject: what ran.
        samples: lanes of the run.
        steps: time steps per sample; 0 for a network without time.
        counts: term -> count over all samples; a term that is absent did not occur.
        parts: term -> population or connection -> count, where a term has parts.
        memory_bytes: what weights and states occupy, which decides the memory they lie in.
    """

    subject: str
    samples: int
    steps: int
    counts: Mapping[str, int]
    parts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.counts) - set(TERMS)):
            raise ConfigError(f"ledger term {unknown[0]!r}; known are {', '.join(TERMS)}")
        if self.samples < 1:
            raise ConfigError(f"a ledger needs at least 1 sample, found {self.samples}")

    def per_sample(self, term: str) -> float:
        """Mean count of one sample."""
        return self.counts.get(term, 0) / self.samples

    def only(self, terms: Sequence[str], subject: str = "") -> Ledger:
        """The same ledger with some of its terms."""
        counts = {term: count for term, count in self.counts.items() if term in terms}
        parts = {term: found for term, found in self.parts.items() if term in terms}
        return Ledger(subject or self.subject, self.samples, self.steps, counts, parts, self.memory_bytes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "subject": self.subject,
            "samples": self.samples,
            "steps": self.steps,
            "counts": dict(self.counts),
            "parts": {term: dict(found) for term, found in self.parts.items()},
            "memory_bytes": self.memory_bytes,
        }


def ledger(
    network: IntegerNetwork,
    record: Record,
    *,
    read_out: Sequence[str] | None = None,
    hops: float = 0.0,
) -> Ledger:
    """What a run of the simulator did, from its counts.

    Memory traffic is counted as a processor without caches would have it: the bytes of a weight per synaptic operation
    and the state of a neuron per update, idle or not.

    Args:
        network: what ran.
        record: of `Simulator.run`.
        read_out: populations whose spikes the host reads; the ones without outgoing connections otherwise.
        hops: mean number of tile borders that a spike crosses, known only of a placed network.

    Raises:
        ConfigError: a name is not a population, or hops are negative.
    """
    counts = record.counts
    names = [p.name for p in network.populations]
    senders = {c.pre for c in network.connections}
    read = [name for name in names if name not in senders] if read_out is None else list(read_out)
    if unknown := sorted(set(read) - set(names)):
        raise ConfigError(f"cannot read out {unknown[0]!r}; populations are {', '.join(names)}")
    if hops < 0:
        raise ConfigError(f"hops must be 0 or more, found {hops}")
    parts: dict[str, dict[str, int]] = {term: {} for term in ON_CHIP}
    weight_bytes: dict[str, int] = {}
    for c in network.connections:
        done = _total(counts.synaptic_operations[c.name])
        parts["graded_operation" if is_graded(network, c.name) else "synaptic_operation"][c.name] = done
        weight_bytes[c.name] = done * _weight_bytes(c.bits)
        if c.learns:  # a frozen connection's rule, which changes nothing, would not run
            parts["weight_update"][c.name] = _total(counts.rule_evaluations[c.name])
            weight_bytes[c.name] += 2 * parts["weight_update"][c.name] * _weight_bytes(c.bits)
    for name in names:
        parts["driven_update"][name] = _total(counts.driven_updates[name])
        parts["idle_update"][name] = _total(counts.idle_updates[name])
        parts["spike"][name] = _total(counts.spikes[name])
    parts["host_write"] = {i.name: _total(counts.spikes[i.name]) for i in network.inputs}
    parts["host_read"] = {name: parts["spike"][name] for name in read}
    updates = {name: parts["driven_update"][name] + parts["idle_update"][name] for name in names}
    parts["weight_byte"] = weight_bytes
    parts["state_byte"] = {name: STATE_BYTES * n for name, n in updates.items()}
    if hops:
        parts["spike_hop"] = {name: round(hops * n) for name, n in parts["spike"].items()}
    totals = {term: sum(found.values()) for term, found in parts.items()}
    samples = len(next(iter(counts.spikes.values())))
    kept = {term: n for term, n in totals.items() if n}
    return Ledger("spiking", samples, counts.steps, kept, {t: parts[t] for t in kept}, memory_bytes(network))


def dense_twin(network: IntegerNetwork, samples: int, *, passes: int = 1) -> Ledger:
    """The same layers as an int8 network without spikes: every weight once per pass, every activation written and read.

    Args:
        network: whose connections; convolutions that were lowered count as the dense matrices that they are here.
        samples: how many.
        passes: 1 for a network that sees a sample at once; the number of steps for one that must follow it in time.

    Raises:
        ConfigError: a number is below 1.
    """
    if passes < 1:
        raise ConfigError(f"passes must be at least 1, found {passes}")
    runs = samples * passes
    products = {c.name: int(c.weights.size) * runs for c in network.connections}
    activations = {c.name: sum(c.weights.shape) * runs for c in network.connections}
    senders = {c.pre for c in network.connections}
    parts = {
        "multiply_accumulate": products,
        "weight_byte": dict(products),
        "state_byte": activations,
        "host_write": {i.name: i.size * runs for i in network.inputs},
        "host_read": {p.name: p.size * runs for p in network.populations if p.name not in senders},
    }
    totals = {term: n for term, found in parts.items() if (n := sum(found.values()))}
    occupied = sum(c.weights.size for c in network.connections) + sum(network.sizes.values())
    return Ledger(
        "dense int8 twin", samples, 0 if passes == 1 else passes, totals, {t: parts[t] for t in totals}, int(occupied)
    )


def is_graded(network: IntegerNetwork, connection: str) -> bool:
    """Whether a connection multiplies payloads: values other than -1, 0 and 1 can come through it."""
    c = network.connection(connection)
    if not c.payload_bits:
        return False
    for spec in network.inputs:
        if spec.name == c.pre:
            return spec.limit > 1
    return isinstance(network.population(c.pre), Graded | ErrorUnit)


def memory_bytes(network: IntegerNetwork) -> int:
    """Weights in whole bytes, biases (4), thresholds and decays of a population (12), u and v (3 each), traces (1)."""
    found = 0
    for c in network.connections:
        found += c.weights.size * _weight_bytes(c.bits) + (0 if c.delays is None else c.weights.size)
        found += 0 if not c.learns else 2 * c.weights.shape[1] + 3 * c.weights.shape[0]
    for p in network.populations:
        found += 0 if isinstance(p, Graded) else 6 * p.size
        found += 12 + (4 * p.size if isinstance(p, LIF) and np.any(p.bias) else 0)
    return int(found)


def neurobench(network: IntegerNetwork, record: Record) -> dict[str, Any]:
    """The complexity metrics of NeuroBench (Yik et al. 2025), under its names and by its definitions.

    Footprint is `memory_bytes` of the integers, not of a torch module's float32. SynapticOperations and MembraneUpdates
    are means per sample. An operation is an AC where the spikes coming in are -1, 0 or 1, else a MAC. Membrane updates
    count voltages that are not what they were a step before, all of them at the first step; they need voltages.

    Args:
        network: what ran.
        record: of a run from rest, with `v=True`; without voltages MembraneUpdates is None.
    """
    weights = [c.weights for c in network.connections]
    parameters = sum(w.size for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    samples = len(next(iter(record.counts.spikes.values())))
    activations = [record.counts.spikes[p.name] for p in network.populations]
    neurons = sum(p.size for p in network.populations) * record.counts.steps * samples
    operations = {"Effective_MACs": 0.0, "Effective_ACs": 0.0, "Dense": float(parameters * record.counts.steps)}
    for c in network.connections:
        kind = "Effective_MACs" if is_graded(network, c.name) else "Effective_ACs"
        operations[kind] += _total(record.counts.synaptic_operations[c.name]) / samples
    spiking = [p.name for p in network.populations if isinstance(p, LIF | TernaryLIF)]
    updates: float | None = None
    if all(name in record.v for name in spiking):
        voltages = [record.v[name] for name in spiking]
        changed = sum(v[:, 0].size + int(np.count_nonzero(v[:, 1:] != v[:, :-1])) for v in voltages)
        updates = changed / samples
    return {
        "Footprint": memory_bytes(network),
        "ParameterCount": parameters,
        "ConnectionSparsity": round(zeros / parameters, 4),
        "ActivationSparsity": 1 - sum(map(_total, activations)) / neurons,
        "SynapticOperations": operations,
        "MembraneUpdates": updates,
    }


def _weight_bytes(bits: int) -> int:
    return 1 if bits <= 8 else 2


def _total(counts: np.ndarray) -> int:
    return int(counts.sum())
