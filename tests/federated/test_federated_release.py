"""From a federation's weights to a bundle that devices open."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from edgessl.cli import cli
from edgessl.device import Bundle, Learner, SessionProfile
from edgessl.errors import BundleError, FederationError
from federated import FederationResult, RoundSettings, federate_in_process, make_server_app, run_local
from federated.checkpoint import ServerStore
from federated.message import version_of
from federated.release import release
from federated.strategies.ldawa import cosine


@pytest.fixture
def result(bundle, samples, tmp_path):
    streams = [samples(100, seed=1), samples(120, seed=2)]
    return federate_in_process(bundle, streams, rounds=2, local_steps=8, workdir=tmp_path / "fleet")


def test_devices_that_open_it_start_from_the_fleets_weights(bundle, result, samples, tmp_path):
    new = release(bundle, result, tmp_path / "new.edgessl")
    with Learner.open(new, tmp_path / "state") as learner:
        np.testing.assert_array_equal(learner.theta, result.theta)
        assert learner.observe(samples(64)).shape == (64, new.manifest.embedding_dim)
        assert learner.learn(max_steps=2).steps == 2
    state = new.state()
    np.testing.assert_array_equal(state["anchor"], result.theta)
    assert np.abs(bundle.state()["anchor"] - result.theta).max() > 1e-3
    assert "encoder_int8" in bundle.manifest.graphs
    assert set(new.manifest.graphs) == {"encoder", "train"}  # int8 holds the old weights
    assert "encoder.int8.onnx" not in new.files
    assert new.digest != bundle.digest


def test_it_says_where_it_comes_from(bundle, result, tmp_path):
    new = release(bundle, result, tmp_path / "new.edgessl", name="second")
    lineage = new.manifest.provenance["federation"]
    assert (lineage["bundle"], lineage["version"]) == (bundle.digest, version_of(result.theta))
    assert (lineage["round"], lineage["rounds"], lineage["clients"]) == (2, 2, 2)
    assert lineage["parent"] == result.rounds[0]["version"]
    assert new.manifest.provenance["seed"] == bundle.manifest.provenance["seed"]
    assert new.manifest.name == "second"
    again = release(bundle, result, tmp_path / "again.edgessl", name="second")
    assert again.digest == new.digest


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: np.where(np.arange(len(t)) == 3, np.nan, t)])
def test_weights_that_do_not_fit_are_refused(bundle, result, tmp_path, spoil):
    bad = FederationResult(spoil(result.theta).astype(np.float32), [], 0.0)
    with pytest.raises(FederationError, match="do not fit the bundle's"):
        release(bundle, bad, tmp_path / "new.edgessl")
    huge = FederationResult(np.full_like(result.theta, 3e38), [], 0.0)
    with pytest.raises(FederationError, match="NaN or infinity; nothing was written"):
        release(bundle, huge, tmp_path / "new.edgessl")
    with pytest.raises(BundleError, match="export it with calibration and --requantize"):
        release(bundle, result, tmp_path / "new.edgessl", samples=np.zeros((20, 1, 4, 4), np.float32))
    assert not (tmp_path / "new.edgessl").exists()


@pytest.mark.slow
def test_the_int8_encoder_is_made_anew(tmp_path):
    from edgessl.checkpoint import Checkpoint
    from edgessl.device import FrozenEncoderRunner, InputSpec
    from edgessl.device.requantize.encoder import FollowingEncoder
    from edgessl.recipe import build_step, parse_recipe
    from export import export_bundle
    from export.quantize.members import Quantization

    spec = InputSpec("image", (1, 8, 8), (0.5,), (0.3,), "intensity 0..1")
    recipe = parse_recipe({"encoder": {"name": "ds_cnn_s"}, "objective": {"name": "byol"}, "optimizer": "sgd"})
    state = build_step(recipe, spec).initial_state()
    x = np.random.default_rng(0).random((96, 1, 8, 8), np.float32)
    old = export_bundle(
        Checkpoint(recipe, spec, 0, state, np.zeros((0, 1)), ("step",)),
        tmp_path / "old.edgessl",
        calibration=x,
        batch_size=8,
        quantization=Quantization(requantize=True),
    )
    noise = np.random.default_rng(1).normal(scale=0.05, size=old.manifest.theta_size)
    mask = np.concatenate([np.full(e.size, e.kind == "weight") for e in old.manifest.parameters])
    theta = (old.state()["theta"] + noise * mask).astype(np.float32)
    new = release(old, FederationResult(theta, [], 0.0), tmp_path / "new.edgessl", samples=x)
    assert set(new.manifest.graphs) == set(old.manifest.graphs)
    runners = [FrozenEncoderRunner(b) for b in (old, new)]
    expected = new.runners(SessionProfile())[0].embed(theta, x[:8])
    before, after = (np.mean([cosine(*rows) for rows in zip(r.embed(x[:8]), expected, strict=True)]) for r in runners)
    assert after > 0.98
    assert after > before
    assert new.manifest.parity["encoder_int8"]["cosine_mean"] > 0.98
    assert FollowingEncoder(new).follow(theta, x).accepted  # and again on the device


def run(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="edgessl")
    return done.exit_code, done.output


def test_the_command(bundle, bundle_path, result, tmp_path):
    result.save(weights := tmp_path / "theta.safetensors", bundle.digest)
    out = tmp_path / "new.edgessl"
    code, text = run("federate", "release", bundle_path, weights, "-o", out, "--json")
    assert code == 0, text
    told = json.loads(text)
    assert (told["digest"], told["left_out"]) == (Bundle.open(out).digest, ["encoder_int8"])
    code, text = run("federate", "release", out, weights, "-o", tmp_path / "third.edgessl")
    assert code != 0
    code, text = run("federate", "release", bundle_path, weights, "-o", out)
    assert code == 0
    assert "left out" in text


def test_log_and_rollback_commands(bundle, bundle_path, tmp_path):
    start = bundle.state()["theta"]

    def client(message, context):
        from flwr.app import Message

        from federated import message as wire

        update = wire.unpack(message.content, bundle_digest=bundle.digest, size=len(start))
        metrics = {"num-examples": 1}
        theta = update.theta + np.float32(0.5)
        content = wire.pack(theta, bundle_digest=bundle.digest, round_number=update.round, metrics=metrics)
        return Message(content, reply_to=message)

    state = tmp_path / "state"
    run_local(make_server_app(start, bundle.digest, RoundSettings(3), state_dir=state), client, 2)
    code, text = run("federate", "log", state)
    assert code == 0, text
    assert text.count("round") >= 4
    code, text = run("federate", "rollback", state, bundle_path, "--to", 1, "--reason", "bad labels", "--json")
    assert code == 0, text
    told = json.loads(text)
    assert (told["round"], told["branch"], told["next"]) == (1, 1, 4)
    with ServerStore(state, bundle.digest) as store:
        head = store.load()
    np.testing.assert_allclose(head.theta, start + 0.5)
    code, text = run("federate", "log", state, "--json")
    events = json.loads(text)["events"]
    assert [e["event"] for e in events] == ["start", "round", "round", "round", "rollback"]
    assert events[-1]["reason"] == "bad labels"
    for command in (("log", tmp_path), ("rollback", tmp_path, bundle_path, "--to", 1, "--reason", "x")):
        code, text = run("federate", *command)
        assert code == 2
        assert "no round log" in text
