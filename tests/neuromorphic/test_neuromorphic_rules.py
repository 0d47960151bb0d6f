"""Learning rules: grammar, limits, and the hidden shift of the notes."""

import pytest

from edgessl.errors import ConfigError
from neuromorphic.rules import Factor, LearningRule, Product, parse_products


def test_products_are_read_term_by_term() -> None:
    assert parse_products("2^-7*x0*y1 - 3*2^-2*y0*(x1-5)*sgn(w) + u2*t", "dw") == (
        Product(1, -7, "x0", (Factor("y1"),)),
        Product(-3, -2, "y0", (Factor("x1", -5), Factor("w", 0, True))),
        Product(1, 0, "u", (Factor("t"),), 2),
    )
    # the second of two spike conditions is a factor
    assert parse_products("-x0*y0", "dw") == (Product(-1, 0, "x0", (Factor("y0"),)),)


@pytest.mark.parametrize("text", ["2^-4*x0*(y1+3)*sgn(w+2) - 2^3*u1*w", "-8*2^8*y0*x1*x2", "x0"])
def test_what_is_written_reads_back(text: str) -> None:
    products = parse_products(text, "dw")
    assert parse_products(" + ".join(map(str, products)).replace("+ -", "- "), "dw") == products


def test_the_hidden_shift_is_the_notes() -> None:
    # notes/lava.md 0.5: x1 for one trace, divided by 8 for two, by 1024 for three
    rule = LearningRule("2^-6*y0*x1 + 2^-6*y0*x1*y1 + 2^-7*u0*x1*y1*y2")
    assert [p.hidden_shift for p in rule.weight_products] == [0, 3, 10]
    assert "divided by 1024" in rule.explain()[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2^-8*x0*y1", ["exponent", "-7..8", "-8"]),  # refused by Lava too
        ("8*x0*y1", ["mantissa", "-8..7", "8"]),
        ("2^-4*x1*y1", ["no dependency", "x0, y0 or u0"]),
        ("x0*u0*q", ["cannot read"]),
        ("u0*w - u1*w", ["one uK", "[0, 1]"]),
        ("u12*w", ["K of uK", "0..9"]),
        ("x0*sgn(y1)", ["sgn() takes w or t"]),
        ("x0*(y1", ["brackets"]),
        ("x0 +", ["empty"]),
        ("", ["dw or dt"]),
    ],
)
def test_what_the_engine_has_not_is_refused(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        LearningRule(text)
    for word in words:
        assert word in str(found.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x1_impulse": 128}, ["x1_impulse", "0..127"]),
        ({"y2_tau": -1}, ["y2_tau", "0..65535"]),
        ({"t_epoch": 64}, ["t_epoch", "1..63", "64"]),
        ({"t_epoch": 0}, ["t_epoch"]),
        ({"graded": "sum"}, ["graded", "overwrite", "sum"]),
        ({"three_factor": True, "y1_impulse": 3}, ["y1_impulse", "three-factor"]),
    ],
)
def test_parameters_out_of_range_are_refused(given: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        LearningRule("x0*y1", **given)  # type: ignore[arg-type]
    for word in words:
        assert word in str(found.value)


def test_json_keeps_the_rule() -> None:
    rule = LearningRule("x0*y1", "x0*t", x1_impulse=3.25, t_epoch=4, seed=9, graded="add")
    assert LearningRule.from_json(rule.to_json()) == rule
    with pytest.raises(ConfigError, match="'gain'"):
        LearningRule.from_json({"dw": "x0*y1", "gain": 2})
