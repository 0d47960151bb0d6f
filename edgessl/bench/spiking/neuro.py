"""How fast the integer simulators run beside Lava, on the same network and the same spikes, and whether they agree.

784-256-128 is a feed-forward network of LIF neurons, 784x128 one plastic connection with a two-factor STDP rule applied
at every step; inputs fire at 10 % per step. A sample-step is one step of one lane; Lava has no batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgessl.errors import ConfigError
from edgessl.machine import load_average, load_warnings, machine, versions

if TYPE_CHECKING:
    from neuromorphic.lava.client import LavaRecord
    from neuromorphic.network import IntegerNetwork

NETWORKS = ("784-256-128", "784x128 learning")
SIMULATORS = ("numpy", "compiled", "lava")
LEARNING_RULE = "2^-4*x0*y1 - 2^-4*y0*x1"
TURN_SECONDS = 0.3  # a turn repeats its run until then
Row = dict[str, Any]


def build_network(name: str, seed: int = 0) -> IntegerNetwork:
    """One of `NETWORKS`.

    Raises:
        ConfigError: no such network.
    """
    from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
    from neuromorphic.populations import LIF, Input
    from neuromorphic.rules import LearningRule

    rng = np.random.default_rng(seed)

    def weights(n_post: int, n_pre: int) -> np.ndarray:
        return quantize_weights(rng.normal(2, 40, (n_post, n_pre)), 8, "mixed")

    inputs = [Input("input", 784)]
    if name == "784-256-128":
        hidden, output = LIF("hidden", 256, du=1000, dv=400, vth=1000), LIF("output", 128, du=1000, dv=400, vth=700)
        first = Connection("input_hidden", "input", "hidden", weights(256, 784))
        return IntegerNetwork(
            inputs, [hidden, output], [first, Connection("hidden_output", "hidden", "output", weights(128, 256))]
        )
    if name == "784x128 learning":
        rule = LearningRule(LEARNING_RULE, x1_impulse=16, x1_tau=10, y1_impulse=16, y1_tau=10)
        plastic = Connection("input_output", "input", "output", weights(128, 784), rule=rule)
        return IntegerNetwork(inputs, [LIF("output", 128, du=1000, dv=400, vth=2000)], [plastic])
    raise ConfigError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")


def run(
    networks: Sequence[str] = NETWORKS,
    simulators: Sequence[str] = SIMULATORS,
    batches: Sequence[int] = (1, 256),
    *,
    steps: int = 2000,
    rate: float = 0.1,
    turns: int = 5,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every simulator on every network; spikes of all populations are recorded by each of them.

    Args:
        networks: some of `NETWORKS`.
        simulators: some of `SIMULATORS`; "lava" needs `edgessl neuro setup` and is left out, with a word, without it.
        batches: lanes; Lava runs the first lane only. A learning network takes at most 32.
        steps: at batch 1; at larger ones each lane takes a fortieth.
        rate: at which inputs fire.
        turns: how often each is measured, in alternation.
        seed: of weights and spikes.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "warnings", "skipped", "rows"}; a row has simulator, network,
        batch, steps_per_second (sample-steps; the median turn), fastest, ratio_to_lava, mismatches (spikes and final
        weights that differ from the numpy simulator's on the first 200 steps; for Lava on all of its steps), activity
        (share of neurons of the first population that fire in a step).

    Raises:
        ConfigError: an unknown name.
    """
    for given, known, what in ((networks, NETWORKS, "network"), (simulators, SIMULATORS, "simulator")):
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"unknown {what} {unknown[0]!r}; choose among {', '.join(known)}")
    load = load_average()
    rows: list[Row] = []
    skipped: list[str] = []
    for name in networks:
        cases = []
        network = build_network(name, seed)
        for simulator in simulators:
            for batch in (1,) if simulator == "lava" else batches:
                lanes = min(batch, 32) if "learning" in name else batch
                spikes = _spikes(lanes, steps if lanes == 1 else max(steps // 40, 10), rate, seed)
                try:
                    cases.append(_Case(network, name, simulator, lanes, spikes))
                except ImportError as error:  # numba or the Lava environment
                    skipped.append(f"{simulator}: {error}")
                    break
        for turn in range(turns):
            for case in cases:
                progress(f"{name}, {case.simulator}, batch {case.batch}, turn {turn + 1} of {turns}")
                case.measure()
        rows += [case.row() for case in cases]
    for row in rows:
        lava = [r["steps_per_second"] for r in rows if r["simulator"] == "lava" and r["network"] == row["network"]]
        row["ratio_to_lava"] = row["steps_per_second"] / lava[0] if lava else None
    settings = {"steps": steps, "rate": rate, "turns": turns, "seed": seed, "rule": LEARNING_RULE}
    return {
        "bench": "neuro",
        "machine": machine(),
        "versions": versions(("numpy", "numba")),
        "settings": settings,
        "warnings": load_warnings(load, 2 if max(batches) > 1 else 1),
        "skipped": sorted(set(skipped)),
        "rows": rows,
    }


def _spikes(batch: int, steps: int, rate: float, seed: int) -> np.ndarray:
    return (np.random.default_rng((seed, 1)).random((batch, steps, 784)) < rate).astype(np.int8)


class _Case:
    """One simulator on one network: checked when it is made, then measured turn by turn."""

    def __init__(self, network: IntegerNetwork, name: str, simulator: str, batch: int, spikes: np.ndarray) -> None:
        from neuromorphic.simulator import Simulator

        self.network, self.name, self.simulator, self.batch, self.spikes = network, name, simulator, batch, spikes
        self.rates: list[float] = []
        self._lava: LavaRecord | None = None
        checked = spikes if simulator == "lava" else spikes[:, :200]
        if simulator == "lava":
            from neuromorphic.lava.client import run_lava

            self._lava = run_lava(network, {"input": spikes}, probe=False)
            spiked, weights = self._lava.spikes, self._lava.weights
        else:
            record = self._build().run({"input": checked})
            spiked, weights = record.spikes, record.weights
        truth = Simulator(network, batch).run({"input": checked})
        self.mismatches = _differences(truth.spikes, spiked) + _differences(truth.weights, weights)
        self.activity = float(np.mean(truth.spikes[network.populations[0].name]))

    def _build(self) -> Any:
        from neuromorphic.simulator import Simulator

        if self.simulator == "numpy":
            return Simulator(self.network, self.batch)
        from neuromorphic.compiled import CompiledSimulator

        return CompiledSimulator(self.network, self.batch)

    def measure(self) -> None:
        """One turn; what is compiled is compiled already."""
        if self.simulator == "lava":
            from neuromorphic.lava.client import run_lava

            first = self._lava or run_lava(self.network, {"input": self.spikes}, probe=False)
            self._lava = None  # the check's run counts as the first turn
            self.rates.append(first.steps_per_second)
            return
        simulator = self._build()
        start, done = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < TURN_SECONDS:
            simulator.run({"input": self.spikes})
            done += self.spikes.shape[0] * self.spikes.shape[1]
        self.rates.append(done / seconds)

    def row(self) -> Row:
        """The result."""
        return {
            "simulator": self.simulator,
            "network": self.name,
            "batch": self.batch,
            "steps_per_second": statistics.median(self.rates),
            "fastest": max(self.rates),
            "mismatches": self.mismatches,
            "activity": self.activity,
        }


def _differences(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> int:
    return sum(int(np.count_nonzero(array != other[name])) for name, array in one.items())
