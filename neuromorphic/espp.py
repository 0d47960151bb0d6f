"""EchoSpike predictive plasticity (ESPP): be like the sample before where the recording goes on, unlike it after a cut.

    learner = EchoLearner(echo_network(1156, 128), seed=0)
    for spikes, goes_on in zip(windows, adjacency(recordings)):      # (T, 1156), bool
        learner.present(spikes, goes_on)

Graf, Su and Indiveri (arXiv 2405.13976), the online form: dW = y (S_prev * psi(v)) x_trace while the loss is above 0.
There the bit y was "same class as the sample before". Here it is temporal adjacency alone: whether a window follows
the one before in the same recording. No argument of this module takes a label.

What a neuron's microcode would compute (S_prev, psi, the gate) this driver computes between two steps of the simulator
and sends in as the modulators y1 and y2, a step late; the synapses' rule is the engine's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, InputError
from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
from neuromorphic.populations import LIF, Input, check_range
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import make_simulator

Array = np.ndarray[Any, np.dtype[Any]]
HIDDEN, CLOSER, APART = "hidden", "closer", "apart"
TRACE_TOP = 127


def adjacency(recordings: Array) -> Array:
    """Which windows go on where the one before ended, (N,) bool: the same recording, next in line.

    Args:
        recordings: (N,) which recording each window was cut from, in the order of the stream. Recordings, not classes:
            two recordings of the same thing are apart.

    Raises:
        InputError: not one whole number per window.
    """
    ids = np.asarray(recordings)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"recordings must be (N,) whole numbers, found {ids.dtype} {ids.shape}")
    return np.concatenate([[False], ids[1:] == ids[:-1]])[: len(ids)]


def windows(spikes: Array, parts: int) -> tuple[Array, Array]:
    """Recordings cut into windows: (N, T, n) -> ((N * parts, T // parts, n), (N * parts,) recording of each).

    Raises:
        InputError: a recording is shorter than its parts.
    """
    x = np.asarray(spikes)
    if x.ndim != 3 or not 1 <= parts <= x.shape[1]:
        raise InputError(f"spikes must be (N, T, n) with T >= parts = {parts}, found {x.shape}")
    length = x.shape[1] // parts
    cut = x[:, : parts * length].reshape(len(x) * parts, length, x.shape[2])
    return cut, np.repeat(np.arange(len(x)), parts)


def echo_network(
    n_in: int,
    n_hidden: int,
    *,
    rate: int = -7,
    impulse: float = 16,
    tau: float = 8,
    du: int = 1023,
    dv: int = 511,
    vth: int = 1500,
    seed: int = 0,
) -> IntegerNetwork:
    """A layer whose synapses learn by dw = 2^rate u0 x1 y1 - 2^rate u0 x1 y2 (each product shifted right by 3).

    Args:
        n_in: channels of the input "input"; "closer" and "apart" are the modulators' inputs.
        n_hidden: neurons of "hidden".
        rate: exponent of the learning rate, -7..8.
        impulse, tau: of the pre trace x1.
        du, dv, vth: of the neurons.
        seed: of the initial weights and of the rounding.
    """
    rule = LearningRule(
        f"2^{rate}*u0*x1*y1 - 2^{rate}*u0*x1*y2", x1_impulse=impulse, x1_tau=tau, three_factor=True, seed=seed + 1
    )
    first = np.random.default_rng(seed).normal(12, 40, (n_hidden, n_in)).clip(-250, 250)
    encode = Connection(
        "encode",
        "input",
        HIDDEN,
        quantize_weights(first, 8, "mixed"),
        rule=rule,
        modulators={"y1": CLOSER, "y2": APART},
    )
    return IntegerNetwork(
        [Input("input", n_in), Input(CLOSER, n_hidden, 7), Input(APART, n_hidden, 7)],
        [LIF(HIDDEN, n_hidden, du=du, dv=dv, vth=vth)],
        [encode],
        {"made_by": "neuromorphic.espp.echo_network", "learning": "ESPP, temporal adjacency"},
    )


@dataclass(frozen=True)
class EchoReport:
    """What one window did.

    Attributes:
        similarity: mean over the steps with spikes of the share of the echo that the neurons firing then hold, 0..1.
        updates: share of the steps at which the loss asked for a change.
        rate: mean spikes per neuron and step.
    """

    similarity: float
    updates: float
    rate: float


class EchoLearner:
    """Drives an `echo_network` window by window; `simulator` holds the weights.

    Args:
        network: of `echo_network`.
        fixate: where the recording goes on, a step asks for more while its similarity is below this, in 0..1.
        saccade: after a cut, a step asks for less while its similarity is above this, in 0..1.
        gap: silent steps between windows, in which membranes and traces decay.
        engine: see `simulator.make_simulator`.

    Raises:
        ConfigError: a number is out of range, or the network is another.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        *,
        fixate: float = 0.3,
        saccade: float = 0.05,
        gap: int = 5,
        engine: str = "auto",
    ) -> None:
        if not 0 <= saccade <= fixate <= 1:
            raise ConfigError(f"expected 0 <= saccade <= fixate <= 1, found {saccade} and {fixate}")
        check_range("gap", gap, 0, 10_000, "it is a number of steps")
        names = [i.name for i in network.inputs]
        if names[1:] != [CLOSER, APART] or [p.name for p in network.populations] != [HIDDEN]:
            raise ConfigError(f"expected a network of espp.echo_network, found the inputs {', '.join(names)}")
        layer = network.population(HIDDEN)
        assert isinstance(layer, LIF)
        self.network, self.fixate, self.saccade, self.gap = network, fixate, saccade, gap
        self.simulator = make_simulator(network, engine=engine)
        self.echo = np.zeros(layer.size)  # shares of the last window's spikes; zeros: there is none
        self._threshold = layer.vth << 6
        self._silent = np.zeros(layer.size, np.int32)

    def present(self, spikes: Array, goes_on: bool) -> EchoReport:
        """Learn from one window.

        Args:
            spikes: (T, n_in) of 0 and 1.
            goes_on: whether it follows the window before in the same recording. The first window teaches nothing.

        Raises:
            InputError: the spikes do not fit; nothing was learned.
        """
        x = np.asarray(spikes)
        if x.ndim != 2 or x.shape[1] != self.network.inputs[0].size:
            raise InputError(f"a window must be (steps, {self.network.inputs[0].size}), found {x.shape}")
        counts = np.zeros(self.echo.shape)
        closer = apart = self._silent
        similarities, updates = [], 0
        for row in x:
            fired, voltage = self._step(row, closer, apart)
            counts += fired
            similarity = float(self.echo @ fired)
            if fired.any():
                similarities.append(similarity)
            wanted = similarity < self.fixate if goes_on else similarity > self.saccade
            closer = apart = self._silent
            if wanted and self.echo.any():
                updates += 1
                change = self._change(fired, voltage)
                closer, apart = (change, apart) if goes_on else (closer, change)
        if self.gap:  # the last change, then silence
            rest = {self.network.inputs[0].name: np.zeros_like(x[0]), CLOSER: closer, APART: apart}
            still = {name: np.zeros((1, self.gap, len(array)), array.dtype) for name, array in rest.items()}
            for name in (CLOSER, APART):
                still[name][0, 0] = rest[name]
            self.simulator.run(still, spikes=False)
        if counts.any():
            self.echo = counts / counts.sum()
        steps = max(len(x), 1)
        mean = float(np.mean(similarities)) if similarities else 0.0
        return EchoReport(mean, updates / steps, float(counts.sum()) / (steps * len(counts)))

    def _change(self, fired: Array, voltage: Array) -> Array:
        """round(127 echo psi), the largest echo at 1; psi(v) = 1 / (1 + (pi (v / threshold - 1))^2), 1 at a spike."""
        distance = np.where(fired != 0, 0.0, voltage / self._threshold - 1)
        psi = 1 / (1 + (np.pi * distance) ** 2)
        return np.round(TRACE_TOP * self.echo / self.echo.max() * psi).astype(np.int32)

    def _step(self, row: Array, closer: Array, apart: Array) -> tuple[Array, Array]:
        given = {self.network.inputs[0].name: row, CLOSER: closer, APART: apart}
        record = self.simulator.run({name: array[None, None] for name, array in given.items()}, v=[HIDDEN])
        return record.spikes[HIDDEN][0, 0], record.v[HIDDEN][0, 0]

    def weights(self) -> dict[str, Array]:
        """The plastic weights (n_hidden, n_in) int16, for `plastic.frozen` and `plastic.relearned`."""
        return {"encode": self.simulator.weights("encode")[0]}

    def state(self) -> dict[str, Array]:
        """Everything `restore` needs."""
        return {**{f"simulator.{k}": v for k, v in self.simulator.state().items()}, "echo": self.echo.copy()}

    def restore(self, state: dict[str, Array]) -> None:
        """Go back to what `state` returned."""
        parts = {k.removeprefix("simulator."): v for k, v in state.items() if k.startswith("simulator.")}
        self.simulator.restore(parts)
        self.echo = np.array(state["echo"], np.float64)
