"""Spike for spike against Lava 0.10.0 in its worker: `make test-lava`."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuromorphic.builders import lower_convolution
from neuromorphic.conformance import run_conformance, verify
from neuromorphic.lava.client import LavaError, living, run_lava
from neuromorphic.lava.environment import LavaUnavailableError, find_environment
from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
from neuromorphic.populations import LIF, Input
from neuromorphic.random_networks import FAMILIES, random_inputs, random_network
from neuromorphic.rule_networks import RULES, rule_network
from neuromorphic.rules import LearningRule

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module", autouse=True)
def worker() -> None:
    try:
        find_environment()
    except LavaUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_differs(family: str) -> None:
    network = random_network(family, 1000)
    for engine, found in verify(network, random_inputs(network, 150, 1000)).items():
        assert found.total_mismatches == 0, (engine, found.where)
        assert found.compared["spikes"] > 0
        assert found.spikes > 0
        assert found.versions["lava"] == "0.10.0"


@pytest.mark.parametrize("rule", RULES)
def test_local_rules_learn_in_lava_what_they_learn_here(rule: str) -> None:
    network, inputs = rule_network(rule, 0, 120)
    for engine, found in verify(network, inputs).items():
        assert found.total_mismatches == 0, (engine, found.where)
        assert found.compared["weights"] > 0
        assert found.weight_changes > 10


@pytest.mark.parametrize("graded", ["impulse", "overwrite", "add", "add_overflow"])
def test_graded_spikes_and_traces(graded: str) -> None:
    rng = np.random.default_rng(2)
    rule = LearningRule(
        "2^-3*x0*y1 - 2^-4*y0*x1*y2 + 2^-2*x0*x2", three_factor=True, graded=graded, t_epoch=2,
        x1_impulse=20, x1_tau=6, x2_impulse=20.3, x2_tau=4,
    )  # fmt: skip
    weights = quantize_weights(rng.integers(-100, 130, (6, 14)), 8, "mixed")
    network = IntegerNetwork(
        [Input("i", 14, 7), Input("m", 6, 7)],
        [LIF("p", 6, 500, 300, 6000)],
        [
            Connection(
                "c", "i", "p", weights, -2, payload_bits=8, rule=rule, modulators={"y0": "p", "y1": "m", "y2": "m"}
            )
        ],
    )
    fires = rng.random((1, 120, 14)) < 0.3
    inputs = {"i": rng.integers(0, 120, (1, 120, 14)) * fires, "m": rng.integers(0, 127, (1, 120, 6))}
    found = verify(network, inputs)
    assert all(comparison.total_mismatches == 0 for comparison in found.values())
    assert found["numpy"].weight_changes > 0


def test_batches_run_lane_by_lane() -> None:
    network = random_network("recurrent", 7)
    one, other = random_inputs(network, 60, 1), random_inputs(network, 60, 2)
    found = verify(network, {name: np.concatenate([one[name], other[name]]) for name in one})
    assert all(comparison.total_mismatches == 0 for comparison in found.values())


def test_a_lowered_convolution_runs_in_lava() -> None:
    rng = np.random.default_rng(3)
    kernel = quantize_weights(rng.integers(-90, 120, (2 * 9, 1)), 8, "mixed").reshape(2, 1, 3, 3)
    matrix, shape = lower_convolution(kernel, (1, 8, 8), stride=2)
    network = IntegerNetwork(
        [Input("i", 64)],
        [LIF("p", int(np.prod(shape)), 600, 300, 300)],
        [Connection("c", "i", "p", matrix, sign="mixed")],
    )
    found = verify(network, random_inputs(network, 80, 3))
    assert all(comparison.total_mismatches == 0 for comparison in found.values())


def test_an_exception_inside_lava_comes_back_and_does_not_hang() -> None:
    network = random_network("ternary", 1)
    bad = network.population("a")
    object.__setattr__(bad, "bias_exp", np.array([99, 99]))  # a shape no Lava process accepts
    with pytest.raises(LavaError) as found:
        run_lava(network, random_inputs(network, 20, 1), timeout_s=60)
    assert "Error" in str(found.value)


def test_nothing_of_lava_outlives_the_process_that_asked() -> None:
    text = (
        "from neuromorphic.lava.client import run_lava\n"
        "from neuromorphic.random_networks import random_inputs, random_network\n"
        "network = random_network('feed-forward', 0)\n"
        "run_lava(network, random_inputs(network, 200_000, 0))\n"
    )
    host = subprocess.Popen([sys.executable, "-c", text])
    try:
        workers = _wait_for(lambda: [pid for pid in _children(host.pid) if len(living(pid)) > 2], 60)
    finally:
        host.kill()  # it can clean up nothing
        host.wait()
    assert workers, "Lava never started"
    assert _wait_for(lambda: not living(workers[0]), 10), living(workers[0])


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _wait_for(ask: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ask()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_the_count_is_kept_and_goes_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "kept.json"
    first = run_conformance(1, 40, path)
    assert first["summary"]["networks"] == 1
    assert sum(first["summary"]["mismatches"].values()) == 0
    lines: list[str] = []
    second = run_conformance(2, 40, path, progress=lines.append)
    assert second["summary"]["networks"] == 2
    assert len(lines) == 1  # the first was not run again
