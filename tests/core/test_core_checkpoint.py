"""Checkpoint files: exact, atomic, without pickle, and refused when damaged."""

from __future__ import annotations

import hashlib
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source
from edgessl.device.storage import tensors
from edgessl.errors import DataError
from edgessl.pretrain import pretrain
from edgessl.recipe import Recipe


@pytest.fixture(scope="module")
def checkpoint(make_recipe: Callable[..., Recipe], digits: Source) -> Checkpoint:
    return pretrain(make_recipe("moco", "adamw", "batch", batch_size=32), digits, stop_after=3)


@pytest.fixture(scope="module")
def path(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "run.ckpt"
    checkpoint.save(path)
    return path


def test_everything_comes_back(checkpoint: Checkpoint, path: Path) -> None:
    found = Checkpoint.load(path)
    assert (found.recipe, found.input, found.step, found.provenance) == (
        checkpoint.recipe,
        checkpoint.input,
        checkpoint.step,
        checkpoint.provenance,
    )
    np.testing.assert_array_equal(found.history, checkpoint.history)
    assert found.columns == checkpoint.columns
    assert found.rows()[-1]["loss"] == checkpoint.history[-1, 1]
    assert set(found.state) == {"theta", "teacher", "queue", "first_moment", "second_moment", "updates"}
    for name, value in checkpoint.state.items():
        assert torch.equal(found.state[name], value), name
        assert found.state[name].dtype == value.dtype


def test_the_queue_is_in_the_file(path: Path, checkpoint: Checkpoint) -> None:
    arrays, _ = tensors.loads(path.read_bytes())
    np.testing.assert_array_equal(arrays["slot.queue"], checkpoint.state["queue"])
    fresh = checkpoint.train_step().initial_state()["queue"]
    assert not np.array_equal(arrays["slot.queue"], fresh)


def test_the_encoder_has_the_saved_weights(checkpoint: Checkpoint, path: Path, digits: Source) -> None:
    found = Checkpoint.load(path).encoder()
    assert not found.training
    step = checkpoint.train_step()
    assert torch.equal(step.layout.flatten_module(step.parts), checkpoint.state["theta"])
    x = torch.from_numpy(digits.take(np.arange(8)))
    with torch.no_grad():
        torch.testing.assert_close(found(x), checkpoint.encoder()(x), rtol=0, atol=0)


def test_saving_is_deterministic_and_leaves_no_temporary_file(
    checkpoint: Checkpoint, path: Path, tmp_path: Path
) -> None:
    again = tmp_path / "new" / "folder" / "run.ckpt"
    checkpoint.save(again)
    checkpoint.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in again.parent.iterdir()] == ["run.ckpt"]


def test_a_failed_write_keeps_the_old_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.ckpt"
    target.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"run\.ckpt: cannot be written: No space left on device"):
        checkpoint.save(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


def test_there_is_no_pickle_in_it(path: Path) -> None:
    data = path.read_bytes()
    assert data[:2] != b"PK"  # nor a zip, in which torch.save hides one
    assert data[8:9] == b"{"  # eight bytes of length, then the JSON header
    with pytest.raises(Exception, match=r".+"):
        for _ in pickletools.genops(data):
            pass
    arrays, metadata = tensors.loads(data)
    assert all(array.dtype.kind in "fiu" for array in arrays.values())
    assert set(metadata) == {"format", "recipe", "input", "step", "columns", "provenance", "sha256"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.ckpt: cannot be read: No such file"):
        Checkpoint.load(tmp_path / "nothing.ckpt")
    with pytest.raises(DataError, match="cannot be read"):
        Checkpoint.load(tmp_path)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(path: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    data = path.read_bytes()
    cut = tmp_path_factory.mktemp("cut") / "run.ckpt"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="not a readable edgessl checkpoint"):
        Checkpoint.load(cut)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_flipped_bit_is_refused(path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    where = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1)))
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    flipped = tmp_path_factory.mktemp("flip") / "run.ckpt"
    flipped.write_bytes(content)
    with pytest.raises(DataError):
        Checkpoint.load(flipped)


def rewrite(path: Path, target: Path, **metadata: str | None) -> Path:
    arrays, known = tensors.loads(path.read_bytes())
    merged = {k: v for k, v in {**known, **metadata}.items() if v is not None and k != "sha256"}
    merged["sha256"] = hashlib.sha256(tensors.dumps(arrays, merged)).hexdigest()  # wrong, but whole
    target.write_bytes(tensors.dumps(arrays, merged))
    return target


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "edgessl-checkpoint-9"}, "format is 'edgessl-checkpoint-9', expected 'edgessl-checkpoint-2'"),
        ({"format": "edgessl-checkpoint-1"}, "an earlier edgessl wrote it: train again"),
        ({"format": None}, "format is None"),
        ({"recipe": "{"}, "not a readable"),
        ({"recipe": '{"epoch": 3}'}, "epoch: Extra inputs are not permitted"),
        ({"recipe": "[]"}, "not a readable"),
        ({"recipe": None}, "recipe"),
        ({"input": "{}"}, "not a readable"),
        ({"input": "3"}, "not a readable"),
        ({"step": "many"}, "many"),
        ({"columns": "3"}, "not a readable"),
        ({"columns": '["step", "loss"]'}, "the history has not the columns it names"),
        ({"provenance": "no JSON"}, "not a readable"),
    ],
)
def test_wrong_metadata_are_refused(path: Path, tmp_path: Path, metadata: dict[str, str | None], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Checkpoint.load(rewrite(path, tmp_path / "x", **metadata))


@pytest.mark.parametrize("lost", ["history", "slot.theta"])
def test_missing_parts_are_refused(path: Path, tmp_path: Path, lost: str) -> None:
    arrays, metadata = tensors.loads(path.read_bytes())
    del arrays[lost], metadata["sha256"]
    metadata["sha256"] = hashlib.sha256(tensors.dumps(arrays, metadata)).hexdigest()  # lost before it was sealed
    (tmp_path / "x").write_bytes(tensors.dumps(arrays, metadata))
    with pytest.raises(DataError, match=r"not a readable.*(history|theta)"):
        Checkpoint.load(tmp_path / "x")


def test_it_is_read_without_torch(path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from edgessl.checkpoint_file import read_checkpoint\n"
        "arrays, step, documents = read_checkpoint(Path(sys.argv[1])); print(step, documents['columns'][0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "step"]


def test_a_bundles_tensors_are_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(tensors.dumps({"theta": np.zeros(3, np.float32)}))
    with pytest.raises(DataError, match="format is None"):
        Checkpoint.load(tmp_path / "x")
