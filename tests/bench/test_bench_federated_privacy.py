"""The privacy bench: what its table says, and that the page shows what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench.federated.privacy import BUDGET, CLIPPING_NORM, DELTA, NOISE, multiplier, run, table
from edgessl.errors import ConfigError
from federated.privacy.gaussian import epsilon

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "examples" / "results" / "federated_privacy.json"


def test_the_multiplier_is_the_least_that_keeps_the_budget():
    least = multiplier(12, BUDGET, DELTA)
    assert epsilon(12, least, DELTA) <= BUDGET < epsilon(12, 0.999 * least, DELTA)


def row(noise, seed, knn):
    return {"noise": noise, "seed": seed, "clients": 16, "epsilon": 1234.5 if noise else None, "knn": knn}


def test_the_table_pairs_seeds_and_names_the_fleet():
    rows = [row(0.0, 0, 80.0), row(0.0, 1, 82.0), row(0.1, 0, 70.0), row(0.1, 1, 76.0)]
    lines = table({"rows": rows, "settings": {"rounds": 12, "delta": DELTA}}).splitlines()
    assert lines[2] == "| 0 | – | 81.0 ± 1.4 | +0.0 ± 0.0 | – |"
    devices = float(f"{160 * multiplier(12, BUDGET, DELTA):.2g}")
    assert lines[3] == f"| 0.1 | 1,234 | 73.0 ± 4.2 | -8.0 ± 2.8 | {devices:,.0f} |"


def test_a_result_with_another_norm_is_not_continued(tmp_path):
    found = json.loads(RESULT.read_text())
    found["settings"]["clipping_norm"] = 1.0
    (tmp_path / "r.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match="measured with other settings"):
        run(out=str(tmp_path / "r.json"))


def test_the_page_shows_what_was_measured():
    result = json.loads(RESULT.read_text())
    assert result["settings"]["clipping_norm"] == CLIPPING_NORM
    assert {(r["noise"], r["seed"]) for r in result["rows"]} == {(z, seed) for z in NOISE for seed in range(3)}
    assert np.isfinite([r["knn"] for r in result["rows"]]).all()
    assert table(result) in (ROOT / "docs" / "federated_codecs.md").read_text()
