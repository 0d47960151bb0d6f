"""Conversion: the coder's integers, the simulator and Lava agree spike for spike; floats differ by the rounding."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edgessl.cli import cli
from edgessl.errors import ConfigError
from neuromorphic.coder import SpikingPredictiveCoder
from neuromorphic.convert import INPUT, compare, convert, integer_features, simulate, simulate_in_lava
from neuromorphic.network_file import dump_network, parse_network
from neuromorphic.simulator import Simulator

Array = np.ndarray[Any, np.dtype[Any]]


def some_spikes(n: int, steps: int, channels: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).random((n, steps, channels)) < 0.2).astype(np.uint8)


def made(
    hidden: tuple[int, ...] = (12, 8), bias: float = 0.05, seed: int = 0, **options: Any
) -> SpikingPredictiveCoder:
    coder = SpikingPredictiveCoder(20, hidden, seed=seed, **options)
    coder.balance(torch.from_numpy(some_spikes(32, 40, 20)), 0.15)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in coder.cells():
            layer.bias.copy_(bias * torch.randn(layer.n_out, generator=generator))
    return coder


@settings(max_examples=15, deadline=None)
@given(
    bits=st.integers(2, 8),
    du=st.integers(0, 4095),
    dv=st.integers(0, 4095),
    bias=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
@example(bits=2, du=0, dv=0, bias=0.0, seed=45)
def test_spikes_currents_and_voltages_are_the_simulators(bits: int, du: int, dv: int, bias: float, seed: int) -> None:
    coder = made(bias=bias, seed=seed, du=du, dv=dv)
    try:
        conversion = convert(coder, bits)
    except ConfigError as error:  # few bits and a voltage that never leaks: no integer threshold fits, and it says so
        if not re.search(r"threshold \d+ is not in 1\.\.131071", str(error)):
            raise
        assume(False)
    spikes = some_spikes(4, 30, 20, seed)
    assert [m.against_integers for m in compare(conversion, spikes)] == [0, 0]
    record = Simulator(conversion.network, batch=4).run({INPUT: spikes}, u=True, v=True)
    x = torch.from_numpy(spikes).float()
    for scale, layer in zip(conversion.scales, conversion.integers.cells(), strict=True):
        s, u, v = layer.states(x)  # type: ignore[operator]
        for ours, theirs in ((s, record.spikes), (u, record.u), (v, record.v)):
            np.testing.assert_array_equal(ours.detach().numpy(), theirs[scale.layer])
        x = s.detach()


def test_weights_on_the_grid_leave_only_the_rounding_of_states() -> None:
    """Rounding weights to 8 bits moves 1 to 3 % of the neuron-steps of such nets; rounding states alone, a tenth."""
    coder = made((40, 20), bias=0.0, seed=3)
    with torch.no_grad():
        for layer in coder.cells():
            scale = 1000.0
            layer.weight.copy_(2 * torch.round(layer.weight * (250 / layer.weight.abs().max()) / 2) / scale)
            layer.weight[0, 0] = 254 / scale
    conversion = convert(coder, 8)
    assert [s.vth for s in conversion.scales] == [1000, 1000]
    assert all(s.snr_db > 100 for s in conversion.scales)
    matches = compare(conversion, some_spikes(50, 100, 20))
    assert sum(m.spikes for m in matches) > 5000
    assert sum(m.against_floats for m in matches) / sum(m.neuron_steps for m in matches) < 0.003


def test_fewer_bits_differ_more() -> None:
    coder = made((40, 20), seed=1)
    spikes = some_spikes(40, 40, 20)
    shares = [compare(convert(coder, bits), spikes)[0].float_share for bits in (8, 6, 4, 3)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.02


def test_every_scale_factor_is_stated_and_kept_in_the_file() -> None:
    conversion = convert(made(), 8)
    for scale, layer, population in zip(
        conversion.scales, conversion.integers.cells(), conversion.network.populations, strict=True
    ):
        weights = conversion.network.connection(f"{_below(scale.layer)}_{scale.layer}").weights
        rebuilt = weights / scale.scale
        error = np.abs(rebuilt - layer.weight.detach().numpy())
        assert error.max() <= 1.001 * scale.step / 2 / scale.scale or scale.clipped > 0
        assert scale.unit == 64 * scale.scale
        assert scale.vth == round(scale.scale)
        bias = population.bias_current / scale.unit  # type: ignore[attr-defined]
        np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=2**scale.bias_exp / scale.unit)
    again = parse_network(dump_network(conversion.network), "memory")
    assert again.notes["scales"] == [s.to_json() for s in conversion.scales]
    spikes = some_spikes(3, 20, 20)
    for name, found in simulate(again, spikes).items():
        np.testing.assert_array_equal(found, simulate(conversion.network, spikes)[name])


def _below(layer: str) -> str:
    return INPUT if layer == "layer0" else f"layer{int(layer[5:]) - 1}"


def test_features_of_the_integer_network_are_the_coders() -> None:
    coder = made()
    conversion = convert(coder, 6)
    spikes = some_spikes(70, 24, 20)
    expected = conversion.integers.features(torch.from_numpy(spikes), 3).numpy()
    np.testing.assert_array_equal(integer_features(conversion.network, spikes, 3), expected)


def test_a_wrong_run_is_counted() -> None:
    conversion = convert(made(), 8)
    spikes = some_spikes(5, 30, 20)

    def off_by_one(network: Any, x: Array) -> dict[str, Array]:
        found = simulate(network, x)
        found["layer1"][2, 7, 3] ^= 1
        return found

    assert [m.against_integers for m in compare(conversion, spikes, off_by_one)] == [0, 1]
    with pytest.raises(ConfigError, match="layer0: spikes of shape"):
        compare(conversion, spikes, lambda network, x: simulate(network, x[:, 1:]))


def test_only_lif_cells_convert() -> None:
    with pytest.raises(ConfigError, match="only 'lif' cells"):
        convert(SpikingPredictiveCoder(4, (3,), cell="leaky"), 8)
    coder = SpikingPredictiveCoder(4, (3, 2))
    with torch.no_grad():
        coder.cells()[1].weight.zero_()
    with pytest.raises(ConfigError, match="layer 1: weights cannot be scaled"):
        convert(coder, 8)


@pytest.mark.lava
def test_lava_agrees() -> None:
    conversion = convert(made((10, 6), seed=5), 4)
    matches = compare(conversion, some_spikes(2, 60, 20), simulate_in_lava)
    assert [m.against_integers for m in matches] == [0, 0]
    assert all(m.spikes > 0 for m in matches)


def invoke(*args: object, expect: int = 0) -> Any:
    result = CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="edgessl")
    assert result.exit_code == expect, result.output
    return result


def test_the_commands_train_and_convert(tmp_path: Path) -> None:
    checkpoint, small = tmp_path / "c.safetensors", tmp_path / "four.network"
    arguments = ("neuro", "train", "digits", "--hidden", "16,8", "--epochs", 1, "--samples", 200, "--spikes", "steps=8",
                 "--out", checkpoint)  # fmt: skip
    said = json.loads(invoke(*arguments, "--set", "hyper.rate=0.2", "--json").stdout)
    assert said["step"] == 3
    assert said["recipe"]["hyper"] == {"rate": 0.2}
    assert said["recipe"]["encoder"]["options"] == {"steps": 8}
    found = json.loads(invoke("neuro", "convert", checkpoint, "digits", "--samples", 20, "--json").stdout)
    assert found["bits"] == 8
    assert [layer["against_integers"] for layer in found["spikes"]] == [0, 0]
    assert [layer["neuron_steps"] for layer in found["spikes"]] == [20 * 8 * 16, 20 * 8 * 8]
    assert Path(found["network"]).is_file()
    text = invoke("neuro", "convert", checkpoint, "digits", "--bits", 4, "-o", small).stdout
    assert "scale k" in text
    assert small.is_file()
    tuned = tmp_path / "q.safetensors"
    invoke("neuro", "train", "digits", "--from", checkpoint, "--hidden", "16,8", "--bits", 3, "--epochs", 1,
           "--samples", 200, "--spikes", "steps=8", "--out", tuned)  # fmt: skip
    assert json.loads(invoke("neuro", "convert", tuned, "digits", "--json").stdout)["bits"] == 3


def test_what_the_commands_refuse(tmp_path: Path) -> None:
    none = tmp_path / "none.safetensors"
    assert "cannot be read" in invoke("neuro", "convert", none, "digits", expect=2).stderr
    assert "expected one of regular" in invoke("neuro", "train", "digits", "--encoder", "morse", expect=2).stderr
    assert "only 'lif' cells" in invoke("neuro", "train", "digits", "--cell", "leaky", "--bits", 8, "--out", none,
                                        expect=2).stderr  # fmt: skip
