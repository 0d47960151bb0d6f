from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgessl.cli.group import explain
from edgessl.errors import BundleError

# arguments, what the message must name; {tmp} is an empty folder
MISTAKES = [
    ("frobnicate", "unknown command 'frobnicate'"),
    ("pretain digits", "did you mean 'pretrain'?"),
    ("federate simulat b d", "did you mean 'simulate'?"),
    ("pretrain", "DATA"),
    ("pretrain digits --epoch 3", "--epochs"),
    ("pretrain {tmp}/none.npy", "none.npy"),
    ("pretrain digits:validation", "validation"),
    ("pretrain digits --data sise=8", "'sise'"),
    ("pretrain digits --data size=big", "big"),
    ("pretrain digits --data size", "not key=value"),
    ("pretrain digits --encoder resnet9 --out {tmp}/c", "resnet9"),
    ("pretrain digits --objective simclear --out {tmp}/c", "simclear"),
    ("pretrain digits --set hyper.temprature=1 --out {tmp}/c", "temprature"),
    ("pretrain digits --set epoch=1 --out {tmp}/c", "epoch"),
    ("pretrain digits --epochs 0 --out {tmp}/c", "epochs"),
    ("pretrain digits --batch-size 5000 --out {tmp}/c", "5000"),
    ("pretrain digits --recipe {tmp}/none.toml --out {tmp}/c", "none.toml"),
    ("pretrain digits --device tpu --out {tmp}/c", "tpu"),
    ("export {tmp}/none --no-int8", "none"),
    ("export {tmp}/none", "--calibrate"),
    ("export {tmp}/none --calibrate digits --no-int8", "--no-int8"),
    ("export {tmp}/none --no-int8 --set lr=fast", "'lr' takes a number"),
    ("export {tmp}/none --no-int8 --cut block2", "--cut needs an int8 backbone"),
    ("export {tmp}/none --no-int8 --portable --tune 5", "a --portable step is for GPUs"),
    ("export {tmp}/none --no-int8 --strategy-option form=predictive", "needs --strategy NAME"),
    ("inspect {tmp}/none", "none"),
    ("inspect {tmp}", "manifest.json"),
    ("inspect {readme}", "neither a bundle nor"),
    ("stream {tmp}/none.edgessl digits --state {tmp}/s", "none.edgessl"),
    ("stream {tmp}/none.edgessl digits", "--state"),
    ("stream b digits --state s --memory 4parsecs", "4parsecs"),
    ("stream b digits --state s --learn-every 0", "--learn-every"),
    ("federate simulate b digits digits:test --clients 3", "--clients 3"),
    ("federate simulate {tmp}/none.edgessl digits", "none.edgessl"),
    ("federate simulate b digits --clients 5000", "5000"),
    ("bench none", "'none'"),
    ("bench step --set tunrs=1", "'tunrs'"),
    ("bench step --threads 1,two", "1,two"),
    ("demo --seeds 0", "--seeds"),
]


@pytest.mark.parametrize(("line", "named"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_named_and_ends_with_2(run, tmp_path: Path, line: str, named: str) -> None:
    readme = tmp_path.parent / "readme.txt"
    readme.write_text("a text that is longer than eight bytes")
    found = run(*line.format(tmp=tmp_path, readme=readme).split(), expect=2)
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    message = found.stderr[found.stderr.index("edgessl: ") :]
    assert named in message
    assert message.endswith("\n")
    assert len(message.strip().splitlines()) == 1


def test_another_recipe_is_refused_with_the_difference(run, made) -> None:
    found = run("pretrain", "digits", "--epochs", 2, "--out", made.checkpoint, expect=2)
    assert "epochs 1 -> 2" in found.stderr


def test_too_little_memory_says_how_much_is_needed(run, exported, tmp_path: Path) -> None:
    found = run("stream", exported.bundle, "digits", "--state", tmp_path / "s", "--memory", "4k", expect=2)
    assert f"{8 * 16 * 16 * 4} bytes" in found.stderr  # one batch of 8 images of 16x16 float32


def test_data_of_another_shape(run, exported, tmp_path: Path) -> None:
    found = run("stream", exported.bundle, "digits", "--data", "size=8", "--state", tmp_path / "s", expect=2)
    assert "16" in found.stderr
    assert "8" in found.stderr


def program(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgessl", *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_the_program_itself() -> None:
    found = program("inspect", "/nowhere/x.edgessl")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "edgessl: /nowhere/x.edgessl: No such file or directory\n"


@pytest.mark.parametrize(("args", "environment"), [(("--debug",), {}), ((), {"EDGESSL_DEBUG": "1"})])
def test_debug_shows_the_traceback(args: tuple[str, ...], environment: dict[str, str]) -> None:
    found = program(*args, "inspect", "/nowhere/x.edgessl", **environment)
    assert found.returncode == 2
    assert "Traceback" in found.stderr
    assert found.stderr.endswith("edgessl: /nowhere/x.edgessl: No such file or directory\n")


def test_faults_of_our_own_end_with_1(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgessl.cli.bench import bench

    def broken(**options: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(bench, "callback", broken)
    found = run("bench", "step", expect=1)
    assert "internal error: KeyError: 'surprise'" in found.stderr
    assert "--debug" in found.stderr
    assert "Traceback" not in found.stderr
    assert "Traceback" in run("--debug", "bench", "step", expect=1).stderr


def test_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(BundleError("x: truncated")) == ("x: truncated", 2)
    assert explain(KeyboardInterrupt()) == ("interrupted", 130)
    assert explain(click.Abort()) == ("interrupted", 130)
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert explain(missing) == ("torch is not installed; run: pip install 'edgessl[train]'", 2)
    assert explain(ModuleNotFoundError("No module named 'edgessl.x'", name="edgessl.x"))[1] == 1
    assert explain(PermissionError(13, "Permission denied", "/etc/x")) == ("/etc/x: Permission denied", 2)
    text, code = explain(RuntimeError("first\n   second"))
    assert (code, "first second" in text) == (1, True)
    monkeypatch.setenv("RANK", "1")
    assert explain(BundleError("x"))[0] == "process 1: x"


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m edgessl --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage:")
    assert done.stderr == ""


def test_an_unknown_strategy_lists_those_there_are(run, made, tmp_path: Path) -> None:
    found = run("export", made.checkpoint, "--no-int8", "--strategy", "rehearsal", "-o", tmp_path / "x", expect=2)
    assert "unknown strategy 'rehearsal'" in found.stderr
    assert "cassle" in found.stderr
    assert not (tmp_path / "x").exists()
