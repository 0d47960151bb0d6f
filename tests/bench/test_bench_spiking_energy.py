from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgessl.bench import load_bench
from edgessl.bench.spiking import data as spiking_data
from edgessl.bench.spiking import energy as spiking_energy
from edgessl.errors import ConfigError

TINY = spiking_data.Case(
    "digits", 200, 100,
    {"hidden": [12, 8], "epochs": 1, "batch_size": 32, "encoder": {"name": "regular", "options": {"steps": 6}}},
    block=3, parts=2,
)  # fmt: skip


def test_what_is_counted_is_priced_with_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spiking_energy, "CASES", {"digits": TINY})
    out = tmp_path / "energy.json"
    found = load_bench("spiking_energy")(samples=5, out=str(out))
    assert json.loads(out.read_text())["rows"] == json.loads(json.dumps(found["rows"]))
    rows = {row["network"]: row for row in found["rows"]}
    assert list(rows) == ["predictive, 8 bits", "ESPP", "ESPP, learning"]
    coder = rows["predictive, 8 bits"]
    assert (coder["samples"], coder["steps"], coder["neurons"]) == (5, 6, 20)
    updates = coder["ledger"]["counts"]["driven_update"] + coder["ledger"]["counts"].get("idle_update", 0)
    assert updates == 5 * 6 * 20
    twin, channels = coder["priced"][-1], spiking_data.load(TINY).train.shape[1]
    assert twin["subject"] == "dense int8 twin"
    assert twin["terms"]["multiply_accumulate"]["count"] == 5 * (channels * 12 + 12 * 8)
    assert "weight_update" not in rows["ESPP"]["ledger"]["counts"]
    learning = rows["ESPP, learning"]
    assert learning["ledger"]["counts"]["weight_update"] > 0
    assert [p["table"] for p in learning["priced"]] == ["loihi1-2018-presilicon", "horowitz-45nm-int8"]
    for row in found["rows"]:
        for priced in row["priced"]:
            assert priced["source"]
            assert priced["grade"] in ("measured", "simulated", "derived")
            assert "Loihi 2 energy" not in json.dumps(priced)
            if not priced["unknown"]:
                low, high = priced["band_joules_per_sample"]
                assert low <= priced["joules_per_sample"] <= high


def test_unknown_data_are_refused() -> None:
    assert set(spiking_energy.SERIES) <= set(spiking_data.CASES)
    with pytest.raises(ConfigError, match="unknown data 'mnist'"):
        spiking_energy.run(["mnist"])
