"""Local learning as networks: every rule here is one that Loihi 2's engine, and so Lava's, computes; no label enters.

    network = predictive_coding(784, 128, feedback="kolen_pollack", seed=0)
    record = Simulator(network).run({"input": spikes})          # it learns while it runs
    inference = frozen(network, record.weights)                  # the same synapses, no longer plastic

The echo rule ESPP needs a driver and lives in `neuromorphic.espp`, the read-out in `neuromorphic.prototypes`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, InputError
from neuromorphic.builders import lateral
from neuromorphic.network import LIF, Connection, ErrorUnit, Graded, Input, IntegerNetwork, Population, quantize_weights
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import make_simulator

Array = np.ndarray[Any, np.dtype[Any]]
FEEDBACKS = ("none", "fixed", "kolen_pollack")
NEVER = LearningRule("0*x0")
"""A rule that changes nothing: a frozen connection keeps its learned 9-bit weights, which only a plastic one may."""
# A signed event as an unsigned payload: an event of one's own sign, of the other, and what lies between, halved by x1.
OWN, OTHER, MIDDLE = 122, 2, 31


def delta_rule(rate: int = -7, decay: int | None = None, seed: int = 1) -> LearningRule:
    """The predictive-coding delta rule: dw = 2^rate x0 (y1 - y2), y1 and y2 the positive and negative prediction error.

    Rao and Ballard 1999 with explicit error neurons (Lee et al. 2024, doi 10.3389/fncom.2024.1338280), in the two
    products that Loihi 2's engine takes; no product is shifted, since each has one trace.

    Args:
        rate: exponent of the learning rate, -7..8.
        decay: exponent of a decay of the weight per pre spike, -7..8, or None.
        seed: of the engine's stochastic rounding.
    """
    forget = "" if decay is None else f" - 2^{decay}*x0*w"
    return LearningRule(f"2^{rate}*x0*y1 - 2^{rate}*x0*y2{forget}", three_factor=True, seed=seed)


def stdp_rule(
    potentiation: int = -4, depression: int = -4, impulse: float = 16, tau: float = 20, seed: int = 1
) -> LearningRule:
    """Pair-based STDP (Bi and Poo 1998): dw = 2^potentiation y0 x1 - 2^depression x0 y1."""
    return LearningRule(
        f"2^{potentiation}*y0*x1 - 2^{depression}*x0*y1", x1_impulse=impulse, x1_tau=tau, y1_impulse=impulse,
        y1_tau=tau, seed=seed,
    )  # fmt: skip


def soft_stdp_rule(
    potentiation: int = -3, depression: int = -5, impulse: float = 32, tau: float = 8, seed: int = 1
) -> LearningRule:
    """STDP at post spikes alone that finds its own level: dw = 2^potentiation y0 x1 - 2^depression y0 w.

    A weight settles at 2^(potentiation - depression) times the mean pre trace at its neuron's spikes, so that no
    normalisation is needed (the soft bound of Predictive Coding Light, N'dri et al. 2025, without its L1 norm).
    """
    dw = f"2^{potentiation}*y0*x1 - 2^{depression}*y0*w"
    return LearningRule(dw, x1_impulse=impulse, x1_tau=tau, seed=seed)


def competitive(
    n_in: int,
    n_hidden: int,
    *,
    rule: LearningRule | None = None,
    inhibition: int = -200,
    exponent: int = 0,
    du: int = 1500,
    dv: int = 400,
    vth: int = 1500,
    seed: int = 0,
) -> IntegerNetwork:
    """Neurons that compete: plastic excitatory synapses from the input, inhibition between all of them.

    Args:
        n_in: channels of the input "input".
        n_hidden: neurons of the population "hidden".
        rule: of the connection "encode"; `soft_stdp_rule` otherwise.
        inhibition: lateral weight, below 0; its exponent is 4.
        exponent: of the plastic weights.
        du, dv, vth: of the neurons; see `network.LIF`.
        seed: of the initial weights.

    Raises:
        ConfigError: a number is out of range.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(20, 100, (n_hidden, n_in))
    return IntegerNetwork(
        [Input("input", n_in)],
        [LIF("hidden", n_hidden, du=du, dv=dv, vth=vth)],
        [
            Connection("encode", "input", "hidden", first, exponent, sign="excitatory", rule=rule or soft_stdp_rule()),
            Connection("inhibit", "hidden", "hidden", lateral(n_hidden, inhibition), exponent=4),
        ],
        {"made_by": "neuromorphic.local.competitive", "learning": "STDP"},
    )


def predictive_coding(
    n_in: int,
    n_hidden: int,
    *,
    encoder: Array | None = None,
    feedback: str = "none",
    rate: int = -7,
    gain: int = 200,
    shift: int = 4,
    leak: int = 512,
    du: int = 1500,
    dv: int = 400,
    vth: int = 2000,
    event: int = 8,
    feedback_exponent: int = -8,
    seed: int = 0,
) -> IntegerNetwork:
    """LIF neurons whose plastic synapses predict the leaky trace of the input; the error is their only teacher.

    Populations: "hidden" (LIF) and "error" (`network.ErrorUnit`). Connections: "encode" (static), "aim" (the target,
    identity), "predict" (plastic). Since a spike needs a step per synapse, what is predicted is the input after the one
    that the hidden neurons saw.

    `feedback` carries the error back to the hidden neurons, so that they settle on what explains the input, without
    weight transport: "fixed" through random weights, "kolen_pollack" through weights that learn with the same product
    as the forward ones and forget at the same rate, so that they converge to their transpose (Kolen and Pollack 1994;
    Akrout et al. 2019, arXiv 1904.05391). There the error's sign is what is learned from: "plus" and "minus" fire where
    its magnitude exceeds `event`, "up" and "down" send both signs as payloads that a 7-bit trace can tell apart.

    Args:
        n_in: channels of the input "input".
        n_hidden: neurons of "hidden".
        encoder: (n_hidden, n_in) integers of "encode"; random ones otherwise.
        feedback: one of FEEDBACKS.
        rate: exponent of the delta rule.
        gain: weight of "aim".
        shift, leak: of the error units: e = (target - prediction) >> shift, both leaking leak / 4096 per step.
        du, dv, vth: of the hidden neurons.
        event: least magnitude of the error that is sent back.
        feedback_exponent: of the feedback weights.
        seed: of random weights and of the rules' rounding.

    Raises:
        ConfigError: a number is out of range, or the encoder does not fit.
    """
    if feedback not in FEEDBACKS:
        raise ConfigError(f"feedback must be one of {', '.join(FEEDBACKS)}, found {feedback!r}")
    rng = np.random.default_rng(seed)
    if encoder is None:
        encoder = rng.integers(-128, 180, (n_hidden, n_in))
    if np.shape(encoder) != (n_hidden, n_in):
        raise ConfigError(f"encoder must be ({n_hidden}, {n_in}), a row per hidden neuron, found {np.shape(encoder)}")
    transposed = feedback == "kolen_pollack"
    rule = delta_rule(rate, seed=seed + 1)
    modulators: dict[str, str] = {}
    if transposed:
        rule, modulators = delta_rule(rate, -7, seed + 1), {"y1": "up", "y2": "down"}
    aim = quantize_weights(gain * np.eye(n_in, dtype=np.int32))
    populations: list[Population] = [
        LIF("hidden", n_hidden, du=du, dv=dv, vth=vth),
        ErrorUnit("error", n_in, leak, shift),
    ]
    connections = [
        Connection("encode", "input", "hidden", quantize_weights(encoder, 8, "mixed"), sign="mixed"),
        Connection("aim", "input", "error", aim, port="target"),
        Connection("predict", "hidden", "error", _small(rng, n_in, n_hidden), rule=rule, modulators=modulators),
    ]
    if feedback != "none":
        back = None
        if transposed:
            back = LearningRule(
                f"2^{rate + 2}*y0*x0*(x1-{MIDDLE}) - 2^-7*y0*w", x1_tau=65535, graded="overwrite", seed=seed + 2
            )
        more, links = _signs(n_in, event)
        populations += more
        connections += links
        first = _small(rng, n_hidden, n_in)
        for name, weights in (("up", first), ("down", quantize_weights(-first, 8, "mixed"))):
            connections.append(
                Connection(f"back_{name}", name, "hidden", weights, feedback_exponent, sign="mixed", payload_bits=8,
                           rule=back)
            )  # fmt: skip
    notes = {"made_by": "neuromorphic.local.predictive_coding", "learning": "predictive-coding delta rule",
             "feedback": feedback}  # fmt: skip
    return IntegerNetwork([Input("input", n_in)], populations, connections, notes)


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


def feedback_alignment(weights: Mapping[str, Array]) -> float:
    """Cosine between the feedback weights and the transpose of the forward ones; 1: as good as weight transport.

    Args:
        weights: "predict" (n_in, n_hidden), "back_up" and "back_down" (n_hidden, n_in), or with a lane in front.
    """
    forward, up, down = (np.asarray(weights[name], np.float64) for name in ("predict", "back_up", "back_down"))
    a, b = np.swapaxes(forward, -1, -2).ravel(), (up - down).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


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
    return [c.name for c in network.connections if c.rule is not None and (c.rule.dw, c.rule.dt) != (NEVER.dw, "")]


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
    fixed = _upstream(frozen(network), population)
    edges = [round(i * x.shape[1] / bins) for i in range(bins + 1)]
    parts = []
    for start in range(0, len(x), lanes):
        batch = x[start : start + lanes]
        record = make_simulator(fixed, len(batch), engine).run(with_silent(fixed, batch), spikes=[population])
        fired = record.spikes[population]
        means = [fired[:, a:b].mean(1, dtype=np.float32) for a, b in itertools.pairwise(edges)]
        parts.append(np.concatenate(means, 1))
    return np.concatenate(parts)


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


def _small(rng: np.random.Generator, n_post: int, n_pre: int) -> Array:
    return quantize_weights(rng.integers(-8, 9, (n_post, n_pre)), 8, "mixed")


def _signs(n: int, event: int) -> tuple[list[Population], list[Connection]]:
    """Error units' signed spikes as events of either sign, and those as payloads with the sign in their height."""
    eye = np.eye(n, dtype=np.int16)
    at_once = {"du": 4095, "dv": 4095, "vth": event}  # fires on this step's input alone
    populations = [
        LIF("plus", n, **at_once),
        LIF("minus", n, **at_once),
        Graded("up", n, vth=0, relu=True),
        Graded("down", n, vth=0, relu=True),
    ]
    connections = [
        Connection("error_plus", "error", "plus", eye, sign="excitatory", payload_bits=8),
        Connection("error_minus", "error", "minus", -eye, sign="inhibitory", payload_bits=8),
        Connection("plus_up", "plus", "up", OWN * eye),
        Connection("minus_up", "minus", "up", OTHER * eye),
        Connection("minus_down", "minus", "down", OWN * eye),
        Connection("plus_down", "plus", "down", OTHER * eye),
    ]
    return populations, connections
