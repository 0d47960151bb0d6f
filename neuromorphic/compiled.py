"""The integer simulator compiled with numba: the numpy one's results bit for bit, hundreds of times faster.

    record = CompiledSimulator(network, batch=256).run({"pixels": spikes})

Needs the extra `compiled` (numba). Work follows events: only the synapses of neurons that fired are touched, and of a
plastic connection only those that a product can move. Lanes are shared out over threads, without changing results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, InputError, MissingDependencyError
from neuromorphic.learning import RandomStreams
from neuromorphic.network import IntegerNetwork
from neuromorphic.populations import Graded
from neuromorphic.record import (
    Choice,
    Record,
    RecordArrays,
    check_budget,
    check_state,
    empty_record,
    keep_still,
    state_bytes,
)

try:
    from neuromorphic import kernel_tables, kernels
    from neuromorphic.compiled_tables import tabulate
except ModuleNotFoundError as error:  # only numba can be missing here
    if error.name != "numba":
        raise
    raise MissingDependencyError("numba is not installed; run: pip install 'edgessl[compiled]'") from error


def _int(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64).reshape(-1)


class CompiledSimulator:
    """Same arguments, methods and results as `neuromorphic.simulator.Simulator`.

    Args:
        network: what to run.
        batch: lanes.
        max_bytes: refuse a state or a record larger than this.
        threads: that share the lanes; 0: as many as this process may use cores.

    Raises:
        BudgetError: the state does not fit into max_bytes.
    """

    _state: kernel_tables.State

    def __init__(self, network: IntegerNetwork, batch: int = 1, max_bytes: int = 1 << 30, threads: int = 0) -> None:
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, found {batch}")
        self.network, self.batch, self.max_bytes = network, batch, max_bytes
        check_budget(state_bytes(network, batch), max_bytes, "the state", "use a smaller batch or raise max_bytes")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = min(threads or cores, batch)
        self._starts: dict[str, int] = {}  # where a part's spikes lie: inputs, then populations
        start = 0
        for name, size in network.sizes.items():
            self._starts[name], start = start, start + size
        self._width, self._inputs = start, sum(i.size for i in network.inputs)
        self._plastic = [c for c in network.connections if c.learns]
        self._net = tabulate(network)
        self.reset()

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        spikes: Choice = True,
        u: Choice = False,
        v: Choice = False,
        weight_history: bool = False,
    ) -> Record:
        """Advance by the inputs' number of steps; see `Simulator.run`."""
        given = self.network.check_inputs(inputs)
        batch, steps = next(iter(given.values())).shape[:2]
        if batch != self.batch:
            raise InputError(f"inputs have {batch} lanes, this simulator {self.batch}; build it with batch={batch}")
        record, arrays = empty_record(self.network, batch, steps, self.max_bytes, spikes, u, v, weight_history)
        arriving = list(given.values())
        joined = arriving[0] if len(arriving) == 1 else np.concatenate(arriving, 2)
        sizes = len(self._starts), len(self.network.connections), len(self.network.populations), 2 * len(self._plastic)
        counts = np.zeros((batch, sum(sizes)), np.int64)
        stride = 1 if weight_history else max(steps, 1)  # a history is read between kernel calls
        for begin in range(0, steps, stride):
            self._advance(joined[:, begin : begin + stride], arrays, begin, counts)
            for connection in self._plastic if weight_history else ():
                record.weight_history[connection.name][:, begin] = self.weights(connection.name)
        self._unpack_counts(record, counts)
        for connection in self._plastic:
            record.weights[connection.name] = self.weights(connection.name)
        keep_still(self.network, record, batch)
        return record

    def _advance(self, spikes: np.ndarray, arrays: RecordArrays, begin: int, counts: np.ndarray) -> None:
        steps = spikes.shape[1]
        epochs = [(self.time + steps) // c.rule.t_epoch - self.time // c.rule.t_epoch for c in self._plastic if c.rule]
        drawn = [stream.traces(2 * steps) for stream in self._streams]
        random = kernel_tables.Random(
            np.stack([d for d, _ in drawn]) if drawn else np.zeros((0, 2, 0)),
            np.stack([i for _, i in drawn]) if drawn else np.zeros((0, 2, 0), np.int64),
            np.concatenate([s.synapses(n) for s, n in zip(self._streams, epochs, strict=True)] or [np.zeros(0)]),
            _int(np.concatenate([[0], np.cumsum(epochs)])),
        )
        names = [p.name for p in self.network.populations]
        kinds = ("small", "graded", "u", "v")
        columns = np.asarray([[arrays.offsets[what].get(name, -1) for what in kinds] for name in names], np.int64)
        out = kernel_tables.Out(arrays.small, arrays.graded, arrays.u, arrays.v, columns, begin)
        edges = np.linspace(0, self.batch, self.threads + 1).astype(int)

        def work(k: int) -> None:
            kernels.run(
                spikes, self.time, edges[k], edges[k + 1], self._net, random, self._state, out, counts,
            )  # fmt: skip

        if self.threads == 1:
            work(0)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, range(self.threads)))
        self.time += steps

    def _unpack_counts(self, record: Record, counts: np.ndarray) -> None:
        columns = iter(counts.T.copy())
        told = record.counts
        for name in self._starts:
            told.spikes[name] = next(columns)
        for c in self.network.connections:
            told.synaptic_operations[c.name] = next(columns)
        for p in self.network.populations:
            told.driven_updates[p.name] = next(columns)
            told.idle_updates[p.name] = p.size * told.steps - told.driven_updates[p.name]
        for c in self._plastic:
            told.rule_evaluations[c.name] = next(columns)
            told.weight_changes[c.name] = next(columns)

    def weights(self, connection: str) -> np.ndarray:
        """(batch, n_post, n_pre) int16, as they are now; of a static connection (1, n_post, n_pre)."""
        for k, c in enumerate(self._plastic):
            if c.name == connection:
                return np.ascontiguousarray(self._own(k)["weights"].transpose(0, 2, 1))
        return self.network.connection(connection).weights[None]

    def reset(self, keep_weights: bool = False) -> None:
        """Back to step 0; see `Simulator.reset`."""
        batch, network = self.batch, self.network
        learned = (self._state.weights, self._state.tags) if keep_weights else None
        neurons = sum(p.size for p in network.populations)
        rings = sum((c.max_delay + 1) * len(c.weights) for c in network.connections)
        tags = sum(c.weights.size for c in self._plastic if c.rule and c.rule.dt)
        n_pre, n_post = sum(c.weights.shape[1] for c in self._plastic), sum(len(c.weights) for c in self._plastic)
        initial = np.concatenate([c.weights.T.ravel() for c in self._plastic] or [np.zeros(0, np.int16)])
        self._state = kernel_tables.State(
            np.zeros((batch, neurons), np.int32),
            np.zeros((batch, neurons), np.int32),
            np.zeros((batch, rings), np.int32),
            learned[0] if learned else np.repeat(initial[None], batch, 0),
            learned[1] if learned else np.zeros((batch, tags), np.int16),
            np.zeros((batch, 2 * n_pre), np.int32),
            np.zeros((batch, 3 * n_post), np.int32),
            np.zeros((batch, n_pre), np.int32),
            np.zeros((batch, n_post), np.int32),
        )
        self._streams = [RandomStreams(c.rule.seed) for c in self._plastic if c.rule]
        self.time = 0

    def state(self) -> dict[str, np.ndarray]:
        """A copy of everything that changes, in the numpy simulator's arrays; either takes the other's."""
        arrays: dict[str, np.ndarray] = {"time": np.asarray(self.time)}
        for p in self.network.populations:
            u, v = self._registers(p.name)
            arrays |= {f"{p.name}.u": u.copy(), f"{p.name}.v": v.copy()}
        for number, c in enumerate(self.network.connections):
            # the numpy simulator's row 0 is the next to be handed over
            arrays[f"{c.name}.buffer"] = np.roll(self._ring(number), -(self.time % (c.max_delay + 1)), 0)
        for k, c in enumerate(self._plastic):
            own = self._own(k)
            for name in ("weights", "tags"):
                arrays[f"{c.name}.{name}"] = own[name].astype(np.int32)
            arrays |= {f"{c.name}.{name}": own[name].transpose(1, 0, 2).astype(np.int64) for name in ("x", "y")}
            arrays |= {f"{c.name}.{name}": own[name].astype(np.int64) for name in ("tx", "ty")}
            arrays[f"{c.name}.streams"] = self._streams[k].state()
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a state of the same network and batch; see `Simulator.restore`."""
        check_state(self.state(), state)
        self.time = int(state["time"])
        for p in self.network.populations:
            u, v = self._registers(p.name)
            u[...], v[...] = state[f"{p.name}.u"], state[f"{p.name}.v"]
        for number, c in enumerate(self.network.connections):
            self._ring(number)[...] = np.roll(state[f"{c.name}.buffer"], self.time % (c.max_delay + 1), 0)
        for k, c in enumerate(self._plastic):
            own = self._own(k)
            for name in ("weights", "tags", "tx", "ty"):
                own[name][...] = state[f"{c.name}.{name}"]
            for name in ("x", "y"):
                own[name][...] = state[f"{c.name}.{name}"].transpose(1, 0, 2)
            self._streams[k].restore(state[f"{c.name}.streams"])

    def _registers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        population, start = self.network.population(name), self._starts[name] - self._inputs
        size = 0 if isinstance(population, Graded) else population.size  # a graded one has no state
        return self._state.u[:, start : start + size], self._state.v[:, start : start + size]

    def _ring(self, number: int) -> np.ndarray:
        """A view (depth, batch, n_post)."""
        depth, start = int(self._net.synapses[number]["depth"]), int(self._net.synapses[number]["ring"])
        size = len(self.network.connections[number].weights)
        flat = self._state.buffer[:, start : start + depth * size]
        return flat.reshape(self.batch, depth, size).transpose(1, 0, 2)

    def _own(self, k: int) -> dict[str, np.ndarray]:
        """Views on plastic connection k's state, a row per lane."""
        n_post, n_pre = self._plastic[k].weights.shape
        st, batch = self._state, self.batch
        x, y, w, t = (int(self._net.rules[k][name]) for name in ("x", "y", "weights", "tags"))
        tags = st.tags[:, t : t + n_pre * n_post].reshape(batch, n_pre, n_post) if t >= 0 else st.tags[:, :0, None]
        return {
            "weights": st.weights[:, w : w + n_pre * n_post].reshape(batch, n_pre, n_post),
            "tags": tags if t >= 0 else np.zeros((batch, 0, 0), np.int16),
            "x": st.x[:, 2 * x : 2 * (x + n_pre)].reshape(batch, 2, n_pre),
            "y": st.y[:, 3 * y : 3 * (y + n_post)].reshape(batch, 3, n_post),
            "tx": st.tx[:, x : x + n_pre],
            "ty": st.ty[:, y : y + n_post],
        }
