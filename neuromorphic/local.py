"""Local learning as networks: every rule here is one that Loihi 2's engine, and so Lava's, computes; no label enters.

    network = predictive_coding(784, 128, feedback="kolen_pollack", seed=0)
    record = Simulator(network).run({"input": spikes})          # it learns while it runs

What learns while it runs is held still, embedded and balanced in `neuromorphic.plastic`. The echo rule ESPP needs a
driver and lives in `neuromorphic.espp`, the read-out in `neuromorphic.prototypes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgessl.errors import ConfigError
from neuromorphic.builders import lateral
from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
from neuromorphic.populations import LIF, ErrorUnit, Graded, Input, Population
from neuromorphic.rules import LearningRule

Array = np.ndarray[Any, np.dtype[Any]]
FEEDBACKS = ("none", "fixed", "kolen_pollack")
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
    exponent: int = 0,
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
        exponent: of "encode". Where few inputs fire, thresholds are low and the feedback overwhelms them; the network
            then swings, and its error grows instead of falling. A larger exponent makes the input count for more.
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
        Connection("encode", "input", "hidden", quantize_weights(encoder, 8, "mixed"), exponent, sign="mixed"),
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


def feedback_alignment(weights: Mapping[str, Array]) -> float:
    """Cosine between the feedback weights and the transpose of the forward ones; 1: as good as weight transport.

    Args:
        weights: "predict" (n_in, n_hidden), "back_up" and "back_down" (n_hidden, n_in), or with a lane in front.
    """
    forward, up, down = (np.asarray(weights[name], np.float64) for name in ("predict", "back_up", "back_down"))
    a, b = np.swapaxes(forward, -1, -2).ravel(), (up - down).ravel()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


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
