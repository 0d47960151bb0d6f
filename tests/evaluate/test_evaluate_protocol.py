"""Protocols: equal where everything is, and no table that mixes two."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from edgessl.errors import FormatError, InputError
from edgessl.evaluate import Protocol, Result, merge, table

PROTOCOL = Protocol(
    data="digits",
    train_hash="a" * 64,
    test_hash="b" * 64,
    split="the data's own",
    train_size=1200,
    test_size=597,
    labels=1200,
    probes={"knn": {"k": 20, "temperature": 0.1}, "linear": {"C": 1}},
    epochs=30,
    seeds=(0,),
)


def result(name: str, protocol: Protocol = PROTOCOL, **figures: float) -> Result:
    return Result(name, protocol, {probe: (value,) for probe, value in figures.items()})


def test_json_round_trip_keeps_everything() -> None:
    before = Result("simclr", PROTOCOL, {"knn": (0.9,)}, "variant", {"curve": [1, 2]})
    after = Result.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before
    assert after.protocol.digest == PROTOCOL.digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "fashion_mnist"),
        ("train_hash", "c" * 64),
        ("test_hash", "c" * 64),
        ("split", "a fifth held out"),
        ("train_size", 1199),
        ("test_size", 1),
        ("labels", 12),
        ("probes", {"knn": {"k": 5, "temperature": 0.1}, "linear": {"C": 1}}),
        ("epochs", 31),
        ("seeds", (1,)),
        ("weights", "best epoch"),
        ("normalisation", "none"),
        ("version", "0"),
    ],
)
def test_every_field_counts_and_the_error_names_it(field: str, value: object) -> None:
    other = replace(PROTOCOL, **{field: value})  # type: ignore[arg-type]
    assert other.digest != PROTOCOL.digest
    name = "probes.knn.k: 20, 5" if field == "probes" else f"{field}: "
    with pytest.raises(InputError, match="'simclr' and 'byol' were not evaluated by one protocol") as error:
        table([result("simclr", knn=0.9), result("byol", other, knn=0.8)])
    assert name in str(error.value)


def test_the_digest_does_not_depend_on_the_order_of_settings() -> None:
    turned = replace(PROTOCOL, probes={"linear": {"C": 1}, "knn": {"temperature": 0.1, "k": 20}})
    assert turned.digest == PROTOCOL.digest
    assert table([result("a", knn=1.0), result("b", turned, knn=0.0)]).rows[1][1][0] is not None


def test_an_altered_result_is_refused() -> None:
    written = result("simclr", knn=0.9).to_json()
    written["protocol"]["epochs"] = 300
    with pytest.raises(FormatError, match="its protocol was altered"):
        Result.from_json(written)
    with pytest.raises(FormatError, match="not a result"):
        Result.from_json({"name": "x"})
    with pytest.raises(FormatError, match="unknown fields \\['luck'\\]"):
        Protocol.from_json({**PROTOCOL.to_json(), "luck": 1})


def test_a_figure_needs_a_probe_and_one_value_per_seed() -> None:
    with pytest.raises(InputError, match="figure 'rank' is not in its protocol"):
        result("simclr", rank=3.0)
    with pytest.raises(InputError, match="2 values of 'knn' for 1 seeds"):
        Result("simclr", PROTOCOL, {"knn": (0.1, 0.2)})


def test_narrowing_makes_two_suites_comparable() -> None:
    quick = replace(PROTOCOL, probes={"knn": {"k": 20, "temperature": 0.1}})
    full = result("simclr", knn=0.9, linear=0.95)
    with pytest.raises(InputError, match=r"probes\.linear\.C: 1, 'absent'"):
        table([full, result("byol", quick, knn=0.8)])
    found = table([full.only("knn"), result("byol", quick, knn=0.8)])
    assert found.columns == ("knn",)
    with pytest.raises(InputError, match="no probe 'rank'; it has knn, linear"):
        full.only("rank")


def test_seeds_are_pooled_once() -> None:
    rows = [result("simclr", replace(PROTOCOL, seeds=(s,)), knn=v) for s, v in ((0, 0.8), (1, 0.9), (2, 0.7))]
    pooled = merge(rows)
    assert pooled.protocol.seeds == (0, 1, 2)
    ((name, cells),) = table([pooled]).rows
    assert name == "simclr"
    mean, std = cells[0] or (math.nan, math.nan)
    assert (mean, std) == (pytest.approx(0.8), pytest.approx(0.1))  # n - 1
    assert "| simclr | 80.0 ± 10.0 |" in table([pooled]).markdown()
    with pytest.raises(InputError, match="hold one twice"):
        merge([rows[0], rows[0]])
    with pytest.raises(InputError, match="epochs: 30, 31"):
        merge([rows[0], result("simclr", replace(PROTOCOL, seeds=(5,), epochs=31), knn=0.1)])
    with pytest.raises(InputError, match="cannot be pooled"):
        merge([rows[0], result("byol", replace(PROTOCOL, seeds=(5,)), knn=0.1)])
    with pytest.raises(InputError, match="seeds"):
        table([pooled, rows[0]])


def test_a_missing_figure_is_a_dash_not_a_zero() -> None:
    found = table([result("simclr", knn=0.5, linear=0.25), result("random", knn=0.125)])
    assert found.rows[1][1][1] is None
    text = found.markdown()
    assert "| random | 12.5 | – |" in text
    assert PROTOCOL.digest[:12] in text
    assert "1,200 + 597 samples, 30 epochs, last epoch, 1 seed" in text
    with pytest.raises(InputError, match="one result or more"):
        table([])
