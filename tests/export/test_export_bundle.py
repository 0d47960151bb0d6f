"""From a checkpoint to a bundle that a device learns with: the same numbers as torch, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgessl
from edgessl.checkpoint import Checkpoint
from edgessl.data import Source
from edgessl.device import Bundle, EncoderRunner, Learner, StepRunner, step_noise
from edgessl.device.memory.replay import ReplayMemory
from edgessl.errors import BundleError, ConfigError, InputError
from edgessl.evaluate import embed
from edgessl.step import METRICS, hyper_tensors
from export import Graphs, export_bundle
from export.lowerings.convolution import FORMS


def test_the_manifest_describes_the_checkpoint(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest, step = bundle.manifest, checkpoint.train_step()
    assert manifest.name == "digits-byol"
    assert manifest.input == checkpoint.input
    assert manifest.embedding_dim == 128
    assert (manifest.encoder.name, manifest.encoder.options) == ("ds_cnn_s", {"norm": "batch"})
    assert (manifest.objective.name, manifest.optimizer.name) == ("byol", "adamw")
    assert [v.name for v in manifest.views] == [t.name for t in step.views.pipeline.transforms]
    assert manifest.parameters == step.layout.entries
    assert [(s.name, s.shape, s.dtype) for s in manifest.slots] == [
        (name, tuple(value.shape), "float32") for name, value in step.initial_state().items()
    ]
    assert manifest.hyper == {**step.hyper, "lr": 5e-4}
    assert (manifest.batch_size, manifest.noise_shape) == (8, step.noise_shape(8))
    assert (manifest.opset, manifest.ir_version) == (20, 10)
    assert set(manifest.graphs) == {"train", "encoder", "encoder_int8"}
    assert set(manifest.members) == {"train.onnx", "encoder.onnx", "encoder.int8.onnx", "state.safetensors"}


def test_provenance_and_parity_are_recorded(bundle: Bundle, checkpoint: Checkpoint) -> None:
    provenance, parity = bundle.manifest.provenance, bundle.manifest.parity
    assert provenance["data"] == checkpoint.provenance["data"]
    assert provenance["edgessl"] == edgessl.__version__
    assert provenance["pretraining_steps"] == checkpoint.step == 12
    assert provenance["step"]["flavour"] == "fast"
    assert {site.split()[0] for site in provenance["step"]["forms"]} == set(FORMS)
    assert set(parity) == {"train", "encoder", "encoder_int8", "tensorrt"}
    assert set(parity["train"]["slots"]) == set(checkpoint.state)
    assert max(parity["train"]["slots"].values()) <= 1e-4
    assert parity["encoder"] <= 1e-4


def test_the_factory_state_is_the_checkpoints(bundle: Bundle, checkpoint: Checkpoint) -> None:
    state = bundle.state()
    assert set(state) == set(checkpoint.state)
    for name, value in checkpoint.state.items():
        np.testing.assert_array_equal(state[name], value.numpy(), err_msg=name)


def test_the_device_embeds_as_torch_does(bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray) -> None:
    found = EncoderRunner(bundle).embed(bundle.state()["theta"], samples[:33])
    wanted = embed(checkpoint.encoder(), samples[:33])
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_five_steps_on_the_device_are_five_steps_of_torch(
    bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray
) -> None:
    runner, step = StepRunner(bundle), checkpoint.train_step()
    state, hyper = checkpoint.state, dict(bundle.manifest.hyper)
    for t in range(5):
        batch, noise = samples[8 * t : 8 * t + 8], step_noise(3, t, bundle.manifest.noise_shape)
        metrics = runner.step(batch, noise, hyper)
        state, expected = step(state, torch.from_numpy(batch), torch.from_numpy(noise), hyper_tensors(hyper))
        assert tuple(metrics) == METRICS
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(float(value), rel=1e-3), (t, name)
    start = checkpoint.state
    for name, found in runner.state().items():
        wanted = state[name].numpy()
        assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted), name
        moved = np.linalg.norm(wanted - start[name].numpy())
        assert np.linalg.norm(found - wanted) <= 0.02 * moved, name


def test_a_learner_learns_as_torch_would(
    bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray, tmp_path: Path
) -> None:
    step, hyper, seed = checkpoint.train_step(), dict(bundle.manifest.hyper), 11
    with Learner.open(bundle, tmp_path / "state", seed=seed) as learner:
        learner.observe(samples[:20])
        report = learner.learn(max_steps=5)
        assert report.steps == 5
        found = learner.theta
        assert set(report.metrics) == set(METRICS)
    # batches and noise are functions of (seed, step): draw them as the learner does
    memory = ReplayMemory(4 << 20, bundle.manifest.input.shape, seed=seed, least=8)
    memory.add(samples[:20])
    state = checkpoint.state
    losses = []
    for t in range(5):
        batch, noise = memory.sample(8, t).samples, step_noise(seed, t, bundle.manifest.noise_shape)
        state, metrics = step(state, torch.from_numpy(batch), torch.from_numpy(noise), hyper_tensors(hyper))
        losses.append(float(metrics["loss"]))
    wanted = state["theta"].numpy()
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)
    assert not np.array_equal(found, checkpoint.state["theta"].numpy())
    assert report.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def without_date(manifest: dict[str, Any]) -> dict[str, Any]:
    stamp = manifest["provenance"].pop("exported")
    assert len(stamp) == len("2026-11-20T12:00:00Z")
    return manifest


def test_the_same_checkpoint_gives_the_same_bytes(
    bundle_path: Path, bundle: Bundle, checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "again.edgessl"
    again = export_bundle(checkpoint, path, calibration=samples, graphs=graphs, hyper={"lr": 5e-4}, name="digits-byol")
    for member in bundle.manifest.members:
        assert again.read(member) == bundle.read(member), member
    first, second = (without_date(json.loads(b.manifest.to_bytes())) for b in (bundle, again))
    assert first == second
    assert [p.name for p in tmp_path.iterdir()] == ["again.edgessl"]


def test_int8_may_be_left_out_and_the_name_is_the_files(checkpoint: Checkpoint, graphs: Graphs, tmp_path: Path) -> None:
    made = export_bundle(checkpoint, tmp_path / "plain.edgessl", calibration=None, graphs=graphs)
    assert made.manifest.name == "plain"
    assert set(made.manifest.graphs) == {"train", "encoder"}
    assert set(made.manifest.parity) == {"train", "encoder", "tensorrt"}
    assert Bundle.open(tmp_path / "plain.edgessl").digest == made.digest


@pytest.mark.parametrize("what", ["another shape", "no batch", "another dtype", "not finite"])
def test_wrong_calibration_samples_are_refused(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "x.edgessl"
    holed = samples.copy()
    holed[3, 0, 2, 2] = np.nan
    wrong = {
        "another shape": samples[:, :, :4],
        "no batch": samples[0],
        "another dtype": samples.astype(np.float64),
        "not finite": holed,
    }
    with pytest.raises(InputError, match="calibration"):
        export_bundle(checkpoint, path, calibration=wrong[what], graphs=graphs)
    assert not path.exists()


@pytest.mark.parametrize("count", [0, 1, 15])
def test_too_few_calibration_samples_are_counted_as_given(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path, count: int
) -> None:
    with pytest.raises(ConfigError, match=f"{count} samples"):
        export_bundle(checkpoint, tmp_path / "x.edgessl", calibration=samples[:count], graphs=graphs)
    assert not list(tmp_path.iterdir())


def test_as_many_samples_as_asked_for_are_enough(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path: Path
) -> None:
    # the message says "at least 16"
    assert export_bundle(checkpoint, tmp_path / "x.edgessl", calibration=samples[:16], graphs=graphs)


def test_an_unknown_hyperparameter_is_refused(checkpoint: Checkpoint, graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hyper: unknown 'momentum'; this step has lr, beta1"):
        export_bundle(checkpoint, tmp_path / "x", calibration=None, graphs=graphs, hyper={"momentum": 0.9})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(checkpoint: Checkpoint, graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written"):
        export_bundle(checkpoint, tmp_path / "no" / "x.edgessl", calibration=None, graphs=graphs)


def test_a_bundle_goes_on_learning_after_pretraining_on_other_data(
    bundle: Bundle, digits: Source, tmp_path: Path
) -> None:
    with Learner.open(bundle, tmp_path / "state") as learner:
        learner.observe(digits.take(np.arange(200)))
        report = learner.learn(max_steps=20)
        assert report.steps == 20
        assert report.rejected == 0
        generation, theta = learner.save(), learner.theta
    with Learner.open(bundle, tmp_path / "state") as learner:
        assert learner.metrics()["generation"] == generation
        np.testing.assert_array_equal(learner.theta, theta)


@pytest.mark.slow
def test_graphs_are_traced_when_none_are_given(checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = export_bundle(checkpoint, tmp_path / "x.edgessl", calibration=None, batch_size=4)
    assert made.manifest.batch_size == 4
