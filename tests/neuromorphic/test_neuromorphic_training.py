from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgessl.errors import ConfigError, DataError
from edgessl.recipe import Part
from neuromorphic.checkpoint import SpikingCheckpoint
from neuromorphic.convert import compare, convert
from neuromorphic.readout import embed_spikes, input_features, step_features
from neuromorphic.training import COLUMNS, SpikingRecipe, balanced, batch_of, parse_spiking_recipe, train

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Patterns:
    """Noisy copies of four rate patterns; whoever asks for labels fails the test."""

    shape: tuple[int, int] = (12, 24)
    count: int = 96
    asked: list[str] = field(default_factory=list)

    @property
    def labels(self) -> Array | None:
        self.asked.append("labels")
        raise AssertionError("training asked for labels")

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Array, draw: int = 0) -> Array:
        patterns = np.random.default_rng(0).random((4, 24)) ** 2
        rows = [np.random.default_rng([draw, int(i)]).random(self.shape) < patterns[int(i) % 4] for i in indices]
        return np.stack(rows).astype(np.uint8)


RECIPE = SpikingRecipe(hidden=(16, 8), epochs=4, batch_size=16, lr=0.01)


def same(a: SpikingCheckpoint, b: SpikingCheckpoint) -> None:
    assert a.step == b.step
    for ours, theirs in ((a.weights, b.weights), (a.training, b.training)):
        assert set(ours) == set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    np.testing.assert_array_equal(a.history, b.history)


@pytest.mark.parametrize("objective", ["spiking_predictive", "temporal_contrast"])
@pytest.mark.parametrize("cell", ["lif", "leaky", "liquid"])
def test_the_loss_falls_without_a_label(objective: str, cell: str) -> None:
    source = Patterns()
    recipe = RECIPE.model_copy(update={"objective": Part(name=objective), "cell": cell, "epochs": 8})
    rows = train(recipe, source).rows()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert set(rows[0]) == set(COLUMNS)
    assert rows[-1]["effective_rank"] > 1.2
    assert source.asked == []


@pytest.mark.parametrize("bits", [None, 6])
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, bits: int | None) -> None:
    recipe = RECIPE.model_copy(update={"bits": bits, "drop": 0.2, "crop": 9, "learn_decays": True})
    source, path = Patterns(), tmp_path / "c.safetensors"
    whole = train(recipe, source)
    assert train(recipe, source, checkpoint=path, stop_after=11).step == 11
    found = train(recipe, source, checkpoint=path)
    same(found, whole)
    same(SpikingCheckpoint.load(path), whole)
    assert found.bits == bits


def test_seeds_change_a_run() -> None:
    a, b = (train(RECIPE.model_copy(update={"seed": s}), Patterns(), stop_after=3) for s in (0, 1))
    assert not torch.equal(a.weights["layers.0.weight"], b.weights["layers.0.weight"])


def test_integers_after_quantised_training_are_the_simulators() -> None:
    source = Patterns()
    found = train(RECIPE.model_copy(update={"bits": 4, "learn_decays": True}), source)
    coder = found.coder()
    assert coder.bits == 4
    conversion = convert(coder, 4)
    matches = compare(conversion, source.take(np.arange(40)))
    assert [m.against_integers for m in matches] == [0, 0]
    assert all(m.spikes > 0 for m in matches)
    scales = [float(layer.scale) for layer in coder.cells()]  # type: ignore[arg-type]
    assert [s.scale for s in conversion.scales] == scales


def test_fine_tuning_begins_with_the_weights_it_is_given() -> None:
    source = Patterns()
    floats = train(RECIPE, source).coder()
    before = floats.cells()[0].weight.detach().clone()
    tuned = train(RECIPE.model_copy(update={"bits": 3, "epochs": 1, "lr": 1e-9}), source, start=floats).coder()
    torch.testing.assert_close(tuned.cells()[0].weight, before)
    assert tuned.bits == 3


def test_batches_are_functions_of_recipe_and_step() -> None:
    source = Patterns()
    recipe = RECIPE.model_copy(update={"crop": 5})
    a, b, c = (batch_of(recipe, source, t, 6) for t in (2, 2, 3))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert tuple(a.shape) == (16, 5, 24)
    epoch = torch.cat([batch_of(RECIPE, source, t, 6) for t in range(6)])
    assert len(np.unique(epoch.numpy().reshape(96, -1), axis=0)) == 96  # every sample once


def test_read_outs() -> None:
    source = Patterns()
    coder = balanced(RECIPE, source)
    features = embed_spikes(coder, source, bins=2, batch=40)
    assert features.shape == (96, 2 * 24)
    np.testing.assert_array_equal(features, embed_spikes(coder, source, bins=2))
    np.testing.assert_allclose(input_features(source), source.take(np.arange(96)).mean(1), rtol=1e-6)
    steps = np.array([3, 11])
    assert step_features(coder, source, steps).shape == (96, 2, 24)
    keep = 0.5
    x = source.take(np.arange(96)).astype(np.float64)
    expected = sum((1 - keep) * keep ** (3 - t) * x[:, t] for t in range(4))
    np.testing.assert_allclose(step_features(None, source, steps, keep)[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hiden": [3]}, "hiden"),
        ({"bits": 9}, "less than or equal to 8"),
        ({"cell": "gru"}, "'lif', 'leaky' or 'liquid'"),
        ({"hyper": {"temperature": 1.0}}, "has no scalar 'temperature'"),
        ({"objective": {"name": "simclr"}}, "the spiking coder has"),
        ({"hidden": []}, "hidden"),
    ],
)
def test_recipes_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_spiking_recipe(values)


def test_what_training_refuses(tmp_path: Path) -> None:
    source, path = Patterns(), tmp_path / "c.safetensors"
    with pytest.raises(ConfigError, match="more than the 8 samples"):
        train(RECIPE, Patterns(count=8))
    with pytest.raises(ConfigError, match="crop 13"):
        train(RECIPE.model_copy(update={"crop": 13}), source)
    train(RECIPE, source, checkpoint=path, stop_after=1)
    with pytest.raises(ConfigError, match=r"lr 0.01 -> 0.02"):
        train(RECIPE.model_copy(update={"lr": 0.02}), source, checkpoint=path)
    with pytest.raises(ConfigError, match="other spikes"):
        train(RECIPE, Patterns(count=112), checkpoint=path)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    train(RECIPE, Patterns(), checkpoint=path, stop_after=1)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256 disagrees"):
        SpikingCheckpoint.load(path)
    path.write_bytes(data[:100])
    with pytest.raises(DataError, match="not a readable spiking checkpoint"):
        SpikingCheckpoint.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        SpikingCheckpoint.load(tmp_path / "none.safetensors")
    from edgessl.device.storage import tensors

    path.write_bytes(tensors.dumps({"history": np.zeros((0, 1))}, {"format": "edgessl-checkpoint-2"}))
    with pytest.raises(DataError, match="expected 'edgessl-spiking-checkpoint-1'"):
        SpikingCheckpoint.load(path)
