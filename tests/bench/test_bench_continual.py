"""The continual bench: what its problems hold, its rows, how it goes on, and what its tables say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgessl.bench.continual import run as continual
from edgessl.bench.continual.contenders import CONTENDERS, REFERENCES
from edgessl.bench.continual.page import page
from edgessl.bench.continual.streams import SCENARIOS, VALIDATION_SEED, problem
from edgessl.bench.continual.tables import best, lines, write_csv, write_report
from edgessl.bench.continual.worker import measure, prepared
from edgessl.continual.metrics import read_matrix_csv
from edgessl.continual.strategies import build_strategy
from edgessl.device.memory.policy import POLICIES
from edgessl.errors import ConfigError

KEYS = {
    *("stream", "objective", "strategy", "backend", "memory_bytes"),
    *("final_accuracy", "average_accuracy", "forgetting", "backward_transfer", "seed"),
}


def _rows(samples: np.ndarray) -> set[bytes]:
    return {sample.tobytes() for sample in samples}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The digits' stream cut to a few samples and steps."""
    small = replace(SCENARIOS["split_digits"], per_context=32, test=20, factory_epochs=1, steps=1, memory=128, bank=32)
    monkeypatch.setitem(SCENARIOS, "split_digits", small)
    prepared.cache_clear()
    yield "split_digits"
    prepared.cache_clear()


@pytest.mark.parametrize("seed", [0, VALIDATION_SEED])
def test_factory_stream_and_test_samples_are_apart(tiny: str, seed: int) -> None:
    found = problem("split_digits", seed)
    factory = found.factory.take(np.arange(len(found.factory)))
    stream = found.everything()
    assert len(_rows(stream)) >= 0.99 * len(stream)  # hardly two of the digits are alike
    for one, other in ((factory, stream), (factory, found.test.samples), (stream, found.test.samples)):
        assert not _rows(one) & _rows(other)
    assert _rows(found.bank.samples) <= _rows(stream)
    assert set(np.unique(found.bank.labels[found.bank.contexts == 2])) == {4, 5}
    again = problem("split_digits", seed)
    np.testing.assert_array_equal(again.order.indices, found.order.indices)


def test_validation_never_touches_the_test_split(tiny: str) -> None:
    tested, validated = problem("split_digits", 0).test, problem("split_digits", VALIDATION_SEED).test
    assert not _rows(tested.samples) & _rows(validated.samples)


def test_every_contender_can_be_built() -> None:
    assert tuple(CONTENDERS)[:4] == REFERENCES
    for found in CONTENDERS.values():
        assert found.policy in POLICIES
        if found.strategy is not None:
            assert build_strategy(found.strategy, **found.options).name == found.strategy


def test_a_row_is_reproducible_and_has_what_was_promised(tiny: str) -> None:
    first, second = (measure(tiny, "vicreg", "slow+replay", "torch", 3) for _ in range(2))
    assert set(first) >= KEYS
    for row in (first, second):
        row.pop("seconds")
    assert first == second
    assert first["steps"] == 5
    assert first["memory_bytes"] <= 128 * 4 * 256
    assert np.array(first["matrices"]["linear"]).shape == (6, 5)
    assert first["final_accuracy"] == pytest.approx(np.mean(first["matrices"]["knn"][-1]), abs=1e-5)
    assert json.loads(json.dumps(first)) == first


def test_references_mean_what_they_say(tiny: str) -> None:
    rows = {name: measure(tiny, "vicreg", name, "torch", 0) for name in REFERENCES}
    for name in ("random", "frozen"):
        matrix = np.array(rows[name]["matrices"]["linear"])
        assert (matrix == matrix[0]).all()
        assert rows[name]["steps"] == 0
    start = rows["frozen"]["matrices"]["linear"][0]
    assert rows["finetune"]["matrices"]["linear"][0] == rows["joint"]["matrices"]["linear"][0] == start
    assert rows["finetune"]["remembered"] == 32  # a quarter of what the memory could hold
    assert rows["joint"]["steps"] == rows["finetune"]["steps"] == 5


