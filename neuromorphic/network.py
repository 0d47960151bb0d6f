"""The integer network: inputs, populations and connections in Loihi-2-class integers, validated.

    network = IntegerNetwork(
        inputs=[Input("pixels", 784)],
        populations=[LIF("hidden", 256, du=409, dv=128, vth=500)],
        connections=[Connection("encode", "pixels", "hidden", weights)],
    )

Arithmetic and ranges are those of Lava 0.10.0's fixed-point models ("Loihi-2-class integer constraints, verified
against Lava's simulators"; agreement with silicon is not claimed). What one unit means: u and v are 24-bit registers,
an input of 1 adds 64 to u, thresholds are stored divided by 64, biases are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgessl.errors import ConfigError, InputError
from neuromorphic.populations import TRACES, Input, Population, check_range
from neuromorphic.rules import LearningRule

SIGNS = ("mixed", "excitatory", "inhibitory")
MAX_DELAY = 63
IDLE = "0*x0"  # a rule that changes nothing


def choose_sign(weights: np.ndarray) -> str:
    """The sign mode Lava takes for these weights: no negative, no positive, or mixed."""
    return "excitatory" if weights.min() >= 0 else "inhibitory" if weights.max() <= 0 else "mixed"


def quantize_weights(weights: np.ndarray, bits: int = 8, sign: str = "") -> np.ndarray:
    """Any numbers -> the nearest-below integers that Loihi's synapse format keeps, as Lava clips and truncates them.

    Floats are truncated toward zero first. With b bits, magnitudes are multiples of 2^(8-b); mixed signs cost one more
    bit, so 8-bit mixed weights are even. Range: mixed -256..254, excitatory 0..255, inhibitory -255..0.

    Args:
        weights: (n_post, n_pre).
        bits: 1..8 (9: every integer of -256..255, which only a plastic mixed connection has).
        sign: one of SIGNS; "" takes Lava's choice.

    Returns:
        int16, same shape.
    """
    sign = sign or choose_sign(np.asarray(weights))
    if sign not in SIGNS:
        raise ConfigError(f"sign must be one of {', '.join(SIGNS)}, found {sign!r}")
    check_range("bits", bits, 1, 9 if sign == "mixed" else 8, "weights have at most 8 bits")
    integers = np.asarray(weights).astype(np.int32)
    if sign == "inhibitory":
        integers = -integers
    mixed = sign == "mixed"
    integers = np.clip(integers, -256 if mixed else 0, 255)
    shift = 8 - bits + mixed
    integers = (integers >> shift) << shift
    return (-integers if sign == "inhibitory" else integers).astype(np.int16)


@dataclass(frozen=True, eq=False)
class Connection:
    """Synapses from an input or population to a population; what is sent at step t arrives at t + 1 + delay.

    a = shift(W s), W s summed first, then << exponent or >> -exponent (arithmetic).

    Args:
        name: unique in the network.
        pre: name of an input or population.
        post: name of a population.
        weights: (n_post, n_pre) integers exactly as the synapse keeps them: see `quantize_weights`.
        exponent: -8..7.
        bits: of the weights, 1..8; 9 for a plastic connection that goes on from learned weights.
        sign: one of SIGNS; "" takes Lava's choice (a plastic connection: "mixed").
        payload_bits: 0 takes every nonzero spike for 1 (a ternary -1 too!), else graded spikes count with their value.
        delays: None, or integers 0..63, one or (n_post, n_pre), on top of the one step every synapse takes.
        rule: makes the connection plastic.
        modulators: for a three-factor rule, who sends y0 (the gate), y1, y2, y3: names of populations or inputs whose
            spikes are taken, or "NAME.y1" for an error unit's. Empty: `post` must be an error unit, which sends all
        four. port: "a", or "target" of an error unit.
    """

    name: str
    pre: str
    post: str
    weights: np.ndarray
    exponent: int = 0
    bits: int = 8
    sign: str = ""
    payload_bits: int = 0
    delays: int | np.ndarray | None = None
    rule: LearningRule | None = None
    modulators: Mapping[str, str] = field(default_factory=dict)
    port: str = "a"

    def __post_init__(self) -> None:
        who = f"connection {self.name!r}: "
        weights = np.asarray(self.weights)
        if weights.ndim != 2 or weights.size == 0:
            raise ConfigError(f"{who}weights must be (n_post, n_pre), found shape {weights.shape}")
        check_range(who + "weights", weights, -256, 255, "scale, round and pass them through quantize_weights first")
        sign = self.sign or ("mixed" if self.rule else choose_sign(weights))
        if sign not in SIGNS:
            raise ConfigError(f"{who}sign must be one of {', '.join(SIGNS)}, found {sign!r}")
        most = 9 if self.rule is not None and sign == "mixed" else 8
        check_range(
            who + "bits", self.bits, 1, most, "weights have at most 8 bits (9: plastic, mixed, already learned)"
        )
        check_range(who + "exponent", self.exponent, -8, 7, "a weight exponent has 4 bits")
        check_range(who + "payload_bits", self.payload_bits, 0, 24, "0 is binary")
        kept = quantize_weights(weights, self.bits, sign)
        if not np.array_equal(kept, weights):
            worst = np.argmax(kept != weights)
            step = 1 << (8 - self.bits + (sign == "mixed"))
            raise ConfigError(
                f"{who}{int((kept != weights).sum())} weights are not what {self.bits}-bit {sign} synapses keep "
                f"(multiples of {step}, sign-checked), first {weights.flat[worst]} which becomes {kept.flat[worst]}; "
                "use quantize_weights(weights, bits, sign)"
            )
        object.__setattr__(self, "weights", _frozen(weights, np.int16))
        object.__setattr__(self, "sign", sign)
        object.__setattr__(self, "modulators", dict(self.modulators))
        if self.delays is not None:
            check_range(
                who + "delays", self.delays, 0, MAX_DELAY, "Loihi 2 delays have 6 bits; insert a relay population"
            )
            if np.shape(self.delays) not in ((), weights.shape):
                raise ConfigError(f"{who}delays must be one number or {weights.shape}, found {np.shape(self.delays)}")
            if self.rule is not None:
                raise ConfigError(f"{who}a plastic connection has no delays in Lava; put them on a relay population")
            object.__setattr__(self, "delays", _frozen(np.broadcast_to(self.delays, weights.shape), np.int8))
        if self.port not in ("a", "target"):
            raise ConfigError(f"{who}port must be 'a' or 'target', found {self.port!r}")
        if unknown := sorted(set(self.modulators) - set(TRACES)):
            raise ConfigError(f"{who}modulators are for {', '.join(TRACES)}, found {unknown[0]!r}")
        if self.modulators and not (self.rule and self.rule.three_factor):
            raise ConfigError(f"{who}modulators need a rule with three_factor=True")

    @property
    def learns(self) -> bool:
        """Whether its rule can change a weight; an IDLE one is there for 9-bit weights alone (`plastic.frozen`)."""
        return self.rule is not None and (self.rule.dw, self.rule.dt) != (IDLE, "")

    @property
    def max_delay(self) -> int:
        """Longest extra delay in steps."""
        return 0 if self.delays is None else int(np.max(self.delays))


def _frozen(array: Any, dtype: Any) -> np.ndarray:
    copy = np.array(array, dtype, order="C")
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network whose every number is the one the simulators and Lava use.

    Args:
        inputs: what comes from outside, at least one.
        populations: at least one.
        connections: in the order in which a population sums them; there may be several between the same two.
        notes: anything JSON can hold, kept with the file: scale factors, where it came from.

    Raises:
        ConfigError: names clash, a size does not fit, or a rule cannot get its signals.
    """

    inputs: Sequence[Input]
    populations: Sequence[Population]
    connections: Sequence[Connection]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "populations", "connections"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.inputs or not self.populations:
            raise ConfigError(
                f"a network needs an input and a population, found {len(self.inputs)}, {len(self.populations)}"
            )
        names = [*(i.name for i in self.inputs), *(p.name for p in self.populations)]
        for kind, given in (("input or population", names), ("connection", [c.name for c in self.connections])):
            for name in given:
                if not isinstance(name, str) or not name or "." in name or "/" in name:
                    raise ConfigError(f"{kind} name must be a non-empty text without '.' or '/', found {name!r}")
            if twice := sorted({name for name in given if given.count(name) > 1}):
                raise ConfigError(f"two parts are called {twice[0]!r}; {kind} names must differ")
        for connection in self.connections:
            self._check_connection(connection)

    def _check_connection(self, c: Connection) -> None:
        who = f"connection {c.name!r}: "
        sizes, kinds = self.sizes, {p.name: p.kind for p in self.populations}
        if c.pre not in sizes:
            raise ConfigError(f"{who}pre {c.pre!r} is not there; inputs and populations are {', '.join(sizes)}")
        if c.post not in kinds:
            raise ConfigError(f"{who}post {c.post!r} is not a population; there are {', '.join(kinds)}")
        if c.weights.shape != (sizes[c.post], sizes[c.pre]):
            raise ConfigError(
                f"{who}weights must be (n_post, n_pre) = ({sizes[c.post]}, {sizes[c.pre]}), found {c.weights.shape}; "
                "a row is a post neuron"
            )
        if c.port == "target" and kinds[c.post] != "error":
            raise ConfigError(f"{who}only error units have a port 'target'; {c.post!r} is of kind {kinds[c.post]!r}")
        if c.rule is None or not c.rule.three_factor:
            if c.rule is not None and kinds[c.post] == "error":
                raise ConfigError(f"{who}an error unit sends its own traces; give the rule three_factor=True")
            return
        if not c.modulators and kinds[c.post] != "error":
            raise ConfigError(
                f"{who}a three-factor rule needs y0..y3: make {c.post!r} an error unit, or name modulators"
            )
        for trace, source in c.modulators.items():
            base, _, port = source.partition(".")
            if port and (kinds.get(base) != "error" or port not in TRACES):
                raise ConfigError(f"{who}modulator {trace} = {source!r}: only error units have {', '.join(TRACES)}")
            if sizes.get(base) != sizes[c.post]:
                raise ConfigError(
                    f"{who}modulator {trace} = {source!r} must name an input or population of {sizes[c.post]}, "
                    f"found {sizes.get(base, 'none')}"
                )

    @property
    def sizes(self) -> dict[str, int]:
        """name -> number of channels or neurons, inputs first."""
        return {i.name: i.size for i in self.inputs} | {p.name: p.size for p in self.populations}

    def population(self, name: str) -> Population:
        """The population called `name`."""
        return next(p for p in self.populations if p.name == name)

    def connection(self, name: str) -> Connection:
        """The connection called `name`."""
        return next(c for c in self.connections if c.name == name)

    def modulators(self, connection: Connection) -> dict[str, str]:
        """Where a three-factor connection takes y0..y3, error units' own ones filled in."""
        if connection.rule is None or not connection.rule.three_factor:
            return {}
        return dict(connection.modulators) or {trace: f"{connection.post}.{trace}" for trace in TRACES}

    def check_inputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Spike arrays (B, T, size) per input, values and shapes checked; booleans become int8.

        Raises:
            InputError: an input is missing, unknown, of another shape or out of its payload's range.
        """
        if set(inputs) != {i.name for i in self.inputs}:
            raise InputError(f"give spikes for the inputs {[i.name for i in self.inputs]}, found {sorted(inputs)}")
        checked: dict[str, np.ndarray] = {}
        shape: tuple[int, ...] | None = None
        for spec in self.inputs:
            array = np.asarray(inputs[spec.name])
            if array.ndim != 3 or array.shape[2] != spec.size:
                raise InputError(f"input {spec.name!r} must be (batch, steps, {spec.size}), found {array.shape}")
            if shape is not None and array.shape[:2] != shape:
                raise InputError(f"input {spec.name!r} must have batch and steps {shape}, found {array.shape[:2]}")
            shape = array.shape[:2]
            if array.dtype == bool:
                array = array.view(np.int8)
            if array.dtype.kind not in "iu":
                raise InputError(
                    f"input {spec.name!r} must be integers or booleans, found {array.dtype}; spikes are integers"
                )
            low = -spec.limit if spec.payload_bits else 0
            if array.size and (array.min() < low or array.max() > spec.limit):
                raise InputError(
                    f"input {spec.name!r} must be in {low}..{spec.limit}, found {array.min()}..{array.max()}; "
                    "raise the input's payload_bits or scale the spikes"
                )
            checked[spec.name] = array.astype(np.int8 if spec.limit <= 127 else np.int32, copy=False)
        return checked
