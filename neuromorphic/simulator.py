"""The integer simulator in numpy: a batch of independent lanes, bit-equal with Lava 0.10.0's fixed-point models.

    record = Simulator(network, batch=32).run({"pixels": spikes})   # spikes: (32, T, 784)
    record.spikes["hidden"]                                         # (32, T, 256)

Inside a step every connection hands over what it buffered, populations fire, and connections read the spikes just
fired: a spike needs one step per connection. Sources mirrored: lava/proc/{lif,dense,graded}/models.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgessl.errors import ConfigError, InputError
from neuromorphic.learning import Plasticity
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.neurons import make_neurons
from neuromorphic.record import Choice, Record, check_budget, check_state, empty_record, keep_still, state_bytes

if TYPE_CHECKING:
    from neuromorphic.compiled import CompiledSimulator


def shift(total: np.ndarray, exponent: int) -> np.ndarray:
    """Total << exponent or >> -exponent (floor), kept to 32 bits."""
    return (total << exponent if exponent > 0 else total >> -exponent).astype(np.int32)


class Simulator:
    """Runs a network in numpy; call `run` as often as you like, it goes on where it was.

    Args:
        network: what to run.
        batch: lanes, each a copy of the network with its own state; plastic connections have weights per lane.
        max_bytes: refuse a state or a record larger than this.

    Raises:
        BudgetError: the state does not fit into max_bytes.
    """

    def __init__(self, network: IntegerNetwork, batch: int = 1, max_bytes: int = 1 << 30) -> None:
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, found {batch}")
        self.network, self.batch, self.max_bytes = network, batch, max_bytes
        check_budget(state_bytes(network, batch), max_bytes, "the state", "use a smaller batch or raise max_bytes")
        self._synapses = {c.name: _Synapses(c, network, batch) for c in network.connections}
        self._neurons = {p.name: make_neurons(p, batch) for p in network.populations}
        self._modulators = {c.name: network.modulators(c) for c in network.connections}
        self.time = 0

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        spikes: Choice = True,
        u: Choice = False,
        v: Choice = False,
        weight_history: bool = False,
    ) -> Record:
        """Advance by the inputs' number of steps.

        Args:
            inputs: name -> (batch, steps, n) integers, or booleans.
            spikes: populations whose spikes to keep: True (all), False or names; `u` and `v` likewise.
            u: see `spikes`.
            v: see `spikes`.
            weight_history: keep every plastic weight after every step (small networks only).

        Raises:
            InputError: an input does not fit; nothing has advanced.
            BudgetError: the record would not fit into max_bytes; nothing has advanced.
        """
        given = self.network.check_inputs(inputs)
        batch, steps = next(iter(given.values())).shape[:2]
        if batch != self.batch:
            raise InputError(f"inputs have {batch} lanes, this simulator {self.batch}; build it with batch={batch}")
        record, _ = empty_record(self.network, batch, steps, self.max_bytes, spikes, u, v, weight_history)
        plastic = {name: s.plasticity for name, s in self._synapses.items() if s.plasticity is not None}
        for plasticity in plastic.values():
            plasticity.evaluated[...] = plasticity.changed[...] = 0
        for t in range(steps):
            self._step({name: array[:, t] for name, array in given.items()}, record, t)
        for name, plasticity in plastic.items():
            record.weights[name] = plasticity.weights.transpose(0, 2, 1).astype(np.int16)
            record.counts.rule_evaluations[name] = plasticity.evaluated.copy()
            record.counts.weight_changes[name] = plasticity.changed.copy()
        keep_still(self.network, record, batch)
        return record

    def _step(self, fired: dict[str, np.ndarray], record: Record, t: int) -> None:
        self.time += 1
        counts = record.counts
        arriving: dict[tuple[str, str], np.ndarray] = {}
        for c in self.network.connections:
            key, handed = (c.post, c.port), self._synapses[c.name].hand_over()
            arriving[key] = arriving[key] + handed if key in arriving else handed
        silent: dict[int, np.ndarray] = {}
        for p in self.network.populations:
            zero = silent.setdefault(p.size, np.zeros((self.batch, p.size), np.int32))
            a, target = arriving.get((p.name, "a"), zero), arriving.get((p.name, "target"), zero)
            neurons = self._neurons[p.name]
            fired[p.name] = neurons.step(a, target, self.time)
            driven = np.count_nonzero((a != 0) | (target != 0), axis=1)
            counts.driven_updates[p.name] += driven
            counts.idle_updates[p.name] += p.size - driven
            if p.name in record.spikes:
                record.spikes[p.name][:, t] = fired[p.name]
            if p.name in record.u:
                record.u[p.name][:, t] = neurons.u
            if p.name in record.v:
                record.v[p.name][:, t] = neurons.v
        for name, array in fired.items():
            counts.spikes[name] += np.count_nonzero(array, axis=1)
        for c in self.network.connections:
            synapses = self._synapses[c.name]
            counts.synaptic_operations[c.name] += synapses.take(fired[c.pre])
            if synapses.plasticity is not None:
                pre = fired[c.pre] if c.payload_bits else fired[c.pre] != 0
                modulators = self._modulators[c.name]
                gate, outside = fired[c.post], None
                if c.rule is not None and c.rule.three_factor:
                    sent = {trace: self._modulator(source, fired) for trace, source in modulators.items()}
                    none = np.zeros((self.batch, len(c.weights)), np.int64)
                    gate = sent.get("y0", none)
                    outside = np.stack([sent.get(trace, none) for trace in ("y1", "y2", "y3")])
                synapses.plasticity.step(self.time, pre, gate, outside)
                if c.name in record.weight_history:
                    record.weight_history[c.name][:, t] = synapses.plasticity.weights.transpose(0, 2, 1)

    def _modulator(self, source: str, fired: dict[str, np.ndarray]) -> np.ndarray:
        name, _, port = source.partition(".")
        spikes = fired[name].astype(np.int64)
        if not port:
            return spikes
        return {"y0": self._neurons[name].gate, "y1": np.maximum(spikes, 0), "y2": np.maximum(-spikes, 0)}.get(
            port, np.zeros_like(spikes)
        )

    def weights(self, connection: str) -> np.ndarray:
        """(batch, n_post, n_pre) int16, as they are now; of a static connection (1, n_post, n_pre)."""
        plasticity = self._synapses[connection].plasticity
        if plasticity is None:
            return self.network.connection(connection).weights[None]
        return plasticity.weights.transpose(0, 2, 1).astype(np.int16)

    def reset(self, keep_weights: bool = False) -> None:
        """Back to step 0: membranes, buffers, traces, random streams, and learned weights unless they are kept."""
        self.time = 0
        for neurons in self._neurons.values():
            neurons.reset()
        for synapses in self._synapses.values():
            synapses.buffer[...] = 0
            if synapses.plasticity is not None:
                synapses.plasticity.reset(keep_weights)

    def state(self) -> dict[str, np.ndarray]:
        """A copy of everything that changes, as named arrays; `restore` takes it back, of either simulator."""
        arrays: dict[str, np.ndarray] = {"time": np.asarray(self.time)}
        for name, neurons in self._neurons.items():
            arrays |= {f"{name}.u": neurons.u.copy(), f"{name}.v": neurons.v.copy()}
        for name, synapses in self._synapses.items():
            arrays[f"{name}.buffer"] = synapses.buffer.copy()
            if synapses.plasticity is not None:
                arrays |= {f"{name}.{key}": value for key, value in synapses.plasticity.state().items()}
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a state of the same network and batch.

        Raises:
            StateMismatchError: names or shapes differ; nothing was changed.
        """
        check_state(self.state(), state)
        self.time = int(state["time"])
        for name, neurons in self._neurons.items():
            neurons.u[...], neurons.v[...] = state[f"{name}.u"], state[f"{name}.v"]
        for name, synapses in self._synapses.items():
            synapses.buffer[...] = state[f"{name}.buffer"]
            if synapses.plasticity is not None:
                keys = synapses.plasticity.state()
                synapses.plasticity.restore({key: state[f"{name}.{key}"] for key in keys})


