"""The objectives bench on the built-in digits: real runs, continued where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgessl.bench.objectives.run import run
from edgessl.bench.objectives.suites import SUITES
from edgessl.encoders import ENCODERS
from edgessl.errors import ConfigError, DataError
from edgessl.objectives import OBJECTIVES


def test_the_suites_name_what_there_is() -> None:
    named = {name for suite in SUITES.values() for name in suite.objectives}
    assert named <= set(OBJECTIVES)
    assert {suite.encoder for suite in SUITES.values()} | {s.teacher for s in SUITES.values()} <= set(ENCODERS)
    kinds = {"image", "signal", "spectrogram", "tokens"}
    # every objective is in some comparison, but the one that needs a fleet
    compared = {name for name in OBJECTIVES if set(OBJECTIVES[name].kinds) & kinds}
    assert compared - named == {"orchestra"}


def test_a_bench_is_continued_not_repeated(tmp_path: Path) -> None:
    out, said = tmp_path / "results.json", []
    first = run("digits", ("random", "simclr"), 1, epochs=1, workers=1, out=str(out), progress=said.append)
    assert [row["name"] for row in first["rows"]] == ["random", "simclr"]
    assert first["failures"] == []
    assert json.loads(out.read_text()) == first
    for row in first["rows"]:
        assert 0.3 < row["figures"]["knn"][0] <= 1
        assert row["protocol"]["seeds"] == [0]
        assert row["protocol"]["train_size"] + row["protocol"]["test_size"] <= 1797
    assert len(said) == 2

    said.clear()
    second = run("digits", ("random", "simclr", "vicreg"), 1, epochs=1, workers=1, out=str(out), progress=said.append)
    assert len(said) == 1
    assert [row["name"] for row in second["rows"]] == ["random", "simclr", "vicreg"]
    assert second["rows"][:2] == first["rows"]


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    out.write_text('{"rows": []}')
    with pytest.raises(DataError, match="not the result of a bench"):
        run("digits", ("random",), 1, epochs=1, out=str(out))
    out.write_text(json.dumps({"bench": "objectives", "rows": [], "suite": "fashion", "settings": {}}))
    with pytest.raises(ConfigError, match="measured with other suite and settings"):
        run("digits", ("random",), 1, epochs=1, out=str(out))
    assert json.loads(out.read_text())["suite"] == "fashion"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown suite 'imagenet'; choose one of digits, fashion"):
        run("imagenet")
    with pytest.raises(ConfigError, match="suite 'digits' has no objective 'temporal'"):
        run("digits", ("temporal",))
