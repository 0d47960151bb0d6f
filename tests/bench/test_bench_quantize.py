"""The quantize bench, small: every form is measured, and what is unknown is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgessl.bench import load_bench
from edgessl.bench.quantize.accuracy import CASES
from edgessl.bench.quantize.run import run
from edgessl.bench.quantize.speed import BATCHES, FORMS, REFERENCES
from edgessl.errors import ConfigError, DataError


@pytest.mark.slow
def test_every_form_is_measured(tmp_path: Path) -> None:
    out, given = tmp_path / "quantize.json", {"encoders": ["cnn1d"], "parts": ["speed"], "graphs": str(tmp_path / "g")}
    assert run(**given, turns=0)["speed"] == []
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "g" / "cnn1d").iterdir()}
    result = load_bench("quantize")(**given, turns=1, turn_seconds=0.05, out=str(out))
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "g" / "cnn1d").iterdir()}
    rows = {row["form"]: row for row in result["speed"]}
    assert list(rows) == list(FORMS)
    for form, row in rows.items():
        assert all(row[f"ms_{batch}"] > 0 for batch in BATCHES)
        if form not in REFERENCES:
            faster = row["faster_than"]["torch eager"]
            assert faster[0] == pytest.approx(rows["torch eager"]["ms_1"] / row["ms_1"], abs=0.01)
            assert row["cosine_mean"] > 0.9
    assert rows["int4 packed"]["bytes"] < rows["int8"]["bytes"] < rows["fp32"]["bytes"]
    assert json.loads(out.read_text())["speed"] == result["speed"]
    assert run(encoders=["cnn1d"], parts=["speed"], out=str(out))["speed"] == result["speed"]  # goes on, done already


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoders: unknown 'x'"):
        run(encoders=["x"])
    with pytest.raises(ConfigError, match=f"cases: unknown 'x'; choose some of {', '.join(CASES)}"):
        run(cases=["x"])
    with pytest.raises(ConfigError, match="above 0"):
        run(turns=0)
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(DataError, match="not a result of the quantize bench"):
        run(out=str(other))
