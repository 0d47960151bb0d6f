"""pretrain, export, inspect, stream and federate on the built-in digits, as a user would run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgessl.checkpoint import Checkpoint
from edgessl.cli.doctor import show_findings
from edgessl.data import open_source
from edgessl.device import Bundle, Learner
from edgessl.device.storage import tensors


def test_pretrain_says_what_it_did(made) -> None:
    said = made.pretrained
    assert said["step"] == 1200 // 128
    assert said["resumed_from"] is None
    assert said["checkpoint"] == str(made.checkpoint)
    watched = {"alignment", "uniformity", "rankme"}
    assert set(said["metrics"]) == {"loss", "grad_norm", "embedding_std", "effective_rank", *watched}
    assert said["stopped"] is None
    assert said["provenance"]["energy"]["joules"] > 0
    assert said["recipe"]["hyper"] == {"lr": 0.002}
    assert said["recipe"]["seed"] == 3
    assert "digits: 1,200 x image 1x16x16" in made.pretraining
    assert "training 100%" in made.pretraining


def test_pretrain_resumes_with_the_checkpoints_recipe(run, made) -> None:
    found = run("pretrain", "digits", "--out", made.checkpoint, "--json")
    said = json.loads(found.stdout)
    assert "resuming after step 9" in found.stderr
    assert said["resumed_from"] == said["step"] == 9
    assert said["recipe"] == made.pretrained["recipe"]
    assert said["metrics"] == made.pretrained["metrics"]


def test_pretrain_reads_a_recipe_file_and_options_override_it(run, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('encoder = { name = "cnn1d" }\nobjective = { name = "vicreg" }\nepochs = 5\nbatch_size = 16\n')
    signals = np.random.default_rng(0).standard_normal((32, 3, 64)).astype(np.float32)
    np.save(tmp_path / "signals.npy", signals)
    args = ("--recipe", file, "--epochs", 1, "--out", tmp_path / "c.safetensors")
    found = run("pretrain", tmp_path / "signals.npy", *args)
    assert "2 steps" in found.stdout
    assert "edgessl export" in found.stdout
    assert "cnn1d, vicreg, adamw" in found.stderr


def test_pretrain_takes_an_encoder_for_the_kind_of_data(run, tmp_path: Path) -> None:
    np.save(tmp_path / "signals.npy", np.random.default_rng(0).standard_normal((32, 3, 64)).astype(np.float32))
    args = ("--epochs", 1, "--batch-size", 16, "--out", tmp_path / "c.safetensors", "--json")
    assert json.loads(run("pretrain", tmp_path / "signals.npy", *args).stdout)["recipe"]["encoder"]["name"] == "cnn1d"


def test_pretrain_warns_live_when_learning_breaks(run, tmp_path: Path) -> None:
    args = ("--optimizer", "sgd", "--lr", 1e9, "--epochs", 2, "--batch-size", 64, "--out", tmp_path / "c.safetensors")
    found = run("pretrain", "digits", *args)
    assert found.stderr.count("! step") == 1  # once, not at every line
    warning = next(line for line in found.stderr.splitlines() if line.startswith("! step"))
    assert "not finite" in warning or "collapsing" in warning


def test_pretrain_stops_on_collapse_when_told_to(run, tmp_path: Path) -> None:
    args = ("--optimizer", "sgd", "--lr", 1e9, "--batch-size", 64, "--out", tmp_path / "c.safetensors", "--json")
    found = run("pretrain", "digits", *args, "--stop-on-collapse", expect=3)
    said = json.loads(found.stdout)
    assert said["stopped"] == "collapse"
    assert said["step"] == 11  # the first row is of step 10
    assert "stopped by collapse" in found.stderr


def test_pretrain_probes_where_there_are_labels(run, tmp_path: Path) -> None:
    args = ("--epochs", 1, "--batch-size", 64, "--chunk", 16, "--grid", 100, "--out", tmp_path / "c.safetensors")
    found = run("pretrain", "digits", *args, "--probe")
    assert "labels for the probe only" in found.stderr
    assert "probe " in found.stdout.splitlines()[0]
    assert "at 100 g/kWh (given); " in found.stdout
    assert "of memory at most" in found.stdout
    text = run("inspect", tmp_path / "c.safetensors").stdout
    assert "probe_accuracy" in text
    assert "energy.joules" in text

    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((32, 1, 8, 8), np.float32))
    found = run("pretrain", tmp_path / "images.npy", "--data", "kind=image", "--probe", expect=2)
    assert "no labels to probe with" in found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_pretrain_saves_when_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "c.safetensors"
    command = [sys.executable, "-m", "edgessl", "pretrain", "digits", "--out", str(out), "--save-every", "2", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not out.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        said, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in err
    found = json.loads(said)
    assert found["stopped"] == number.name
    assert 2 <= found["step"] < 270
    assert Checkpoint.load(out).step == found["step"]


def test_export_reports_parity_and_members(made, exported) -> None:
    said = exported.said
    assert exported.bundle == made.checkpoint.with_name("tiny.edgessl")  # the folder's name: the file says nothing
    assert said["bytes"] == exported.bundle.stat().st_size
    assert set(said["members"]) == {"encoder.onnx", "encoder.int8.onnx", "train.onnx", "state.safetensors"}
    assert said["parity"]["encoder"] < 1e-4
    assert max(said["parity"]["train"]["slots"].values()) < 1e-4
    assert said["parity"]["encoder_int8"]["cosine_mean"] > 0.95
    bundle = Bundle.open(exported.bundle)
    assert bundle.digest == said["digest"]
    assert bundle.manifest.batch_size == 8
    assert bundle.manifest.hyper["lr"] == 0.0005


def test_inspect_a_bundle(run, exported) -> None:
    said = json.loads(run("inspect", exported.bundle, "--json").stdout)
    assert (said["kind"], said["digest"]) == ("bundle", exported.said["digest"])
    assert said["manifest"]["encoder"]["name"] == "ds_cnn_s"
    text = run("inspect", exported.bundle).stdout
    for part in (exported.said["digest"], "train.onnx", "resized_crop", "lr 0.0005", "60,418"):
        assert part in text


def test_inspect_finds_a_damaged_bundle(run, exported, tmp_path: Path) -> None:
    data = bytearray(exported.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.edgessl").write_bytes(data)
    found = run("inspect", tmp_path / "bad.edgessl", expect=2)
    assert "bad.edgessl" in found.stderr
    assert found.stdout == ""


def test_inspect_a_checkpoint(run, made) -> None:
    said = json.loads(run("inspect", made.checkpoint, "--json").stdout)
    assert (said["kind"], said["step"]) == ("checkpoint", 9)
    assert said["recipe"] == made.pretrained["recipe"]
    assert said["provenance"] == made.pretrained["provenance"]
    assert said["history"]["loss"][-1] == made.pretrained["metrics"]["loss"]
    assert said["parameters"] == made.pretrained["parameters"]
    assert "step 9" in run("inspect", made.checkpoint).stdout


def test_stream_is_the_learner_driven_in_order(run, exported, tmp_path: Path) -> None:
    args = ("--learn-every", 32, "--steps-per-learn", 2, "--limit", 80, "--set", "lr=0.002", "--json")
    said = json.loads(run("stream", exported.bundle, "digits:test", "--state", tmp_path / "s", *args).stdout)
    assert said["learner"]["observed"] == said["samples"] == 80
    assert said["learn_steps"] == said["learner"]["steps"] == 4
    assert said["learner"]["generation"] == 1
    assert said["interrupted"] is False

    samples = open_source("digits:test").take(np.arange(80))
    with Learner.open(exported.bundle, tmp_path / "own") as learner:
        learner.hyper["lr"] = 0.002
        for start in (0, 32):
            learner.observe(samples[start : start + 32])
            learner.learn(max_steps=2)
        with Learner.open(exported.bundle, tmp_path / "s") as streamed:
            np.testing.assert_array_equal(streamed.theta, learner.theta)


def test_stream_goes_on_where_the_state_left_off(run, exported, tmp_path: Path) -> None:
    def stream(*args: object) -> tuple[dict, str]:
        found = run("stream", exported.bundle, "digits:test", "--state", tmp_path / "s", *args, "--json")
        return json.loads(found.stdout), found.stderr

    stream("--limit", 40)
    said, spoken = stream("--limit", 10)
    assert (said["start"], said["position"], said["learner"]["observed"]) == (40, 50, 50)
    assert "resumed: generation 1, 40 samples seen before" in spoken
    said, _ = stream("--limit", 10, "--start", 0, "--steps-per-learn", 0)
    assert (said["start"], said["position"], said["learner"]["observed"], said["learn_steps"]) == (0, 10, 60, 0)
    said, spoken = stream("--start", 597)
    assert said["samples"] == 0
    assert "nothing new" in spoken


def test_stream_summary(run, exported, tmp_path: Path) -> None:
    found = run("stream", exported.bundle, "digits:test", "--state", tmp_path / "s", "--limit", 64)
    assert "64 samples" in found.stdout
    assert "8 steps" in found.stdout
    assert "generation 1" in found.stdout


def test_stream_saves_before_it_complains_about_a_bad_sample(run, exported, tmp_path: Path) -> None:
    samples = open_source("digits:test").take(np.arange(48))
    samples[40, 0, 3, 3] = np.nan
    np.save(tmp_path / "x.npy", samples)
    found = run("stream", exported.bundle, tmp_path / "x.npy", "--state", tmp_path / "s", expect=2)
    assert "sample 40" in found.stderr
    with Learner.open(exported.bundle, tmp_path / "s") as learner:
        assert learner.metrics()["observed"] == 32


def test_stream_needs_numpy_and_onnxruntime_only(exported, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", open_source("digits:test").take(np.arange(64)))
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'flwr', 'sklearn', 'matplotlib', 'pydantic'): sys.modules[name] = None\n"
        "from edgessl.cli import main\nmain()"
    )
    args = ["stream", str(exported.bundle), str(tmp_path / "x.npy"), "--state", str(tmp_path / "s"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["learner"]["steps"] == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stream_saves_when_told_to_stop(exported, tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "s"
    rhythm = ["--steps-per-learn", "20", "--save-every", "32", "--json"]
    command = [sys.executable, "-m", "edgessl", "stream", str(exported.bundle), "digits:test", "--state", str(state)]
    process = subprocess.Popen([*command, *rhythm], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not (state / "state.0").exists() and not (state / "state.1").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; everything is saved" in err
    said = json.loads(out)
    assert said["interrupted"] is True
    assert 32 <= said["samples"] < 597
    with Learner.open(exported.bundle, state) as learner:
        assert learner.metrics()["observed"] == said["samples"]
        assert learner.metrics()["steps"] == said["learner"]["steps"]


def test_federate_simulate(run, exported, tmp_path: Path) -> None:
    out = tmp_path / "fed"
    args = ("--clients", 2, "--rounds", 2, "--local-steps", 1, "--out", out)
    said = json.loads(run("federate", "simulate", exported.bundle, "digits:test", *args, "--json").stdout)
    assert said["clients"] == 2
    assert [(r["round"], r["clients"]) for r in said["rounds"]] == [(1, 2), (2, 2)]
    assert said["rounds"][0]["examples"] == 597
    arrays, _ = tensors.loads((out / "theta.safetensors").read_bytes())
    assert arrays["theta"].size == Bundle.open(exported.bundle).manifest.theta_size
    assert not np.array_equal(arrays["theta"], Bundle.open(exported.bundle).state()["theta"])


def test_federate_simulate_table(run, exported, tmp_path: Path) -> None:
    samples = open_source("digits:test").take(np.arange(40))
    for name, part in (("a", samples[:16]), ("b", samples[16:])):
        np.save(tmp_path / f"{name}.npy", part)
    args = (tmp_path / "a.npy", tmp_path / "b.npy", "--rounds", 1, "--local-steps", 1, "--out", tmp_path / "fed")
    text = run("federate", "simulate", exported.bundle, *args).stdout
    assert "rounds: 1, clients: 2" in text
    assert str(tmp_path / "fed" / "theta.safetensors") in text


@pytest.mark.deploy
def test_federate_loopback(run, exported, tmp_path: Path) -> None:
    args = ("--clients", 2, "--rounds", 2, "--local-steps", 1, "--out", tmp_path / "fed", "--json")
    said = json.loads(run("federate", "loopback", exported.bundle, "digits:test", *args).stdout)
    assert [(r["round"], r["clients"]) for r in said["rounds"]] == [(1, 2), (2, 2)]


def test_bench_lists_what_there_is(run) -> None:
    assert "step" in json.loads(run("bench", "--json").stdout)["benches"]
    assert "step" in run("bench").stdout


@pytest.mark.slow
def test_bench_step(run) -> None:
    args = ("--encoders", "ds_cnn_s", "--threads", "1", "--repeats", 1, "--set", "turn_seconds=0.01")
    said = json.loads(run("bench", "step", *args, "--set", 'backends=["onnxruntime", "torch"]', "--json").stdout)
    assert [row["backend"] for row in said["rows"]] == ["onnxruntime", "torch"]
    assert all(row["median_ms"] > 0 for row in said["rows"])


def test_doctor(run, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(run("doctor", "--json").stdout)
    assert {check["name"]: check["status"] for check in said["checks"]}["numpy"] == "ok"
    said["checks"].append({"name": "gizmo", "status": "missing", "found": "not installed", "advice": "build one"})
    show_findings(said)
    text = " ".join(capsys.readouterr().out.split())
    for check in said["checks"]:
        assert f"{check['name']} " in text
    for capability in said["capabilities"]:
        assert capability["why"] in text
    assert "gizmo not installed build one" in text


@pytest.mark.slow
def test_demo(run, tmp_path: Path) -> None:
    said = json.loads(run("demo", "--seeds", 1, "--out", tmp_path, "--json").stdout)
    assert said == json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_under_torchrun_only_one_process_talks(tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "edgessl"]
    args = ["pretrain", "digits", "--epochs", "1", "--device", "cpu", "--out", str(out), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *args], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["step"] == 9
    assert done.stderr.count("digits: 1,200") == 1
