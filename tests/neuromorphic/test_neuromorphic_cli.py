"""`edgessl neuro setup|simulate|verify` and the bench, as typed."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench.spiking.neuro import build_network, run
from edgessl.cli import cli
from edgessl.errors import ConfigError
from neuromorphic.network_file import save_network
from neuromorphic.random_networks import random_inputs, random_network
from neuromorphic.simulator import Simulator


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments), prog_name="edgessl")
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    return save_network(random_network("learning", 12), tmp_path / "a.network")


def test_simulate_counts_what_the_simulator_counts(
    capsys: pytest.CaptureFixture[str], network_file: Path, tmp_path: Path
) -> None:
    network = random_network("learning", 12)
    spikes = random_inputs(network, 30, 1)
    np.savez(tmp_path / "s.npz", **spikes)
    record = Simulator(network).run(spikes, u=True)
    out = tmp_path / "new" / "r.npz"
    arguments = ("neuro", "simulate", str(network_file), str(tmp_path / "s.npz"), "--engine", "numpy", "--voltages")
    code, text, _ = typed(capsys, *arguments, "-o", str(out), "--json")
    assert code == 0
    result = json.loads(text)
    assert result["populations"]["a"]["spikes"] == np.count_nonzero(record.spikes["a"])
    assert result["connections"]["in_a"]["weight_changes"] == record.counts.weight_changes["in_a"].sum()
    with np.load(out) as kept:
        assert np.array_equal(kept["spikes.a"], record.spikes["a"])
        assert np.array_equal(kept["u.b"], record.u["b"])
        assert np.array_equal(kept["weights.in_a"], record.weights["in_a"])


def test_simulate_shows_tables_and_draws_spikes(capsys: pytest.CaptureFixture[str], network_file: Path) -> None:
    arguments = ("neuro", "simulate", str(network_file), "--steps", "20", "--batch", "3", "--engine", "numpy")
    code, text, _ = typed(capsys, *arguments)
    assert code == 0
    assert "synaptic operations" in text
    assert "Simulator" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "none.network"), ["none.network", "No such file"]),
        (("verify",), ["--networks"]),
        (("verify", "--networks", "3"), ["--out"]),
    ],
)
def test_mistakes_end_with_two_and_advice(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: list[str]
) -> None:
    code, _, err = typed(capsys, "neuro", *arguments)
    assert code == 2
    for word in words:
        assert word in err


def test_bad_spike_files_are_refused(capsys: pytest.CaptureFixture[str], network_file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    for content, word in ((b"nonsense", "not an .npz"), (None, "expected an .npz")):
        bad.unlink(missing_ok=True)
        if content is not None:
            bad.write_bytes(content)
        code, _, err = typed(capsys, "neuro", "simulate", str(network_file), str(bad), "--engine", "numpy")
        assert code == 2
        assert word in err
    np.savez(bad, other=np.zeros((1, 2, 3), int))
    code, _, err = typed(capsys, "neuro", "simulate", str(network_file), str(bad), "--engine", "numpy")
    assert code == 2
    assert "'other'" in err


def test_verify_without_lava_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("EDGESSL_LAVA_PYTHON", raising=False)
    code, _, err = typed(capsys, "neuro", "verify", str(network_file), "--steps", "5")
    assert code == 2
    assert "edgessl neuro setup" in err


def test_the_bench_counts_mismatches_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("EDGESSL_LAVA_PYTHON", raising=False)
    result = run(["784-256-128"], ["numpy", "lava"], [1, 2], steps=40, turns=1)
    rows = result["rows"]
    assert [(row["simulator"], row["batch"], row["mismatches"]) for row in rows] == [("numpy", 1, 0), ("numpy", 2, 0)]
    assert all(row["steps_per_second"] > 0 and row["network"] == "784-256-128" for row in rows)
    assert len(result["skipped"]) == 1
    assert "neuro setup" in result["skipped"][0]
    with pytest.raises(ConfigError, match="unknown simulator"):
        run(simulators=["loihi"])
    with pytest.raises(ConfigError, match="unknown network"):
        build_network("10-10")
