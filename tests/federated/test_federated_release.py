"""From a federation's weights to a bundle that devices open."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from edgessl.cli import cli
from edgessl.device import Bundle, Learner
from edgessl.errors import FederationError
from federated import FederationResult, RoundSettings, federate_in_process, make_server_app, run_local
from federated.checkpoint import ServerStore
from federated.message import version_of
from federated.release import release


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
    assert not (tmp_path / "new.edgessl").exists()


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
