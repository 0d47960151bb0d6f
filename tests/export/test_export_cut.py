"""A bundle with a cut: int8 backbone, latents on the storage grid, the step of the tail, all as torch has them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.continual.device_step import device_step
from edgessl.data import Source
from edgessl.device import Bundle, EncoderRunner, FollowingEncoder, Learner, StepRunner, step_noise
from edgessl.device.memory.codec import ByteCodec
from edgessl.device.runtime import BackboneRunner, SessionProfile
from edgessl.encoders.cut import cut_encoder
from edgessl.errors import ConfigError
from edgessl.evaluate import embed
from edgessl.pretrain import pretrain
from edgessl.recipe import Part, build_step, parse_recipe
from edgessl.step import hyper_tensors
from export import export_bundle
from export.backbone import put_on_grid
from export.quantize import Quantization
from federated import FederationResult
from federated.release import release

CUT = "block4"


@pytest.fixture(scope="module")
def cut_bundle(checkpoint: Checkpoint, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("cut") / "digits-cut.edgessl"
    export_bundle(
        checkpoint,
        path,
        calibration=samples[:160],
        cut=CUT,
        batch_size=8,
        quantization=Quantization(requantize=True),
    )
    return Bundle.open(path)


@pytest.fixture(scope="module")
def latents(cut_bundle: Bundle, samples: np.ndarray) -> np.ndarray:
    return BackboneRunner(cut_bundle).latents(samples)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def test_the_manifest_says_what_was_cut(cut_bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest, latent = cut_bundle.manifest, cut_bundle.manifest.latent
    assert (manifest.cut, latent.shape, latent.spec.kind) == (CUT, (128, 2, 2), "latent")
    assert manifest.input == checkpoint.input
    assert manifest.learned == latent.spec
    follows = {"tail_int8"}
    assert set(manifest.graphs) == {"train", "encoder", "encoder_int8", "backbone", "ranges", *follows}
    assert set(manifest.parity) == {"train", "encoder", "encoder_int8", "backbone", "embedding", "tensorrt", *follows}
    assert manifest.parity["backbone"]["cosine_mean"] > 0.95
    assert [view.name for view in manifest.views] == ["resized_crop", "latent_noise"]
    stages = {p.name.split(".")[2] for p in manifest.parameters if p.name.startswith("encoder.")}
    assert stages == {"block5"}
    assert {p.name.split(".")[0] for p in manifest.parameters} == {"encoder", "projector", "predictor"}


def test_the_state_is_the_checkpoints_by_name(cut_bundle: Bundle, checkpoint: Checkpoint) -> None:
    layout, state = checkpoint.train_step().layout, cut_bundle.state()
    for slot in ("theta", "teacher"):
        whole = layout.unflatten(checkpoint.state[slot])
        for p in cut_bundle.manifest.parameters:
            own = state[slot][p.offset : p.offset + p.size].reshape(p.shape)
            np.testing.assert_array_equal(own, whole[p.name].numpy(), err_msg=f"{slot} {p.name}")
    assert cut_bundle.manifest.theta_size < layout.size
    assert not any(state[slot].any() for slot in ("first_moment", "second_moment", "updates"))  # the optimizer's anew


def test_latents_are_stored_without_loss_and_stand_for_the_float_ones(
    cut_bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray, latents: np.ndarray
) -> None:
    latent = cut_bundle.manifest.latent
    codec = ByteCodec(latent.scale, latent.zero_point)
    stored, beyond = codec.encode(latents)
    assert beyond == 0
    np.testing.assert_array_equal(codec.decode(stored), latents)
    assert len(np.unique(stored)) > 100  # the range is used
    backbone, _ = cut_encoder(checkpoint.encoder(), CUT)
    assert cosines(latents, embed(backbone, samples)).min() > 0.95
    fitted = latents[1:160:2]  # of 160 calibration samples every other one is held out to judge by
    np.testing.assert_allclose(latent.spec.mean, fitted.mean((0, 2, 3)), rtol=1e-5)


def test_backbone_then_tail_embeds_as_torch_does(
    cut_bundle: Bundle, checkpoint: Checkpoint, samples: np.ndarray, latents: np.ndarray
) -> None:
    found = EncoderRunner(cut_bundle).embed(cut_bundle.state()["theta"], latents)
    _, tail = cut_encoder(checkpoint.encoder(), CUT)
    np.testing.assert_allclose(found, embed(tail, latents), rtol=1e-4, atol=1e-5)
    assert cosines(found, embed(checkpoint.encoder(), samples)).min() > 0.95


def test_steps_on_real_latents_follow_torch(cut_bundle: Bundle, checkpoint: Checkpoint, latents: np.ndarray) -> None:
    step, state = device_step(checkpoint, cut=CUT)
    runner, hyper = StepRunner(cut_bundle), {**step.hyper, "lr": 1e-4}
    for t in range(5):
        batch, noise = latents[8 * t : 8 * t + 8], step_noise(3, t, step.noise_shape(8))
        metrics = runner.step(batch, noise, hyper)
        state, expected = step(state, torch.from_numpy(batch), torch.from_numpy(noise), hyper_tensors(hyper))
        assert metrics["loss"] == pytest.approx(float(expected["loss"]), rel=1e-3)
    for name, value in runner.state().items():
        error = np.linalg.norm(value - state[name].numpy()) / max(np.linalg.norm(state[name].numpy()), 1e-12)
        assert error < 1e-3, name


def test_a_learner_learns_from_latents(cut_bundle: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    with Learner.open(cut_bundle, tmp_path / "state", memory_bytes=512 * 100) as learner:
        z = learner.observe(samples[:200])
        assert z.shape == (200, 128)
        assert learner.metrics()["remembered"] == 100  # 512 bytes each
        before = learner.theta
        assert learner.learn(max_steps=4).steps == 4
        assert np.abs(learner.theta - before).max() > 0
        assert learner.save() == 1


def test_what_cannot_be_cut_is_refused(checkpoint: Checkpoint, samples: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "x.edgessl"
    with pytest.raises(ConfigError, match="an int8 backbone needs calibration"):
        export_bundle(checkpoint, target, calibration=None, cut=CUT)
    with pytest.raises(ConfigError, match="cannot cut the encoder at 'block5'"):
        export_bundle(checkpoint, target, calibration=samples, cut="block5")
    with pytest.raises(ConfigError, match="latent_views: only a step with a cut"):
        device_step(checkpoint, latent_views=[])
    assert not target.exists()


def test_an_objective_that_needs_samples_cannot_learn_from_latents(checkpoint: Checkpoint) -> None:
    recipe = parse_recipe({"encoder": {"name": "ds_cnn_s"}, "objective": {"name": "denoising"}})
    state = build_step(recipe, checkpoint.input).initial_state()
    with pytest.raises(ConfigError, match="objective denoising takes image, spectrogram, signal, not latent"):
        device_step(dataclasses.replace(checkpoint, recipe=recipe, state=state), cut=CUT)


def test_a_new_adapter_takes_first_steps_of_the_learning_rate(checkpoint: Checkpoint, latents: np.ndarray) -> None:
    """Adam moves every weight by lr at first; with the count of updates of pretraining it would be more."""
    step, state = device_step(checkpoint, cut="pool")
    z = torch.from_numpy(latents.reshape(len(latents), -1)[:16, :128].copy())
    noise, hyper = torch.rand(step.noise_shape(16)), {**step.hyper, "lr": 1e-3, "weight_decay": 0.0, "clip_norm": 1e9}
    after, _ = step(state, z, noise, hyper_tensors(hyper))
    (entry,) = (e for e in step.layout.entries if e.name == "encoder.stages.adapter.up.weight")
    moved = (after["theta"] - state["theta"])[entry.offset : entry.offset + entry.size].abs()
    assert moved.max() <= 1.01e-3
    assert moved.median() == pytest.approx(1e-3, rel=0.05)


def test_views_of_latents_can_be_chosen(checkpoint: Checkpoint) -> None:
    step, _ = device_step(checkpoint, cut="pool", latent_views=[Part(name="latent_noise", options={"sigma": 0.5})])
    assert step.views.pipeline.to_json() == [{"name": "latent_noise", "options": {"sigma": 0.5}}]
    assert step.noise_shape(4) == (4, 2 * 128)


def test_the_grid_rounds_any_graph_to_the_nearest_level() -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[N,3] x) => (float[N,3] y) { y = Abs (x) }'
    model = onnx.parser.parse_model(text)
    put_on_grid(model.graph, "y", np.float32(0.25), 10)
    onnx.checker.check_model(model)
    session = SessionProfile().session(model.SerializeToString(), "grid")
    x = np.array([[0.1, -0.2, 1e9], [3.0, 0.374, 0.0]], np.float32)
    (found,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(found, [[0.0, 0.25, 0.25 * 245], [3.0, 0.25, 0.0]])


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("resnet8", "block2", "vicreg", {}),
    ("resnet8", "pool", "simclr", {"norm": "batch"}),
    ("cnn1d", "block2", "moco", {}),
    ("cnn1d", "pool", "dino", {}),
    ("vit", "block2", "swav", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "cut", "objective", "options"), CASES)
def test_every_family_learns_behind_a_cut(
    encoder: str, cut: str, objective: str, options: dict[str, Any], digits: Source, tmp_path: Path
) -> None:
    recipe = parse_recipe(
        {
            "encoder": {"name": encoder, "options": options},
            "objective": {"name": objective},
            "batch_size": 64,
            "epochs": 1,
        }
    )
    source = digits if encoder != "cnn1d" else _signals(digits)
    bundle = export_bundle(
        pretrain(recipe, source), tmp_path / "b.edgessl", calibration=source.take(np.arange(128)), cut=cut, batch_size=8
    )
    with Learner.open(bundle, tmp_path / "state", memory_bytes=64 * math.prod(bundle.manifest.latent.shape)) as learner:
        learner.observe(source.take(np.arange(64)))
        report = learner.learn(max_steps=5)
        assert report.steps == 5
        assert np.isfinite(report.metrics["loss"])


def _signals(digits: Source) -> Source:
    """Digits as signals of 8 channels and 8 steps, each step twice."""
    from edgessl.data import array_source

    x = digits.take(np.arange(len(digits)))[:, 0]
    return array_source(np.repeat(x, 4, axis=2), kind="signal", layout="channels_first")


@pytest.mark.parametrize(("form", "least"), [("int8", 0.98), ("float", 0.999999)])
def test_the_tail_follows_what_was_learned(
    cut_bundle: Bundle, samples: np.ndarray, latents: np.ndarray, form: str, least: float
) -> None:
    """Samples go in, the backbone is the factory's, and what lies behind it is what the device learned."""
    encoder, exact, slot = (
        FollowingEncoder(cut_bundle, form=form),
        EncoderRunner(cut_bundle),
        cut_bundle.manifest.embed_slot,
    )
    theta = cut_bundle.state()[slot]
    assert cosines(encoder.embed(samples), exact.embed(theta, latents)).mean() > least
    learned = (theta * np.random.default_rng(3).uniform(0.7, 1.4, theta.size)).astype(np.float32)
    before = cosines(encoder.embed(samples), exact.embed(learned, latents)).mean()
    assert encoder.follow(learned, latents).accepted
    assert cosines(encoder.embed(samples), exact.embed(learned, latents)).mean() > max(least, before)


