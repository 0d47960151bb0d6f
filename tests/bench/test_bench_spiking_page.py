from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgessl.bench.spiking import page as spiking_page

MACHINE = {"cpu": "a processor", "cores": 2}


def row(system: str, training: str, linear: float, bits: int | None = None, read_out: str = "refit") -> dict[str, Any]:
    return {"data": "fsdd", "system": system, "training": training, "bits": bits, "read_out": read_out, "seeds": 3,
            "linear": linear, "std": 0.01}  # fmt: skip


@pytest.fixture
def result() -> dict[str, Any]:
    rows = [
        row("random", "none", 0.70), row("predictive", "floats", 0.80), row("predictive", "floats", 0.797, 8, "kept"),
        row("predictive", "floats", 0.60, 4, "kept"), row("predictive", "integers", 0.79, 4),
        row("contrast", "floats", 0.82), row("espp", "none", 0.65, 8), row("espp", "local", 0.76, 8),
    ]  # fmt: skip
    return {"machine": MACHINE, "summary": rows, "rows": [{"mismatches": 0}, {"mismatches": 2}]}


def test_targets_are_told_as_they_are(result: dict[str, Any], tmp_path: Path) -> None:
    text = spiking_page.learning(result)
    assert "8 bits within 0.5 points of floats: met by after training, read-out kept (+0.3 points lost" in text
    assert "4 bits within 2 points of floats: met by trained on in integers, read-out refitted" in text
    assert "**not met** by espp (+6.0 points below; +6.0 beside random spiking features)" in text
    assert "2 mismatches in all rows" in text
    assert "| espp, first weights | 65.0 ± 1.0 |" in text
    result["summary"][-1]["linear"] = 0.78
    assert "met by espp (+4.0 points below" in spiking_page.learning(result)
    result["summary"] = [r for r in result["summary"] if r["training"] != "integers"]
    assert "4 bits within 2 points of floats: **not met**" in spiking_page.learning(result)
    (tmp_path / "spiking.json").write_text(json.dumps(result))
    page = spiking_page.page(tmp_path)
    assert page.startswith("# The spiking side")
    assert "Published figures" in page


def test_every_kept_result_has_its_section() -> None:
    folder = Path(__file__).parents[2] / "examples" / "results"
    kept = [name for name in ("spiking.json", "lava_conformance.json", "neuro_bench.json") if (folder / name).exists()]
    page = spiking_page.page(folder)
    assert kept
    for name, words in (("spiking.json", "### Targets"), ("lava_conformance.json", "0 mismatches"),
                        ("neuro_bench.json", "Target, 784-256-128, batch 1: 20 x Lava")):  # fmt: skip
        assert (words in page) == (name in kept)
