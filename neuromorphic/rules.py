"""Learning rules as Loihi's engine takes them: sums of products, with the limits and the hidden right-shift stated.

    rule = LearningRule("2^-4*x0*y1 - 2^-4*y0*x1", x1_impulse=16, x1_tau=10, y1_impulse=16, y1_tau=10)
    print(rule.explain())

A product is `mantissa * 2^exponent * dependency * factors`. Dependencies: x0 (a pre spike), y0 (a post spike or gate),
uK (every 2^K-th epoch). Factors: the traces x1 x2 y1 y2 y3, the weight w, the tag t, x0, y0, each with an added
constant as in `(y1-3)`, and sgn(w), sgn(t). The engine is Lava 0.10.0's fixed-point one (lava/magma/core/learning):
its accumulator has 15 bits, so a product is shifted right by `sum of factor widths + 4 - 15` bits where that is
positive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from edgessl.errors import ConfigError

# bits of each factor; the mantissa has 4 and the accumulator 15
FACTOR_BITS = {"x0": 1, "y0": 1, "x1": 7, "x2": 7, "y1": 7, "y2": 7, "y3": 7, "w": 9, "t": 9}
MANTISSA_BITS, ACCUMULATOR_BITS = 4, 15
DEPENDENCIES = ("x0", "y0", "u")
GRADED_MODES = ("impulse", "overwrite", "add", "add_overflow")  # Lava's GradedSpikeCfg 0..3

_NUMBER = re.compile(r"[+-]?\d+")
_POWER = re.compile(r"2\^\(?([+-]?\d+)\)?")
_DECIMATED = re.compile(r"u(\d+)")
_FACTOR = re.compile(r"(sgn)?\(*\(?([a-z]\d?)([+-]\d+)?\)*")


@dataclass(frozen=True)
class Factor:
    """`state + constant`, or its sign."""

    state: str
    constant: int = 0
    sign: bool = False

    def __str__(self) -> str:
        text = f"({self.state}{self.constant:+d})" if self.constant else self.state
        return (f"sgn{text}" if self.constant else f"sgn({text})") if self.sign else text


@dataclass(frozen=True)
class Product:
    """`mantissa * 2^exponent * dependency * factors`; `decimate` is the K of uK."""

    mantissa: int
    exponent: int
    dependency: str
    factors: tuple[Factor, ...] = ()
    decimate: int = 0

    @property
    def hidden_shift(self) -> int:
        """Bits that the engine shifts this product to the right: 0 for one trace, 3 for two, 10 for three."""
        width = sum(FACTOR_BITS[factor.state] for factor in self.factors)
        return max(0, width + MANTISSA_BITS - ACCUMULATOR_BITS)

    def __str__(self) -> str:
        dependency = f"u{self.decimate}" if self.dependency == "u" else self.dependency
        scale = [str(self.mantissa)] if self.exponent == 0 else [str(self.mantissa), f"2^{self.exponent}"]
        return "*".join([*scale, dependency, *map(str, self.factors)])


def parse_products(text: str, target: str) -> tuple[Product, ...]:
    """The products of the right-hand side `text` of `target` ("dw" or "dt").

    Raises:
        ConfigError: the text does not parse, or a number is out of the engine's range.
    """
    compact = re.sub(r"\s+", "", text).replace("**", "^").replace("·", "*")
    # a sign splits products unless it belongs to an exponent or stands inside brackets
    pieces, depth, start = [], 0, 0
    for position, letter in enumerate(compact):
        depth += (letter == "(") - (letter == ")")
        if letter in "+-" and depth == 0 and position > start and compact[position - 1] not in "^*+-":
            pieces.append(compact[start:position])
            start = position
    pieces.append(compact[start:])
    if depth or not all(piece.strip("+-") for piece in pieces):
        raise ConfigError(f"{target} = {text!r}: brackets do not match or a product is empty; write e.g. '2^-4*x0*y1'")
    products = tuple(_product(piece, target, text) for piece in pieces)
    decimated = {product.decimate for product in products if product.dependency == "u"}
    if len(decimated) > 1:
        raise ConfigError(f"{target} = {text!r}: one uK per rule, found K = {sorted(decimated)}; use the same K")
    return products


def _product(piece: str, target: str, text: str) -> Product:
    negative = piece.startswith("-")
    mantissa, exponent, dependency, decimate = 1, 0, "", 0
    factors: list[Factor] = []
    for token in piece.lstrip("+-").split("*"):
        if power := _POWER.fullmatch(token):
            exponent += int(power[1])
        elif _NUMBER.fullmatch(token):
            mantissa *= int(token)
        elif token in ("x0", "y0") and not dependency:
            dependency = token
        elif (decimated := _DECIMATED.fullmatch(token)) and not dependency:
            dependency, decimate = "u", int(decimated[1])
        elif (found := _FACTOR.fullmatch(token)) and found[2] in FACTOR_BITS:
            factors.append(Factor(found[2], int(found[3] or 0), found[1] is not None))
        else:
            known = ", ".join(FACTOR_BITS)
            raise ConfigError(
                f"{target} = {text!r}: cannot read {token!r}; factors are {known}, uK, (y1-3), sgn(w), 2^-4"
            )
    if negative:
        mantissa = -mantissa
    if not dependency:
        raise ConfigError(f"{target} = {text!r}: the product {piece!r} has no dependency; begin it with x0, y0 or u0")
    for name, value, low, high in (
        ("mantissa", mantissa, -8, 7),
        ("exponent", exponent, -7, 8),
        ("K of uK", decimate, 0, 9),
    ):
        if not low <= value <= high:
            raise ConfigError(
                f"{target} = {text!r}: {name} must be in {low}..{high}, found {value} in {piece!r}; "
                "the engine keeps no more bits: split the product or rescale traces"
            )
    for factor in factors:
        if factor.sign and factor.state not in ("w", "t"):
            raise ConfigError(f"{target} = {text!r}: sgn() takes w or t, found {factor.state}")
    return Product(mantissa, exponent, dependency, tuple(factors), decimate)


@dataclass(frozen=True)
class LearningRule:
    """A plastic connection's rule.

    Args:
        dw: change of the weight, for instance "2^-4*x0*y1 - 2^-4*y0*x1".
        dt: change of the tag t, or "".
        x1_impulse: added to x1 at a pre spike, 0..127; its fraction is rounded stochastically. So are the others.
        x1_tau: time constant in steps of x1's exponential decay, >= 0; 0 forgets at once. So are the others.
        t_epoch: steps between two applications of the rule, 1..63.
        seed: of the trace roundings; weights and tags are rounded with a stream of Lava's that never changes.
        three_factor: y1, y2, y3 and the gate y0 come from outside the connection (an error unit, or `modulators`), so
            the y impulses and time constants do not apply.
        graded: what a graded spike does to x1: "impulse" (as a binary one), "overwrite" with payload/2, "add" payload/2
            saturating at 127, "add_overflow" (what exceeds 127 stays, and x2 gets the impulse). Not "impulse":
            x1_impulse counts as 0.

    Raises:
        ConfigError: a text does not parse or a number is out of range.
    """

    dw: str
    dt: str = ""
    x1_impulse: float = 0.0
    x1_tau: float = 0.0
    x2_impulse: float = 0.0
    x2_tau: float = 0.0
    y1_impulse: float = 0.0
    y1_tau: float = 0.0
    y2_impulse: float = 0.0
    y2_tau: float = 0.0
    y3_impulse: float = 0.0
    y3_tau: float = 0.0
    t_epoch: int = 1
    seed: int = 1
    three_factor: bool = False
    graded: str = "impulse"

    def __post_init__(self) -> None:
        if not self.dw and not self.dt:
            raise ConfigError("a learning rule needs dw or dt; found neither")
        for name in ("x1", "x2", "y1", "y2", "y3"):
            impulse, tau = getattr(self, f"{name}_impulse"), getattr(self, f"{name}_tau")
            if not 0 <= impulse <= 127:
                raise ConfigError(f"{name}_impulse must be in 0..127, found {impulse}; traces have 7 bits")
            if not 0 <= tau < 65536:
                raise ConfigError(f"{name}_tau must be in 0..65535 steps, found {tau}")
            if self.three_factor and name[0] == "y" and (impulse or tau):
                raise ConfigError(
                    f"{name}_impulse and {name}_tau do not apply to a three-factor rule, found {impulse}, {tau}; "
                    "the post-synaptic side computes y1..y3 itself"
                )
        if not (isinstance(self.t_epoch, int) and 1 <= self.t_epoch <= 63):
            raise ConfigError(f"t_epoch must be an integer in 1..63 steps, found {self.t_epoch!r}")
        if self.graded not in GRADED_MODES:
            raise ConfigError(f"graded must be one of {', '.join(GRADED_MODES)}, found {self.graded!r}")
        ks = {p.decimate for p in (*self.weight_products, *self.tag_products) if p.dependency == "u"}
        if len(ks) > 1:
            raise ConfigError(f"one uK per rule, found K = {sorted(ks)} in dw and dt; use the same K")

    @cached_property
    def weight_products(self) -> tuple[Product, ...]:
        """The products of dw."""
        return parse_products(self.dw, "dw") if self.dw else ()

    @cached_property
    def tag_products(self) -> tuple[Product, ...]:
        """The products of dt."""
        return parse_products(self.dt, "dt") if self.dt else ()

    @property
    def decimate(self) -> int:
        """K of uK; 0 where the rule has none."""
        return max((p.decimate for p in (*self.weight_products, *self.tag_products)), default=0)

    @property
    def event_driven(self) -> bool:
        """Whether synapses of silent inputs cannot change: every product waits for a pre spike, and there is no tag.

        A tag can stand at -257, below its accumulator's range, and is then rounded again in every epoch.
        """
        return not self.dt and all(p.dependency == "x0" for p in self.weight_products)

    @property
    def impulses(self) -> tuple[float, ...]:
        """Of x1, x2, y1, y2, y3 as the engine applies them."""
        first = self.x1_impulse if self.graded == "impulse" else 0.0
        return first, self.x2_impulse, self.y1_impulse, self.y2_impulse, self.y3_impulse

    @property
    def taus(self) -> tuple[float, ...]:
        """Of x1, x2, y1, y2, y3; Lava gives the y traces of a three-factor rule 65535 steps."""
        post = (65535.0,) * 3 if self.three_factor else (self.y1_tau, self.y2_tau, self.y3_tau)
        return (self.x1_tau, self.x2_tau, *post)

    def explain(self) -> list[str]:
        """A line per product with what the engine really computes; the hidden right-shift is what surprises people."""
        lines = []
        for target, products in (("dw", self.weight_products), ("dt", self.tag_products)):
            for product in products:
                shift = product.hidden_shift
                says = f"shifted right by {shift} bits (divided by {1 << shift})" if shift else "not shifted"
                lines.append(f"{target}: {product} is {says}; effective exponent {product.exponent - shift}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The fields, for the network file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LearningRule:
        """The rule of a network file.

        Raises:
            ConfigError: an unknown field, or a value out of range.
        """
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown learning-rule field {unknown[0]!r}; known are {[f.name for f in fields(cls)]}")
        return cls(**data)