def _row(strategy: str, seed: int, final: float, objective: str = "vicreg") -> dict[str, Any]:
    figures = dict.fromkeys(
        (
            "final_accuracy",
            "average_accuracy",
            "forgetting",
            "backward_transfer",
            "forward_transfer",
            "plasticity",
            "online_area",
        ),
        final,
    )
    return {
        **{"stream": "split_digits", "objective": objective, "strategy": strategy, "backend": "torch", "seed": seed},
        **figures,
        **{kind: dict(figures) for kind in ("linear_aware", "linear", "knn_aware")},
        "matrices": {"knn": [[0.5, 0.5], [0.6, 0.5], [final, final]]},
        **{"memory_bytes": 2000 if strategy == "latent-replay" else 8000, "gradient_ratio": 0.5, "seconds": 1.0},
        **{"steps": 7, "drifts": [3], "contexts": ["a", "b"], "positions": [0, 5, 9]},
    }


def _result(finals: dict[str, float]) -> dict[str, Any]:
    rows = [_row(name, seed, final + 0.01 * seed) for name, final in finals.items() for seed in (0, 1, 2)]
    result = {"stream": "split_digits", "settings": continual.settings("split_digits"), "rows": rows, "failures": []}
    return {**result, "machine": {"cpu": "a processor"}, "versions": {}}


FINALS = {"random": 0.4, "frozen": 0.45, "finetune": 0.5, "joint": 0.7, "latent-replay": 0.6, "replay-reservoir": 0.64}


def test_the_share_of_the_gap_is_that_of_the_means() -> None:
    found = {line.strategy: line for line in lines(_result(FINALS), "vicreg")}
    assert list(found) == [*REFERENCES, "replay-reservoir", "latent-replay"]
    assert found["replay-reservoir"].share == pytest.approx(0.7)
    assert found["latent-replay"].share == pytest.approx(0.5)
    assert found["joint"].figures["final_accuracy"]["std"] == pytest.approx(0.01)
    top = best(list(found.values()))
    assert top is not None
    assert top.strategy == "replay-reservoir"


def test_without_a_gap_no_share_is_given() -> None:
    found = lines(_result({**FINALS, "joint": 0.505}), "vicreg")
    assert all(math.isnan(line.share) for line in found)
    text = page([_result({**FINALS, "joint": 0.505})])
    assert "on 0 of 1 streams" in text
    assert "No gap to close on split_digits" in text


def test_the_page_says_what_the_rows_say() -> None:
    text = page([_result(FINALS)])
    assert "closes 60 % of that gap or more: split_digits (replay-reservoir, 70 %)" in text.replace("\n", " ")
    assert "Latent replay, split_digits, vicreg: -4.0 points against raw replay in 0.25 of its memory." in text
    assert "| joint | 71.0 ± 1.0 |" in text
    for line in text.splitlines():  # tables are whole
        if line.startswith("|"):
            assert line.endswith("|")


def test_csv_and_report(tmp_path: Path) -> None:
    result = {"results": [_result(FINALS)], "machine": {"cpu": "a processor"}}
    write_csv(result, tmp_path)
    matrix, names = read_matrix_csv((tmp_path / "matrix-split_digits-vicreg-joint.csv").read_text())
    assert names == ["a", "b"]
    np.testing.assert_allclose(matrix[-1], [0.71, 0.71])
    write_report(result, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<svg") == 2
    assert "replay-reservoir ends at 65, 65 %" in text


def test_a_bench_goes_on_where_it_was_and_refuses_other_settings(tmp_path: Path) -> None:
    done = _result(dict.fromkeys(REFERENCES, 0.5) | {"lump": 0.6})
    path = tmp_path / "continual-split_digits.json"
    path.write_text(json.dumps(done))
    found = continual.run(strategies=["lump"], out=str(tmp_path), workers=1)
    assert found["results"][0]["rows"] == done["rows"]
    done["settings"]["lr"] = 1.0
    path.write_text(json.dumps(done))
    with pytest.raises(ConfigError, match="measured with other settings"):
        continual.run(strategies=["lump"], out=str(tmp_path), workers=1)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        continual.run(strategies=["magic"])
    with pytest.raises(ConfigError, match="unknown stream 'river'"):
        continual.run(["river"])
    with pytest.raises(ConfigError, match="unknown backend 'jax'"):
        continual.run(backends=["jax"])


@pytest.mark.slow
def test_both_back_ends_give_the_same_row(tiny: str) -> None:
    here, there = (measure(tiny, "vicreg", "ewc+replay", backend, 0) for backend in ("torch", "onnx"))
    assert abs(here["final_accuracy"] - there["final_accuracy"]) <= 0.005
    assert abs(here["linear"]["final_accuracy"] - there["linear"]["final_accuracy"]) <= 0.005
    assert (here["steps"], here["drifts"]) == (there["steps"], there["drifts"])
