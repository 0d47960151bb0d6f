import dataclasses

import numpy as np
import onnxruntime as ort
import pytest

from edgessl.device import EncoderRunner, FrozenEncoderRunner, SessionProfile, StepRunner, pack, step_noise
from edgessl.errors import BundleError, ConfigError, InputError


def test_twenty_steps_agree_with_float64(bundle, kit):
    runner = StepRunner(bundle)
    state = bundle.state()
    hyper = {**kit.hyper, "anchor": 0.01}
    for t in range(20):
        batch, noise = kit.samples(8, seed=t), step_noise(0, t, (8, 16))
        metrics = runner.step(batch, noise, hyper)
        state, expected = kit.reference_step(state, batch, noise, hyper)
        assert metrics == pytest.approx(expected, rel=2e-4)
        for name, value in runner.state().items():
            np.testing.assert_allclose(value, state[name], rtol=1e-4, atol=2e-6)


def test_state_out_and_in_is_exact_and_copied(bundle, kit):
    a, b = StepRunner(bundle), StepRunner(bundle)
    noise = step_noise(0, 0, (8, 16))
    a.step(kit.samples(8), noise, kit.hyper)
    state = a.state()
    b.load(state)
    for runner in (a, b):
        runner.step(kit.samples(8, 1), noise, kit.hyper)
    after = a.state()
    state["theta"][:] = 0  # neither the copy that came out nor the one that went in is shared
    for name, value in b.state().items():
        np.testing.assert_array_equal(value, after[name])


def test_undo(bundle, kit):
    runner = StepRunner(bundle)
    with pytest.raises(InputError, match="no step"):
        runner.undo()
    noise = step_noise(0, 0, (8, 16))
    runner.step(kit.samples(8), noise, kit.hyper)
    before, theta = runner.state(), runner.theta
    runner.step(kit.samples(8, 1), noise, kit.hyper)
    np.testing.assert_array_equal(theta.numpy(), before["theta"])  # an older value outlives the step
    runner.undo()
    for name, value in runner.state().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(InputError, match="no step"):
        runner.undo()


def test_step_refuses_other_shapes_and_names(bundle, kit):
    runner, noise = StepRunner(bundle), step_noise(0, 0, (8, 16))
    batch = kit.samples(8)
    for args, says in (
        ((batch[:7], noise, kit.hyper), r"batch: expected float32\[8, 1, 4, 4\], found float32\[7"),
        ((batch.astype(np.float64), noise, kit.hyper), "found float64"),
        ((batch, noise[:, :3], kit.hyper), "noise: expected"),
        ((batch, noise, {"lr": 1.0}), "hyper: expected"),
        ((batch, noise, {**kit.hyper, "more": 1.0}), "hyper: expected"),
    ):
        with pytest.raises(InputError, match=says):
            runner.step(*args)
    with pytest.raises(InputError, match="expected slots"):
        runner.load({"theta": runner.state()["theta"]})


def test_encoder_takes_any_batch_and_theta(bundle, kit):
    encoder, theta = EncoderRunner(bundle), bundle.state()["theta"]
    x = kit.samples(33)
    z = encoder.embed(theta, x)
    assert z.shape == (33, 6)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(encoder.embed(theta, x[::3]), z[::3], atol=1e-6)
    np.testing.assert_allclose(encoder.embed(-theta[::1], x[:0:-1]).shape, (32, 6))
    z[:] = 0  # the caller owns what it gets


def test_int8_encoder_is_close(bundle, kit):
    x = kit.samples(50)
    exact = EncoderRunner(bundle).embed(bundle.state()["theta"], x)
    cosine = (FrozenEncoderRunner(bundle).embed(x) * exact).sum(1)
    assert cosine.min() > 0.999


def test_int8_encoder_may_be_absent(kit, tmp_path):
    graphs = {k: g for k, g in kit.manifest.graphs.items() if k != "encoder_int8"}
    members = {k: v for k, v in kit.members.items() if k != "encoder.int8.onnx"}
    bundle = pack(tmp_path / "b", dataclasses.replace(kit.manifest, graphs=graphs), members)
    EncoderRunner(bundle)
    with pytest.raises(BundleError, match="'encoder_int8' is not in this bundle; it has encoder, train"):
        FrozenEncoderRunner(bundle)


def test_a_missing_provider_is_an_error(bundle):
    with pytest.raises(ConfigError, match="'NoSuchProvider' is not in this onnxruntime, which has"):
        EncoderRunner(bundle, SessionProfile(provider="NoSuchProvider"))
    with pytest.raises(ConfigError, match="threads"):
        EncoderRunner(bundle, SessionProfile(threads=0))


def test_profile_reaches_onnxruntime(bundle):
    session = SessionProfile(threads=2, spinning=True).session(bundle.read("train.onnx"), "train.onnx")
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert not options.enable_mem_pattern
    assert options.enable_cpu_mem_arena
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert session.get_providers() == ["CPUExecutionProvider"]
    frugal = SessionProfile(arena=False).session(bundle.read("train.onnx"), "train.onnx")
    assert not frugal.get_session_options().enable_cpu_mem_arena