def test_a_learner_behind_a_cut_requantizes_its_tail(cut_bundle: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    encoder = FollowingEncoder(cut_bundle)
    with Learner.open(cut_bundle, tmp_path) as learner:
        learner.observe(samples[:64])
        learner.learn(max_steps=2)
        factory = encoder.model
        assert learner.requantize(encoder).accepted
        assert encoder.model != factory
        assert cosines(encoder.embed(samples), learner.embed(samples)).mean() > 0.98


def test_a_fleets_release_has_the_tail_made_anew(cut_bundle: Bundle, samples: np.ndarray, tmp_path: Path) -> None:
    theta = cut_bundle.state()["theta"]
    learned = (theta * np.random.default_rng(3).uniform(0.7, 1.4, theta.size)).astype(np.float32)
    new = release(cut_bundle, FederationResult(learned, [], 0.0), tmp_path / "new.edgessl", samples=samples)
    assert set(new.manifest.graphs) == set(cut_bundle.manifest.graphs) - {"encoder_int8"}  # that has the old weights
    assert new.manifest.parity["tail_int8"]["cosine_mean"] > 0.98
    exact = EncoderRunner(new).embed(learned, BackboneRunner(new).latents(samples))
    assert cosines(FollowingEncoder(new).embed(samples), exact).mean() > 0.98
