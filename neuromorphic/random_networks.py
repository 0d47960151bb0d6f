"""Random networks of every family that the simulators know, and random spikes for them: what conformance is shown on.

network = random_network("recurrent", seed=3)
inputs = random_inputs(network, steps=1000, seed=3)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgessl.errors import ConfigError
from neuromorphic.network import Connection, IntegerNetwork, choose_sign, quantize_weights
from neuromorphic.populations import LIF, ErrorUnit, Graded, Input, Population, TernaryLIF
from neuromorphic.rules import GRADED_MODES, LearningRule
from neuromorphic.simulator import Simulator

TWO_FACTOR = (
    "2^-4*x0*y1 - 2^-4*y0*x1",
    "2^-2*x0*y1*y2 - 2^-3*y0*x1",
    "2^-1*y0*x1*y2 - 2^-3*x0*y1 - 2^-5*u0*w",
    "3*2^-4*y0*(x1-5) - 2^-6*x0*w*y3",
    "-2^-2*u2*x2*y1 + 2^-3*x0*y1 - 2^-4*y0*sgn(w)",
    "2^-5*x0*(w-3)*(y1+2) - 2^-2*y0*x0*x2",
)
TAGGED = (("2^-3*u1*t", "2^-2*x0*y1 - 2^-3*u1*t"), ("2^-5*u0*t*y2 - 2^-6*u0*w", "2^-3*y0*x1 - 2^-4*x0*(t+4)"))
THREE_FACTOR = ("2^-7*x0*y1 - 2^-7*x0*y2", "2^-2*u0*x1*y1 - 2^-2*u0*x1*y2", "2^-4*x0*y1 - 2^-4*y0*x1*y2 + 2^-3*x0*x2")


def random_network(family: str, seed: int) -> IntegerNetwork:
    """A small network of a family, its every parameter drawn; the corner values 0 and 4095 of decays come often.

    Networks in which a population never fires prove little: up to 40 are drawn, and the liveliest is taken. That choice
    rests on the numpy simulator's spikes alone, not on any comparison.

    Raises:
        ConfigError: no such family.
    """
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    best, liveliest = None, -1.0
    for attempt in range(40):
        network = FAMILIES[family](_Draw((seed, attempt)))
        record = Simulator(network).run(random_inputs(network, 100, seed))
        rates = [np.count_nonzero(spikes) / spikes.size for spikes in record.spikes.values()]
        alive = sum(rate > 0.01 for rate in rates) / len(rates) + sum(rate < 0.9 for rate in rates) / len(rates)
        if record.weights:
            alive += all((w[0] != network.connection(name).weights).any() for name, w in record.weights.items())
        if alive > liveliest:
            best, liveliest = network, alive
        if alive == 2 + bool(record.weights):
            break
    assert best is not None
    return best


def random_inputs(network: IntegerNetwork, steps: int, seed: int) -> dict[str, np.ndarray]:
    """One lane of spikes for every input, (1, steps, n), at a drawn rate."""
    rng = np.random.default_rng((seed, 7))
    inputs = {}
    for spec in network.inputs:
        fires = rng.random((1, steps, spec.size)) < rng.uniform(0.05, 0.4)
        low = -spec.limit if spec.payload_bits else 0
        values = rng.integers(low, spec.limit + 1, fires.shape) if spec.payload_bits else np.ones(fires.shape, np.int64)
        inputs[spec.name] = (fires * values).astype(np.int32 if spec.limit > 127 else np.int8)
    return inputs


class _Draw:
    """Random parts."""

    def __init__(self, seed: tuple[int, int]) -> None:
        self.rng = np.random.default_rng(seed)

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def decay(self) -> int:
        return int(self.rng.choice([0, 4095, self.number(0, 4095), self.number(50, 1500), self.number(50, 1500)]))

    def weights(self, n_post: int, n_pre: int, bits: int) -> tuple[np.ndarray, str]:
        low, high = [(-300, 300), (-300, 300), (0, 300), (-300, 0), (-128, 160)][self.number(0, 4)]
        raw = self.rng.integers(low, high + 1, (n_post, n_pre))
        sign = choose_sign(raw)
        return quantize_weights(raw, bits, sign), sign

    def lif(self, name: str, size: int, **given: Any) -> LIF:
        if self.chance(0.2) and not given:
            given = {"reset_interval": self.number(5, 60), "reset_offset": self.number(0, 60)}
        bias: int | np.ndarray = self.number(-500, 500)
        bias_exp: int | np.ndarray = 0
        if self.chance(0.5):
            bias, bias_exp = self.rng.integers(-4096, 4096, size), self.rng.integers(0, 4, size)
        vth = self.number(0, 300) if self.chance(0.2) else self.number(300, 6000)
        return LIF(name, size, self.decay(), self.decay(), vth, bias, bias_exp, **given)

    def ternary(self, name: str, size: int) -> TernaryLIF:
        bias: np.ndarray = self.rng.integers(-800, 800, size)
        vth, low = self.number(100, 4000), -self.number(100, 4000)
        return TernaryLIF(name, size, self.decay(), self.decay(), vth, bias, 1, vth_lo=low)

    def synapse(self, name: str, pre: str, post: str, n_post: int, n_pre: int, **given: Any) -> Connection:
        bits = given.pop("bits", self.number(1, 8))
        given.setdefault("exponent", self.number(-4, 3))
        weights, sign = self.weights(n_post, n_pre, bits)
        return Connection(name, pre, post, weights, bits=bits, sign=sign, **given)

    def rule(self, dw: str, dt: str = "", **given: Any) -> LearningRule:
        values: dict[str, Any] = {}
        for trace in ("x1", "x2") if given.get("three_factor") else ("x1", "x2", "y1", "y2", "y3"):
            values[f"{trace}_impulse"] = float(np.round(self.rng.uniform(0, 60), 2))
            values[f"{trace}_tau"] = 0.0 if self.chance(0.1) else float(np.round(self.rng.uniform(1, 25), 2))
        epoch = 1 if self.chance(0.5) else self.number(2, 8)
        return LearningRule(dw, dt, t_epoch=epoch, seed=self.number(0, 10_000), **values, **given)


def _feed_forward(d: _Draw) -> IntegerNetwork:
    sizes = [d.number(3, 40) for _ in range(d.number(2, 4))]
    names = [f"layer{k}" for k in range(1, len(sizes))]
    populations = [d.lif(name, size) for name, size in zip(names, sizes[1:], strict=True)]
    sources = ["input", *names]
    connections = [d.synapse(f"c{k}", sources[k], names[k], sizes[k + 1], sizes[k]) for k in range(len(names))]
    return IntegerNetwork([Input("input", sizes[0])], populations, connections)


def _recurrent(d: _Draw) -> IntegerNetwork:
    n_in, a, b = d.number(3, 30), d.number(3, 30), d.number(3, 20)
    connections = [
        d.synapse("in_a", "input", "a", a, n_in, exponent=d.number(-1, 7)),
        d.synapse("a_a", "a", "a", a, a),
        d.synapse("a_b", "a", "b", b, a),
        d.synapse("b_a", "b", "a", a, b, exponent=d.number(-1, 7)),
        d.synapse("in_b", "other", "b", b, n_in),
    ]
    return IntegerNetwork([Input("input", n_in), Input("other", n_in)], [d.lif("a", a), d.lif("b", b)], connections)


def _delayed(d: _Draw) -> IntegerNetwork:
    n_in, a, b = d.number(3, 25), d.number(3, 25), d.number(3, 20)
    longest = 63 if d.chance(0.2) else d.number(1, 12)
    ternary = d.chance(0.4)
    connections = [
        d.synapse("in_a", "input", "a", a, n_in, delays=d.rng.integers(0, longest + 1, (a, n_in))),
        d.synapse("a_b", "a", "b", b, a, delays=d.number(1, longest), payload_bits=int(ternary)),
        d.synapse("b_a", "b", "a", a, b, delays=d.rng.integers(0, longest + 1, (a, b))),
    ]
    first: Population = d.ternary("a", a) if ternary else d.lif("a", a)
    return IntegerNetwork([Input("input", n_in)], [first, d.lif("b", b)], connections)


def _ternary(d: _Draw) -> IntegerNetwork:
    n_in, a, b = d.number(3, 30), d.number(3, 30), d.number(3, 20)
    connections = [
        d.synapse("in_a", "input", "a", a, n_in, payload_bits=1),
        d.synapse("a_b", "a", "b", b, a, payload_bits=d.number(0, 1)),
        d.synapse("b_b", "b", "b", b, b, payload_bits=1),
    ]
    return IntegerNetwork([Input("input", n_in, 1)], [d.ternary("a", a), d.ternary("b", b)], connections)


def _graded(d: _Draw) -> IntegerNetwork:
    n_in, a, b = d.number(3, 25), d.number(3, 25), d.number(3, 20)
    graded = Graded("a", a, d.number(0, 2000), d.chance(0.5))
    connections = [
        d.synapse("in_a", "input", "a", a, n_in, payload_bits=8, exponent=d.number(-6, 0)),
        d.synapse("a_b", "a", "b", b, a, payload_bits=24, exponent=d.number(-8, -4)),
        d.synapse("in_b", "input", "b", b, n_in, payload_bits=8, exponent=d.number(-6, -2), delays=d.number(0, 3)),
    ]
    last: Population = d.lif("b", b) if d.chance(0.5) else d.ternary("b", b)
    return IntegerNetwork([Input("input", n_in, d.number(1, 8))], [graded, last], connections)


def _plastic(
    d: _Draw, name: str, pre: str, post: str, n_post: int, n_pre: int, rule: LearningRule, **given: Any
) -> Connection:
    bits = 9 if d.chance(0.2) else d.number(5, 8)
    sign = "mixed" if d.chance(0.7) else str(d.rng.choice(["excitatory", "inhibitory"]))
    bits = bits if sign == "mixed" else min(bits, 8)
    raw = d.rng.integers(-140, 160, (n_post, n_pre))
    weights = quantize_weights(raw if sign == "mixed" else abs(raw) * (1 if sign == "excitatory" else -1), bits, sign)
    return Connection(name, pre, post, weights, d.number(-1, 2), bits, sign, rule=rule, **given)


def _learning(d: _Draw) -> IntegerNetwork:
    n_in, a, b = d.number(3, 16), d.number(3, 12), d.number(3, 10)
    rule = d.rule(*TAGGED[d.number(0, 1)]) if d.chance(0.3) else d.rule(TWO_FACTOR[d.number(0, len(TWO_FACTOR) - 1)])
    first = LIF("a", a, d.number(50, 2000), d.number(50, 1500), d.number(200, 1500), d.rng.integers(0, 200, a), 4)
    connections = [_plastic(d, "in_a", "input", "a", a, n_in, rule), d.synapse("a_b", "a", "b", b, a)]
    if d.chance(0.5):
        again = d.rule(TWO_FACTOR[d.number(0, len(TWO_FACTOR) - 1)])
        connections.append(_plastic(d, "a_a", "a", "a", a, a, again))
    return IntegerNetwork([Input("input", n_in)], [first, d.lif("b", b)], connections)


def _three_factor(d: _Draw) -> IntegerNetwork:
    n_in, a = d.number(3, 16), d.number(3, 12)
    text = THREE_FACTOR[d.number(0, len(THREE_FACTOR) - 1)]
    if d.chance(0.5):  # predictive coding: an error unit drives its own synapses and reports on
        target = quantize_weights(np.eye(a) * 200)
        hidden = d.number(3, 10)
        connections = [
            _plastic(d, "predict", "hidden", "error", a, hidden, d.rule(text, three_factor=True)),
            Connection("aim", "target", "error", target, port="target"),
            d.synapse("drive", "input", "hidden", hidden, n_in),
            d.synapse("back", "error", "hidden", hidden, a, payload_bits=8, exponent=d.number(-7, -3)),
        ]
        populations: list[Population] = [
            d.lif("hidden", hidden),
            ErrorUnit("error", a, d.number(0, 2000), d.number(0, 6)),
        ]
        return IntegerNetwork([Input("input", n_in), Input("target", a)], populations, connections)
    graded = GRADED_MODES[d.number(0, 3)]
    rule = d.rule(text, three_factor=True, graded=graded)
    # payloads of binary inputs are 0 or 1; larger ones come from a positive graded population
    modulators = {"y0": "post", "y1": "reward", "y2": "reward"}
    connections = [
        d.synapse("in_g", "input", "sender", n_in, n_in, exponent=-2),
        _plastic(d, "learn", "sender", "post", a, n_in, rule, payload_bits=8, modulators=modulators),
    ]
    post = LIF("post", a, d.number(50, 2000), d.number(50, 1500), d.number(500, 60_000), 100, 4)
    return IntegerNetwork(
        [Input("input", n_in), Input("reward", a)], [Graded("sender", n_in, d.number(0, 50), True), post], connections
    )


FAMILIES: dict[str, Callable[[_Draw], IntegerNetwork]] = {
    "feed-forward": _feed_forward,
    "recurrent": _recurrent,
    "delayed": _delayed,
    "ternary": _ternary,
    "graded": _graded,
    "learning": _learning,
    "three-factor": _three_factor,
}
