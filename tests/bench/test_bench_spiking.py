from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench import load_bench
from edgessl.bench.spiking import data as spiking_data
from edgessl.bench.spiking import run as spiking
from edgessl.bench.spiking import systems as spiking_systems
from edgessl.errors import ConfigError, DataError

TINY = spiking_data.Case(
    "digits", 200, 100,
    {"hidden": [12, 8], "epochs": 1, "batch_size": 32, "encoder": {"name": "regular", "options": {"steps": 6}}},
    block=3, parts=2,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spiking, "CASES", {"digits": TINY})


def test_rows_say_what_was_trained_and_a_bench_goes_on_where_it_was(tiny: None, tmp_path: Path) -> None:
    out = tmp_path / "spiking.json"
    said: list[str] = []
    found = load_bench("spiking")(
        systems=["input", "random", "predictive"], seeds=2, out=str(out), progress=said.append
    )
    rows = found["rows"]
    assert len(said) == 5  # the input has one seed
    assert {row["label_bits_in_training"] for row in rows} == {0}
    assert all(0 <= row["linear"] <= 1 for row in rows)
    integers = [row for row in rows if row["bits"] is not None]
    assert {row["mismatches"] for row in integers} == {0}
    assert {(row["bits"], row["training"], row["read_out"]) for row in integers} == {
        *((bits, "floats", how) for bits in (8, 4) for how in ("refit", "kept")),
        (4, "integers", "refit"),
    }
    one = next(s for s in found["summary"] if s["system"] == "random")
    values = [row["linear"] for row in rows if row["system"] == "random"]
    assert one["linear"] == pytest.approx(np.mean(values))
    assert one["std"] == pytest.approx(np.std(values, ddof=1))
    said.clear()
    again = spiking.run(systems=["random", "dense"], seeds=1, out=str(out), progress=said.append)
    assert [line.split(":")[0] for line in said] == ["digits dense 0 0.001"]
    assert json.loads(out.read_text())["rows"] == again["rows"]
    assert again["rows"][: len(rows)] == rows


def test_what_the_bench_refuses(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown data 'mnist'"):
        spiking.run(data=["mnist"])
    with pytest.raises(ConfigError, match="unknown system 'gru'"):
        spiking.run(systems=["gru"])
    out = tmp_path / "x.json"
    out.write_text("{}")
    with pytest.raises(DataError, match="not the result of a bench"):
        spiking.run(out=str(out))
    out.write_text(json.dumps({"bench": "spiking", "settings": {}, "rows": []}))
    with pytest.raises(ConfigError, match="other settings"):
        spiking.run(out=str(out))


def test_training_and_test_samples_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # more test samples than the test part has are taken from what training leaves of the other
    case = spiking_data.Case("digits", 300, 800, TINY.recipe, block=3, parts=2)
    data = spiking_data.load(case)
    assert (len(data.train), len(data.test)) == (300, 800)
    assert not set(data.train.indices) & set(data.test.indices)
    choosing = spiking_data.load(case, choosing=True)
    assert (len(choosing.train), len(choosing.test)) == (225, 75)
    both = np.concatenate([choosing.train.indices, choosing.test.indices])
    assert sorted(both) == sorted(data.train.indices)  # what validates is training data, and nothing of it trains


def test_settings_are_chosen_on_validation_samples_and_taken_by_the_test_stage(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spiking, "GRID", {"random": (), "stdp": (0.0, -1.0), "dense": (1e-3, 3e-3)})
    path = tmp_path / "choice.json"
    found = spiking.run(stage="choose", out=str(path))
    assert {row["seed"] for row in found["rows"]} == {100}
    assert {(row["system"], row["setting"]) for row in found["rows"]} == {
        ("stdp", 0.0), ("stdp", -1.0), ("dense", 1e-3), ("dense", 3e-3)
    }  # fmt: skip
    best = {
        system: max((row["linear"], row["setting"]) for row in found["rows"]
                    if row["system"] == system and row["training"] != "none")[0]
        for system in ("stdp", "dense")
    }  # fmt: skip
    chosen = spiking.read_choices(path)["digits"]
    for row in found["rows"]:
        if row["setting"] == chosen[row["system"]] and row["training"] != "none":
            assert row["linear"] == best[row["system"]]
    judged = spiking.run(systems=["stdp"], seeds=1, chosen=str(path))
    assert {row["setting"] for row in judged["rows"]} == {chosen["stdp"]}
    assert [row["training"] for row in judged["rows"]] == ["none", "local"]
    assert judged["chosen"] == {"digits": chosen}
    monkeypatch.setitem(spiking.GRID, "random2", (1.0,))
    with pytest.raises(ConfigError, match="nothing was chosen for 'random2'"):
        spiking.run(systems=["random2"], seeds=1, chosen=str(path))
    with pytest.raises(DataError, match="not what --set stage=choose wrote"):
        spiking.read_choices(tmp_path / "none.json")


@pytest.mark.parametrize("system", spiking_systems.LOCAL)
def test_local_rules_learn_from_spikes_and_their_features_have_a_class(tiny: None, system: str) -> None:
    data = spiking_data.load(TINY)
    before, after = spiking_systems.measure(data, system, seed=0)
    assert (before["training"], after["training"]) == ("none", "local")
    assert after["dimensions"] == 20
    assert 0 < after["rate"] < 0.5
    if system == "stdp":  # competition without a threshold of each neuron's own ends in a few features; docs say so
        assert after["rankme"] < before["rankme"]
    else:
        assert after["rankme"] != before["rankme"]  # other features than the first weights'
        assert after["linear"] > 0.3  # of ten classes
