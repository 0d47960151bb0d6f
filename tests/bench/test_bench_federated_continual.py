"""The federated continual bench on material made up here: who meets what, and figures of whole runs."""

import numpy as np
import pytest

from edgessl.bench.continual.material import Material
from edgessl.bench.federated import continual, continual_data
from edgessl.bench.federated.continual_data import Scenario, problem
from edgessl.errors import ConfigError

CONTEXTS, CLIENTS, ROUNDS, CHUNK = 3, 4, 2, 32


def material(owned: bool = False, per_class: int = 400):
    """Six classes of 8 x 8 patterns; the number of a sample is in its first pixel."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), per_class)
    patterns = rng.random((6, 1, 8, 8)).astype(np.float32)
    samples = np.clip(patterns[labels] + 0.2 * rng.standard_normal((len(labels), 1, 8, 8)), 0, 1).astype(np.float32)
    samples[:, 0, 0, 0] = np.arange(len(labels)) / len(labels)
    test = np.arange(len(labels)) % 5 == 0
    names = tuple(f"{2 * i}-{2 * i + 1}" for i in range(CONTEXTS))
    owners = np.arange(len(labels)) % CLIENTS if owned else np.full(len(labels), -1)
    return Material(samples, labels, labels // 2, test, names, "image", "intensity"), owners


def scenario(**options):
    told = {"load": material, "encoder": "ds_cnn_s", "lr": 4e-3, "turned": True, "rounds": ROUNDS, "factory_epochs": 1}
    return Scenario("made up", **{**told, "bank": 64, "test": 60, "factory": 128, **options})


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setitem(continual_data.SCENARIOS, "made_up", scenario())
    continual.prepared.cache_clear()
    yield
    continual.prepared.cache_clear()


def numbers(samples):
    return np.round(samples[:, 0, 0, 0] * 2400).astype(int).tolist()


def test_no_sample_is_met_twice_tested_on_or_used_by_the_factory(made_up):
    found = problem("made_up", 0)
    met = [n for stream in found.streams for chunk in stream for n in numbers(chunk)]
    factory = numbers(found.factory.take(np.arange(len(found.factory))))
    assert len(met) == len(set(met)) == CLIENTS * CONTEXTS * ROUNDS * CHUNK
    assert len(factory) == 128
    assert not set(factory) & set(met)
    assert not set(numbers(found.test.samples)) & (set(met) | set(factory))
    assert set(numbers(found.bank.samples)) <= set(met)
    assert [int((found.bank.contexts == c).sum()) for c in range(CONTEXTS)] == [64] * CONTEXTS


def test_every_device_meets_every_context_in_its_own_turn(made_up):
    found = problem("made_up", 1)
    for k, stream in enumerate(found.streams):
        contexts = [{n // 800 for n in numbers(chunk)} for chunk in stream]
        wanted = [(k + i) % CONTEXTS for i in range(CONTEXTS) for _ in range(ROUNDS)]
        assert contexts == [{c} for c in wanted]
    np.testing.assert_array_equal(found.orders[1], [1, 2, 0])


def test_owned_samples_go_to_their_owners(monkeypatch):
    monkeypatch.setitem(continual_data.SCENARIOS, "owned", scenario(load=lambda: material(owned=True), turned=False))
    for k, stream in enumerate(problem("owned", 0).streams):
        assert {n % CLIENTS for chunk in stream for n in numbers(chunk)} == {k}


def test_too_few_samples_and_unknown_names_are_refused(monkeypatch):
    monkeypatch.setitem(continual_data.SCENARIOS, "poor", scenario(load=lambda: material(per_class=100)))
    with pytest.raises(ConfigError, match="samples of context 0 for device 0, 64 needed"):
        problem("poor", 0)
    with pytest.raises(ConfigError, match="unknown method 'fedsgd'"):
        continual.run(methods="fedsgd")


@pytest.mark.slow
def test_whole_runs_and_their_resumption(made_up, tmp_path):
    out, told = tmp_path / "r.json", []
    options = {"scenarios": "made_up", "strategies": "replay", "seeds": (0,), "out": str(out)}
    result = continual.run(methods=("fedema", "standalone"), progress=told.append, **options)
    rows = {row["method"]: row for row in result["rows"]}
    assert set(rows) == {"random", "frozen", "joint", "fedema", "standalone"}
    assert rows["frozen"]["forgetting"] == 0
    assert np.array(rows["fedema"]["matrices"]).shape == (1, CONTEXTS + 1, CONTEXTS)
    assert np.array(rows["standalone"]["matrices"]).shape == (CLIENTS, CONTEXTS + 1, CONTEXTS)
    assert rows["fedema"]["bytes_up_per_update"] > 100_000 > rows["standalone"]["bytes_up_per_update"] == 0
    for row in rows.values():
        assert row["knn"] == pytest.approx(100 * np.array(row["matrices"])[:, -1].mean(), abs=0.02)
        assert row["matrices"][0][0] == rows["frozen"]["matrices"][0][0] or row["method"] == "random"
    again = continual.run(methods=("fedema", "standalone"), progress=told.append, **options)
    assert (again["rows"], len(told)) == (result["rows"], 5)