def engines() -> tuple[str, ...]:
    """The simulators that can run here: "numpy", and "compiled" where numba is installed."""
    return ("numpy", "compiled") if importlib.util.find_spec("numba") else ("numpy",)


def make_simulator(
    network: IntegerNetwork, batch: int = 1, engine: str = "auto", max_bytes: int = 1 << 30
) -> Simulator | CompiledSimulator:
    """A simulator by name; all of them compute the same numbers.

    Args:
        network: what to run.
        batch: lanes.
        engine: "numpy", "compiled", or "auto": the fastest that is installed.
        max_bytes: see `Simulator`.

    Raises:
        ConfigError: no such engine.
        MissingDependencyError: "compiled" without numba.
    """
    if engine not in ("auto", "numpy", "compiled"):
        raise ConfigError(f"engine must be auto, numpy or compiled, found {engine!r}")
    if engine == "numpy" or (engine == "auto" and "compiled" not in engines()):
        return Simulator(network, batch, max_bytes)
    from neuromorphic.compiled import CompiledSimulator

    return CompiledSimulator(network, batch, max_bytes)


class _Synapses:
    """One connection: its buffer is (1 + max_delay, batch, n_post); row 0 is handed over next."""

    def __init__(self, c: Connection, network: IntegerNetwork, batch: int) -> None:
        self.c = c
        self.buffer = np.zeros((c.max_delay + 1, batch, len(c.weights)), np.int32)
        self.plasticity = Plasticity(c, batch) if c.learns else None
        self.fan_out = np.full(c.weights.shape[1], len(c.weights)) if c.learns else np.count_nonzero(c.weights, axis=0)
        limit = 1
        if c.payload_bits:
            limit = (
                next((i.limit for i in network.inputs if i.name == c.pre), 0) or network.population(c.pre).spike_limit
            )
        largest = int(np.abs(c.weights).sum(1, dtype=np.int64).max()) * limit
        # a matrix product of integers is exact in floats that hold the largest sum, and far faster than in integers
        self._dtype = np.float32 if largest < 1 << 24 else np.float64 if largest < 1 << 53 else np.int64
        self._matrices: list[tuple[int, np.ndarray]] = []
        if not c.learns:
            for delay in [0] if c.delays is None else np.unique(c.delays):
                part = c.weights if c.delays is None else np.where(c.delays == delay, c.weights, 0)
                self._matrices.append((int(delay), np.ascontiguousarray(part.T, self._dtype)))

    def hand_over(self) -> np.ndarray:
        """(batch, n_post) int32 for this step; the buffer moves on."""
        out = self.buffer[0].copy()
        self.buffer[:-1] = self.buffer[1:]
        self.buffer[-1] = 0
        return out

    def take(self, fired: np.ndarray) -> np.ndarray:
        """Read the spikes just fired, (batch, n_pre); returns synaptic operations per lane."""
        c, active = self.c, fired != 0
        spikes = fired if c.payload_bits else active
        if self.plasticity is not None:
            for lane in range(len(fired)):
                rows = np.flatnonzero(active[lane])
                columns = self.plasticity.weights[lane, rows]
                total = (
                    columns.sum(0, dtype=np.int64)
                    if not c.payload_bits
                    else spikes[lane, rows].astype(np.int64) @ columns
                )
                self.buffer[0, lane] = shift(self._keep(total), c.exponent)
        else:
            for delay, matrix in self._matrices:
                if len(fired) == 1:
                    rows = np.flatnonzero(active[0])
                    picked = matrix[rows]
                    total = (picked.sum(0) if not c.payload_bits else spikes[0, rows].astype(self._dtype) @ picked)[
                        None
                    ]
                else:
                    total = spikes.astype(self._dtype) @ matrix
                self.buffer[delay] += shift(self._keep(total.astype(np.int64)), c.exponent)
        operations: np.ndarray = active @ self.fan_out
        return operations

    def _keep(self, total: np.ndarray) -> np.ndarray:
        # Lava sums payloads in 32 bits (with delays: in 64), before the shift
        return total.astype(np.int32) if self.c.payload_bits and self.c.delays is None else total
