"""A coder as an integer network: every scale factor stated, every spike compared.

    conversion = convert(coder, bits=8)              # post-training; a coder trained at these bits keeps its scales
    conversion.network                               # an IntegerNetwork: simulate it, verify it, export it
    report = compare(conversion, spikes)             # spikes (N, T, n_in): mismatches against floats and integers

Quantisation-aware training runs the integer arithmetic itself, so that "integers" must always mismatch by 0 spikes: it
is the proof that what was trained is what runs. "floats" is the price of rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from edgessl.errors import ConfigError
from neuromorphic.cells import LIFCell
from neuromorphic.coder import SpikingPredictiveCoder, binned
from neuromorphic.lava.client import run_lava
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.populations import LIF, Input
from neuromorphic.quantize import MAX_STATE, UNIT, weight_step
from neuromorphic.simulator import Simulator

INPUT = "input"
LANES = 64  # samples simulated at a time
Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[IntegerNetwork, Array], Mapping[str, Array]]
"""Runs a network on input spikes `(N, T, n_in)` from rest: spikes `(N, T, n)` by population."""


@dataclass(frozen=True)
class LayerScale:
    """How one layer became integers.

    Attributes:
        layer: name of the population.
        bits: of the weights.
        step: distance of neighbouring weights.
        scale: k, weight units per threshold of the float network: w = step * round(W k / step), vth = round(k).
        largest: the largest float weight, in thresholds.
        clipped: share of the weights beyond the integers' range.
        zeros: share of the weights that became 0.
        snr_db: signal-to-noise ratio of the weights, in dB.
        vth: the integer threshold; a neuron fires above 64 vth.
        vth_error: its relative rounding error.
        du, dv: decays of 4096; the effective ones are du + 1 and dv.
        bias_exp: exponent of the biases' mantissas; a bias b becomes round(64 k b / 2^bias_exp).
        unit: u and v of the integer network per threshold of the float one, 64 k.
    """

    layer: str
    bits: int
    step: int
    scale: float
    largest: float
    clipped: float
    zeros: float
    snr_db: float
    vth: int
    vth_error: float
    du: int
    dv: int
    bias_exp: int
    unit: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Conversion:
    """An integer network beside the coders it came from: `floats` runs in floats, `integers` in the same integers."""

    network: IntegerNetwork
    floats: SpikingPredictiveCoder
    integers: SpikingPredictiveCoder
    scales: tuple[LayerScale, ...]


@dataclass(frozen=True)
class LayerMatch:
    """Spikes of one layer of the integer network beside its two references.

    Attributes:
        layer: name of the population.
        neuron_steps: samples x steps x neurons that were compared.
        spikes: of the integer network.
        against_integers: neuron-steps at which the coder's own integer arithmetic differs; has to be 0.
        against_floats: neuron-steps at which the float network differs.
        largest_u, largest_v: largest magnitudes of the coder's integer current and voltage, of 2^23.
    """

    layer: str
    neuron_steps: int
    spikes: int
    against_integers: int
    against_floats: int
    largest_u: float
    largest_v: float

    @property
    def float_share(self) -> float:
        """Share of the neuron-steps at which the float network differs."""
        return self.against_floats / self.neuron_steps

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "float_share": self.float_share}


def convert(coder: SpikingPredictiveCoder, bits: int = 8) -> Conversion:
    """The integer network of a coder of LIF layers.

    Raises:
        ConfigError: the cells are not LIF, or a layer does not fit the integers' ranges.
    """
    # trained at these bits: its own scales, not ones fitted anew
    integers = copy.deepcopy(coder) if coder.bits == bits else coder.quantized(bits)
    populations, connections, scales, below = [], [], [], INPUT
    for level, layer in enumerate(integers.layers):
        assert isinstance(layer, LIFCell)
        name = f"layer{level}"
        found = layer.integers()
        weights = found.pop("weights")
        bias = found.pop("bias_mant")
        assert isinstance(weights, torch.Tensor)
        assert isinstance(bias, torch.Tensor)
        numbers = {key: int(value) for key, value in found.items()}
        populations.append(
            LIF(name, layer.n_out, du=numbers["du"], dv=numbers["dv"], vth=numbers["vth"], bias=bias.numpy(),
                bias_exp=numbers["bias_exp"])
        )  # fmt: skip
        connections.append(
            Connection(f"{below}_{name}", below, name, weights.numpy(), bits=numbers["bits"], sign="mixed")
        )
        scales.append(_scale(name, layer, weights, numbers))
        below = name
    notes = {
        "made_by": "neuromorphic.convert",
        "scales": [scale.to_json() for scale in scales],
        "semantics": "Lava 0.10.0 fixed point; a layer hears the one below a step late",
    }
    network = IntegerNetwork([Input(INPUT, coder.n_in)], populations, connections, notes)
    return Conversion(network, coder.quantized(None), integers, tuple(scales))


def simulate(network: IntegerNetwork, spikes: Array) -> dict[str, Array]:
    """Spikes of every population, from rest, by the integer simulator: a `Run`."""
    parts = [Simulator(network, batch=len(x)).run({INPUT: x}).spikes for x in _lanes(spikes)]
    return {p.name: np.concatenate([part[p.name] for part in parts]) for p in network.populations}


def simulate_in_lava(network: IntegerNetwork, spikes: Array) -> dict[str, Array]:
    """Spikes of every population, from rest, by Lava itself, one sample after another: a `Run`.

    Raises:
        LavaUnavailableError: no worker environment; LavaError: Lava raised or hung.
    """
    return dict(run_lava(network, {INPUT: spikes}, probe=False).spikes)


def compare(conversion: Conversion, spikes: Array, run: Run = simulate) -> list[LayerMatch]:
    """Run the integer network on `spikes` `(N, T, n_in)` and compare it with both coders, spike for spike.

    Args:
        conversion: what `convert` gave.
        spikes: uint8 of 0 and 1.
        run: what runs the integer network: the simulator, or Lava.

    Raises:
        ConfigError: `run` answered with spikes of another shape.
    """
    ours = run(conversion.network, spikes)
    x = torch.from_numpy(np.ascontiguousarray(spikes)).float()
    below_floats = below_integers = x
    found = []
    for level, scale in enumerate(conversion.scales):
        floats, integers = (c.layers[level] for c in (conversion.floats, conversion.integers))
        assert isinstance(floats, LIFCell)
        assert isinstance(integers, LIFCell)
        with torch.no_grad():
            below_floats = torch.cat([floats.states(part)[0] for part in below_floats.split(LANES)])
            states = [integers.states(part) for part in below_integers.split(LANES)]
        below_integers = torch.cat([s for s, _, _ in states])
        theirs = np.asarray(ours[scale.layer])
        if theirs.shape != tuple(below_integers.shape):
            raise ConfigError(
                f"{scale.layer}: spikes of shape {theirs.shape}; expected {tuple(below_integers.shape)} from rest"
            )
        found.append(
            LayerMatch(
                scale.layer,
                theirs.size,
                int((theirs != 0).sum()),
                int((theirs != below_integers.numpy()).sum()),
                int((theirs != below_floats.numpy()).sum()),
                max(float(u.abs().max()) for _, u, _ in states) / MAX_STATE,
                max(float(v.abs().max()) for _, _, v in states) / MAX_STATE,
            )
        )
    return found


def integer_features(network: IntegerNetwork, spikes: Array, bins: int = 1) -> Array:
    """The coder's features `(N, bins * sum(n))` float32 from the integer network's own spikes."""
    found = simulate(network, spikes)
    return torch.cat([binned(torch.from_numpy(found[p.name]).float(), bins) for p in network.populations], 1).numpy()


def _scale(name: str, layer: LIFCell, weights: torch.Tensor, numbers: Mapping[str, int]) -> LayerScale:
    scale, step = float(layer.scale), weight_step(numbers["bits"])
    exact = layer.weight.detach().double()
    noise = (weights.double() / scale - exact).square().sum()
    outside = (exact * scale < -256) | (exact * scale > 256 - step)
    return LayerScale(
        layer=name,
        bits=numbers["bits"],
        step=step,
        scale=scale,
        largest=float(exact.abs().max()),
        clipped=float(outside.double().mean()),
        zeros=float((weights == 0).double().mean()),
        snr_db=float(10 * torch.log10(exact.square().sum() / noise.clamp(min=1e-30))),
        vth=numbers["vth"],
        vth_error=numbers["vth"] / scale - 1,
        du=numbers["du"],
        dv=numbers["dv"],
        bias_exp=numbers["bias_exp"],
        unit=UNIT * scale,
    )


def _lanes(spikes: Array) -> Iterator[Array]:
    for start in range(0, len(spikes), LANES):
        yield spikes[start : start + LANES]
