"""Pretraining: resumable bit for bit, learning, honest about collapse."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source, Subset, array_source, channel_statistics, open_digits
from edgessl.errors import ConfigError
from edgessl.pretrain import COLUMNS, LOG_EVERY, Progress, input_spec, pretrain, schedule
from edgessl.reader import Reader
from edgessl.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
STEPS = 12  # of a run of 4 epochs of 3 batches


@pytest.fixture(scope="module")
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe(batch_size=32, epochs=4)


def same_state(a: Checkpoint, b: Checkpoint) -> bool:
    return set(a.state) == set(b.state) and all(torch.equal(a.state[name], b.state[name]) for name in a.state)


@pytest.mark.parametrize("stop", [2, 3, 7])  # within, at the end of, and after an epoch
@pytest.mark.parametrize(("objective", "optimizer", "norm"), [("simclr", "sgd", "group"), ("moco", "adamw", "batch")])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    make_recipe: MakeRecipe, digits: Source, tmp_path: Path, objective: str, optimizer: str, norm: str, stop: int
) -> None:
    recipe = make_recipe(objective, optimizer, norm, batch_size=32, epochs=4)
    whole = pretrain(recipe, digits)
    assert whole.step == STEPS
    path = tmp_path / "run.ckpt"
    first = pretrain(recipe, digits, checkpoint=path, stop_after=stop)
    assert first.step == stop
    assert not same_state(first, whole)
    torch.rand(3)  # whatever a new process' generators hold
    np.random.rand(3)
    resumed = pretrain(recipe, digits, checkpoint=path)
    assert resumed.step == STEPS
    assert same_state(resumed, whole)
    rows = {int(row[0]): row for row in resumed.history}
    assert [int(row[0]) for row in first.history] == [stop]  # what the cut-off run ended with
    assert sorted(rows) == [10, STEPS]  # and the resumed one leaves out
    for row in whole.history:
        np.testing.assert_array_equal(rows[int(row[0])], row)
    # and what is on disk is what was returned
    assert same_state(Checkpoint.load(path), whole)


class PowerCutError(Exception):
    pass


def test_a_run_that_was_cut_off_goes_on_from_its_last_checkpoint(
    recipe: Recipe, digits: Source, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "run.ckpt"

    def cut(progress: Progress) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        pretrain(recipe, digits, checkpoint=path, save_every=4, on_progress=cut)
    saved = Checkpoint.load(path)
    assert saved.step == 8  # the cut came after step LOG_EVERY = 10
    assert [p.name for p in path.parent.iterdir()] == ["run.ckpt"]  # no temporary files
    resumed, whole = pretrain(recipe, digits, checkpoint=path), pretrain(recipe, digits)
    assert same_state(resumed, whole)
    np.testing.assert_array_equal(resumed.history, whole.history)


def test_a_finished_run_is_returned_as_it_is(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole = pretrain(recipe, digits, checkpoint=path)
    seen: list[Progress] = []
    again = pretrain(recipe, digits, checkpoint=path, on_progress=seen.append)
    assert same_state(again, whole)
    assert again.step == STEPS
    np.testing.assert_array_equal(again.history, whole.history)
    assert not seen


def test_the_loss_falls_and_the_history_says_so(make_recipe: MakeRecipe) -> None:
    source = Subset(open_digits("train", size=8), np.arange(240))
    recipe = make_recipe("simclr", "adamw", batch_size=40, epochs=7, hyper={"lr": 0.005})
    seen: list[Progress] = []
    found = pretrain(recipe, source, on_progress=seen.append)
    total = 42
    assert found.step == total
    assert found.history.dtype == np.float64
    assert found.history[:, 0].tolist() == [10, 20, 30, 40, 42]
    assert np.isfinite(found.history).all()
    loss = np.array([row["loss"] for row in found.rows()])
    assert loss[-2:].mean() < loss[0] - 0.4  # nats; between steps it moves by a tenth of that
    for row, progress in zip(found.history, seen, strict=True):
        assert [progress.step, *progress.metrics.values()] == row.tolist()
        assert ("step", *progress.metrics) == COLUMNS == found.columns
        assert progress.total == total
        assert progress.warning is None
        assert progress.samples_per_second > 0
        assert progress.lr == pytest.approx(0.005 * schedule(progress.step - 1, total, recipe.warmup, recipe.final_lr))
    assert LOG_EVERY == 10


def test_a_callback_stops_the_run_with_a_checkpoint(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path, asked = tmp_path / "run.ckpt", 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 7

    seen: list[Progress] = []
    stopped = pretrain(recipe, digits, checkpoint=path, should_stop=stop, on_progress=seen.append)
    assert (stopped.step, Checkpoint.load(path).step, [p.step for p in seen]) == (7, 7, [7])
    resumed, whole = pretrain(recipe, digits, checkpoint=path), pretrain(recipe, digits)
    assert same_state(resumed, whole)
    np.testing.assert_array_equal(resumed.history, whole.history)


def test_chunks_change_nothing_but_rounding(make_recipe: MakeRecipe, digits: Source) -> None:
    whole = pretrain(make_recipe("simclr", "sgd", batch_size=32, epochs=1), digits)
    chunked = pretrain(make_recipe("simclr", "sgd", batch_size=32, epochs=1, chunk=5), digits)
    moved = whole.state["theta"] - whole.train_step().initial_state()["theta"]
    assert (chunked.state["theta"] - whole.state["theta"]).norm() < 1e-4 * moved.norm()
    np.testing.assert_allclose(chunked.history, whole.history, rtol=1e-4)


def test_labels_are_never_read(recipe: Recipe, digits: Source) -> None:
    class Unlabelled(Subset):
        def __getattribute__(self, name: str) -> object:
            assert name != "labels", "pretraining looked at the labels"
            return super().__getattribute__(name)

    hidden = object.__new__(Unlabelled)
    hidden.__dict__.update(digits.__dict__)
    assert same_state(pretrain(recipe, hidden, stop_after=2), pretrain(recipe, digits, stop_after=2))


def test_another_recipe_is_refused_and_named(
    recipe: Recipe, make_recipe: MakeRecipe, digits: Source, tmp_path: Path
) -> None:
    path = tmp_path / "run.ckpt"
    pretrain(recipe, digits, checkpoint=path, stop_after=1)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"another recipe \(epochs 4 -> 5\); give another path, or delete it"):
        pretrain(make_recipe(batch_size=32, epochs=5), digits, checkpoint=path)
    with pytest.raises(ConfigError, match=r"optimizer 'sgd' -> 'lars'"):
        pretrain(make_recipe(optimizer="lars", batch_size=32, epochs=4), digits, checkpoint=path)
    assert path.read_bytes() == before


def test_other_data_are_refused(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    pretrain(recipe, digits, checkpoint=path, stop_after=1)
    x = digits.take(np.arange(96))
    x[5, 0, 0, 0] += 0.25
    with pytest.raises(ConfigError, match="other data"):
        pretrain(recipe, array_source(x, kind="image", layout="channels_first"), checkpoint=path)
    with pytest.raises(ConfigError, match="other data"):
        pretrain(recipe, Subset(digits, np.arange(64)), checkpoint=path)


def test_less_than_a_batch_is_refused(make_recipe: MakeRecipe, digits: Source) -> None:
    with pytest.raises(ConfigError, match="batch_size 97 is more than the 96 samples there are"):
        pretrain(make_recipe(batch_size=97), digits)


def test_every_epoch_takes_every_sample_once_in_another_order(make_recipe: MakeRecipe, digits: Source) -> None:
    taken: list[np.ndarray] = []

    class Watched(Subset):
        def take(self, indices: np.ndarray) -> np.ndarray:
            taken.append(indices)
            return super().take(indices)

    watched = object.__new__(Watched)
    watched.__dict__.update(digits.__dict__)
    pretrain(make_recipe(batch_size=32, epochs=2), watched)
    batches = [indices for indices in taken[-6:] if len(indices) == 32]
    assert len(batches) == 6
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(96))
    assert first.tolist() != second.tolist()


def test_bfloat16_trains_on_a_cpu(make_recipe: MakeRecipe, digits: Source) -> None:
    exact = pretrain(make_recipe("vicreg", "adamw", batch_size=32, epochs=4), digits)
    half = pretrain(make_recipe("vicreg", "adamw", batch_size=32, epochs=4, precision="bfloat16"), digits)
    assert all(value.dtype == torch.float32 for value in half.state.values())
    assert not same_state(half, exact)
    np.testing.assert_allclose(half.history[:, 1], exact.history[:, 1], rtol=0.1)


def test_the_input_is_normalised_by_the_datas_statistics(recipe: Recipe, digits: Source) -> None:
    mean, std = channel_statistics(digits)
    spec = input_spec(digits)
    assert (spec.kind, spec.shape, spec.units) == (digits.kind, digits.shape, digits.units)
    assert (spec.mean, spec.std) == (tuple(mean), tuple(std))
    found = pretrain(recipe, digits, stop_after=1).encoder()
    np.testing.assert_allclose(found.normalize.mean.ravel(), mean, rtol=1e-6)
    np.testing.assert_allclose(found.normalize.std.ravel(), std, rtol=1e-6)


def test_provenance(recipe: Recipe, digits: Source) -> None:
    found = pretrain(recipe, digits, stop_after=1).provenance
    assert found["samples"] == 96
    assert found["seed"] == recipe.seed
    assert len(found["data"]) == 64
    assert found["torch"] == torch.__version__


def test_the_cost_of_a_run_adds_up_over_interruptions(recipe: Recipe, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    first = pretrain(recipe, digits, checkpoint=path, stop_after=5).provenance
    second = pretrain(recipe, digits, checkpoint=path).provenance
    assert Checkpoint.load(path).provenance == second
    assert 0 < first["seconds"] < second["seconds"]
    assert 0 <= second["input_wait_share"] < 1
    assert 50 < first["peak_rss_mb"] <= second["peak_rss_mb"]
    assert 0 < first["energy"]["joules"] < second["energy"]["joules"]
    assert second["energy"]["co2_g"] == pytest.approx(second["energy"]["joules"] / 3.6e6 * 481)
    assert pretrain(recipe, digits, checkpoint=path).provenance == second  # nothing was left to do
    local = pretrain(recipe, digits, stop_after=1, grid_g_per_kwh=0.0).provenance["energy"]
    assert (local["co2_g"], local["grid_source"]) == (0.0, "given")


def test_a_source_that_is_slow_shows_as_waiting(digits: Source) -> None:
    class Slow(Subset):
        def take(self, indices: np.ndarray) -> np.ndarray:
            time.sleep(0.1)
            return super().take(indices)

    slow = object.__new__(Slow)
    slow.__dict__.update(digits.__dict__)
    reader = Reader(slow, 0, (32, 4), slice(0, 32), torch.device("cpu"))
    assert len(list(reader.batches(0, 9))) == 9
    # whoever takes batches at once waits for all but the first, three of which were read ahead of it
    assert 0.5 * reader.reading < reader.waited < reader.reading


@settings(max_examples=60, deadline=None, derandomize=True)
@given(total=st.integers(1, 400), warmup=st.floats(0, 0.99), final=st.floats(0, 1), data=st.data())
def test_schedule(total: int, warmup: float, final: float, data: st.DataObject) -> None:
    t = data.draw(st.integers(0, total - 1))
    rise = math.ceil(warmup * total)
    found = schedule(t, total, warmup, final)
    if t < rise:
        assert found == pytest.approx((t + 1) / rise)
    else:
        # half a cosine from 1 at `rise` to `final` at `total`: (1 + cos x) / 2 = cos(x / 2)^2
        along = (t - rise) / (total - rise)
        assert found == pytest.approx(final + (1 - final) * math.cos(math.pi / 2 * along) ** 2, abs=1e-12)
    assert 0 < found <= 1


def test_schedule_by_hand() -> None:
    assert [schedule(t, 10, 0.2, 0.0) for t in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert schedule(0, 10, 0.0, 0.0) == 1.0
    assert schedule(10, 10, 0.2, 0.1) == pytest.approx(0.1)
    assert schedule(0, 1, 0.99, 0.0) == 1.0


def test_a_collapsing_run_is_reported(make_recipe: MakeRecipe, digits: Source) -> None:
    # every sample the same: the embeddings cannot differ by anything but their views
    same_picture = array_source(np.full((64, 1, 8, 8), 0.5, np.float32), kind="image", layout="channels_first")
    seen: list[Progress] = []
    recipe = make_recipe(batch_size=32, epochs=5, views=[{"name": "horizontal_flip"}])
    pretrain(recipe, same_picture, on_progress=seen.append)
    assert seen[-1].warning is not None
    assert "collapsing to a point" in seen[-1].warning
