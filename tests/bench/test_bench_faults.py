"""The faults bench: every reader is fed, the same input can be made again, and what fails would be counted."""

import json
import random

import pytest

from edgessl.bench import load_bench
from edgessl.bench.device.bundles import write_scaling
from edgessl.bench.faults import fuzz_worker
from edgessl.bench.faults import run as faults
from edgessl.bench.faults.fuzz import READERS, Fuzzer, mutate, mutate_json
from edgessl.device import Bundle
from edgessl.errors import ConfigError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_scaling(tmp_path_factory.mktemp("bundle"))


def test_fuzzing_every_reader(tmp_path):
    out = tmp_path / "faults.json"
    result = load_bench("faults")(["fuzz"], fuzz=200, out=str(out))
    assert {row["reader"] for row in result["rows"]} == set(READERS)
    assert result["fuzz_inputs"] == sum(row["inputs"] for row in result["rows"]) >= 190
    assert (result["crashes"], result["hangs"], result["executions"]) == (0, 0, 0)
    assert all(row["refused"] > 0.3 * row["inputs"] for row in result["rows"])
    assert json.loads(out.read_text())["fuzz_inputs"] == result["fuzz_inputs"]
    again = load_bench("faults")(["fuzz"], fuzz=200, out=str(out))  # nothing is left to do
    assert again["rows"] == result["rows"]
    with pytest.raises(ConfigError, match="was made with seed 0"):
        load_bench("faults")(["fuzz"], seed=1, out=str(out))


def test_the_bundle_the_fuzzer_starts_from_is_whole(bundle, tmp_path):
    assert Bundle.open(bundle).manifest.name == "scaling"
    fuzzer = Fuzzer(bundle, tmp_path, 0)
    assert fuzzer.make("state", 7) == Fuzzer(bundle, tmp_path, 0).make("state", 7) != fuzzer.make("state", 8)
    for reader, data in (("tensors", fuzzer._tensors), ("state", fuzzer._state), ("graph", fuzzer._graph)):
        fuzzer.read(reader, data)
    fuzzer.read("signature", fuzzer._signature)
    fuzzer.read("journal", fuzzer._journal_bytes)


@pytest.mark.parametrize(("error", "kind"), [(ZeroDivisionError, "crash"), (fuzz_worker.Hang, "hang")])
def test_what_fails_is_told_apart(bundle, tmp_path, error, kind):
    fuzzer = Fuzzer(bundle, tmp_path, 0)

    def fail(data):
        raise error

    fuzzer.readers["tensors"] = (fail, fuzzer.readers["tensors"][1])
    assert fuzz_worker._outcome(fuzzer, "tensors", b"")[0] == kind


def test_mutations_change_something():
    rng = random.Random(0)
    assert sum(mutate(b"0123456789" * 5, rng) != b"0123456789" * 5 for _ in range(100)) > 90
    value = {"a": [1, {"b": None}], "c": "x"}
    assert sum(mutate_json(value, rng) != value for _ in range(100)) > 90
    assert mutate(b"", rng) is not None


def test_settings():
    with pytest.raises(ConfigError, match="unknown part 'x'"):
        faults.run(["x"])
    with pytest.raises(ConfigError, match="numbers of 1 or more"):
        faults.run(kills=0)


@pytest.mark.slow
def test_kills_and_soak(tmp_path):
    result = load_bench("faults")(["kills", "soak"], kills=8, soak=6000)
    assert (result["kills"], result["corrupted"], result["lost_acknowledged"]) == (8, 0, 0)
    kills, soak = result["rows"]
    assert kills["acknowledged"] >= 8
    assert soak["observed"] == result["soak_samples"] >= 6000  # whole blocks
    assert (soak["refused"], soak["failures"]) == (0, 0)
    assert soak["steps"] > 0
    assert 0 < soak["disk_bytes"] <= soak["disk_bound_bytes"]
