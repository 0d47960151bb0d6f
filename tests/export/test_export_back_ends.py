"""One learner, two back ends: torch and onnxruntime learn the same from the same stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgessl.checkpoint import Checkpoint
from edgessl.continual.torch_runtime import TorchModel
from edgessl.data import Source
from edgessl.device import Bundle, Learner
from edgessl.device.runners import Model
from edgessl.errors import ConfigError, InputError
from edgessl.evaluate import knn_accuracy


def _live(model: Model, state: Path, samples: np.ndarray) -> tuple[Learner, list[dict[str, float]]]:
    """A learner that observed and learned from the whole stream, and what each call reported."""
    learner = Learner.open(model, state, memory_bytes=1 << 14, seed=5)
    reports = []
    for start in range(0, 160, 16):
        learner.observe(samples[start : start + 16])
        reports.append(learner.learn(max_steps=3).metrics)
    return learner, reports


def test_both_back_ends_learn_the_same(
    bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray, digits: Source, tmp_path: Path
) -> None:
    torch_model = TorchModel.of(checkpoint, batch_size=8, hyper={"lr": 5e-4})
    assert torch_model.manifest.hyper == bundle.manifest.hyper
    assert torch_model.manifest.noise_shape == bundle.manifest.noise_shape
    there, wanted = _live(bundle, tmp_path / "onnx", samples)
    here, found = _live(torch_model, tmp_path / "torch", samples)
    with there, here:
        for a, b in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, rel=0.05)  # rounding grows along 30 steps of Adam
        z, reference = here.embed(samples), there.embed(samples)
        assert np.linalg.norm(z - reference) <= 0.01 * np.linalg.norm(reference)
        labels = digits.labels
        assert labels is not None
        figures = [knn_accuracy(e[:240], labels[:240], e[240:], labels[240:320], k=5) for e in (z, reference)]
        assert abs(figures[0] - figures[1]) <= 1 / 80  # one of the 80
        moved = np.linalg.norm(here.theta - bundle.state()["theta"])
        assert np.linalg.norm(here.theta - there.theta) <= 0.05 * moved


def test_a_learner_on_torch_resumes_where_it_stopped(
    checkpoint: Checkpoint, samples: np.ndarray, tmp_path: Path
) -> None:
    model = TorchModel.of(checkpoint, batch_size=8)
    with Learner.open(model, tmp_path / "a") as learner:
        learner.observe(samples[:32])
        learner.learn(max_steps=2)
        learner.save()
        learner.learn(max_steps=2)
        wanted = learner.theta
    with Learner.open(TorchModel.of(checkpoint, batch_size=8), tmp_path / "a") as resumed:
        resumed.learn(max_steps=2)
        np.testing.assert_array_equal(resumed.theta, wanted)
        resumed.rollback(to_factory=True)
        np.testing.assert_array_equal(resumed.theta, model.state()["theta"])


def test_a_step_can_be_taken_back_once(checkpoint: Checkpoint, samples: np.ndarray) -> None:
    model = TorchModel.of(checkpoint, batch_size=8)
    trainer = TorchModel.runners(model, None)[1]  # type: ignore[arg-type]
    noise = np.full(model.manifest.noise_shape, 0.5, np.float32)
    before = trainer.state()
    trainer.step(samples[:8], noise, model.manifest.hyper)
    assert not np.array_equal(trainer.state()["theta"], before["theta"])
    trainer.undo()
    np.testing.assert_array_equal(trainer.state()["theta"], before["theta"])
    with pytest.raises(InputError, match="no step to take back"):
        trainer.undo()
    with pytest.raises(ConfigError, match="unknown 'speed'"):
        TorchModel.of(checkpoint, hyper={"speed": 1.0})
