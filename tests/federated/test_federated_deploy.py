"""The deployed apps, the programs that run them, and (make test-deploy) a real SuperLink with two SuperNodes."""

import contextlib
import dataclasses
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from edgessl.device.storage.state import SLOTS
from edgessl.errors import FederationError, MissingDependencyError
from federated import FederationResult, federate_in_process, run_local, run_loopback
from federated.checkpoint import LOG
from federated.deployment import apps, loopback
from federated.deployment import programs as started
from federated.settings import RoundSettings

ROUNDS, STEPS = 2, 10


@pytest.fixture
def streams(samples, tmp_path):
    paths = [tmp_path / f"stream {i}.npy" for i in range(2)]  # a space, which a command line would have to quote
    for i, path in enumerate(paths):
        np.save(path, samples(100 * (2 * i + 1), seed=i))
    return paths


@pytest.fixture
def in_process(bundle, streams, tmp_path):
    arrays = [np.load(path) for path in streams]
    return federate_in_process(bundle, arrays, rounds=ROUNDS, local_steps=STEPS, workdir=tmp_path / "here")


def app_config():
    return tomllib.loads((loopback.APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


class TestApps:
    @pytest.fixture
    def run(self, bundle_path, streams, tmp_path):
        def node_config(i):
            return {
                "bundle": str(bundle_path),
                "state-dir": str(tmp_path / f"node-{i}"),
                "stream": str(streams[i]),
                "seed": i,
            }

        def federate(run=None, node=None):
            app = apps.client_app()
            settings = {"bundle": str(bundle_path), "save-to": str(tmp_path / "t.safetensors"), "rounds": ROUNDS}
            config = app_config()["config"] | settings | {"local-steps": STEPS} | (run or {})

            def client(message, context):
                mine = node_config(int(context.node_config["partition-id"])) | (node or {})
                own = Context(context.run_id, context.node_id, mine, RecordDict(), context.run_config)
                return app(message, own)

            run_local(apps.server_app(), client, 2, config)
            return tmp_path / "t.safetensors"

        return federate

    def test_they_do_what_the_in_process_federation_does(self, run, bundle, in_process):
        result = FederationResult.load(run(), bundle.digest)
        assert result.theta.tobytes() == in_process.theta.tobytes()
        assert [r["loss"] for r in result.rounds] == [r["loss"] for r in in_process.rounds]

    @pytest.mark.parametrize("setting", ["bundle", "save-to"])
    def test_the_operator_must_say_where_things_are(self, run, setting):
        with pytest.raises(FederationError, match=f"^{setting}: set it to a str"):
            run({setting: ""})

    def test_a_setting_of_another_type_is_refused(self, run):
        with pytest.raises(FederationError, match=r"rounds: set it to a int .* found 'three'"):
            run({"rounds": "three"})

    def test_a_device_without_its_settings_says_so(self, run):
        with pytest.raises(FederationError, match="state-dir: set it to a str"):
            run(node={"state-dir": ""})

    def test_a_server_cannot_point_a_device_at_a_file(self, run, tmp_path):
        run({"state-dir": str(tmp_path / "elsewhere"), "stream": "/etc/passwd"})  # the former is the server's own
        assert (tmp_path / "elsewhere" / LOG).exists()
        assert not [path for path in (tmp_path / "elsewhere").iterdir() if path.name in SLOTS]
        assert [path for path in (tmp_path / "node-0").iterdir() if path.name in SLOTS]


def test_every_round_setting_can_be_set_and_has_the_default_of_the_code():
    config = app_config()["config"]
    for field in dataclasses.fields(RoundSettings):
        given = config[field.name.replace("_", "-")]
        assert field.name == "rounds" or given == field.default


def test_the_app_folder_names_what_is_there():
    components = app_config()["components"]
    for reference in components.values():
        module, attribute = reference.split(":")
        assert f"{attribute} = " in (loopback.APP / f"{module}.py").read_text()


class TestPrograms:
    @pytest.fixture
    def programs(self, tmp_path):
        with started.Programs(started.environment(tmp_path / "home"), tmp_path, timeout=20.0) as programs:
            yield programs

    def test_nothing_reaches_for_the_internet(self, programs):
        assert programs.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert programs.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert programs.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"

    def test_a_program_that_dies_is_an_error_with_the_end_of_its_log(self, programs):
        programs.start("node", sys.executable, "-c", "print('out of milk'); raise SystemExit(3)")
        with pytest.raises(FederationError, match=r"(?s)node ended with code 3; logs are in .*out of milk"):
            programs.wait(lambda: False, "nothing")

    def test_time_runs_out_with_what_it_waited_for(self, programs):
        programs.deadline = 0.0
        with pytest.raises(FederationError, match="waited 20 s in all, last for Godot"):
            programs.wait(lambda: False, "Godot")

    def test_a_command_that_fails_or_talks_nonsense_is_an_error(self, programs):
        with pytest.raises(FederationError, match="gave no JSON but 'nonsense'"):
            programs.call(sys.executable, "-c", "print('nonsense')")
        with pytest.raises(FederationError, match=r"failed: \{'success': False\}"):
            programs.call(sys.executable, "-c", "print('{\"success\": false}')")
        programs.deadline = time.monotonic() + 1
        with pytest.raises(FederationError, match="did not end within 1 s"):
            programs.call(sys.executable, "-c", "import time; time.sleep(60)")

    def test_a_program_that_is_not_there_is_named(self, programs):
        with pytest.raises(MissingDependencyError, match="flower-nonsense not found"):
            programs.start("x", "flower-nonsense")

    def test_what_was_started_is_stopped_detached_children_too(self, tmp_path):
        pids = tmp_path / "pids"
        code = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open({str(pids)!r} + ".new", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(pids)!r} + ".new", {str(pids)!r})
time.sleep(60)"""
        with started.Programs(started.environment(tmp_path), tmp_path, timeout=20.0) as programs:
            programs.start("stubborn", sys.executable, "-c", code)
            programs.grace = 0.2
            programs.wait(pids.exists, "the child")
        assert not any(alive(int(pid)) for pid in pids.read_text().split())


def alive(pid):
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_free_port_is_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", started.free_port()))


def flower_processes(home):
    """Processes with this FLWR_HOME that still run, those that were just killed given a moment."""
    pids = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"FLWR_HOME={home}".encode() in environ.read_bytes():
                pids.append(int(environ.parent.name))
    return [pid for pid in pids if alive(pid)]


@pytest.mark.deploy
class TestLoopback:
    def test_real_nodes_give_the_bits_of_the_in_process_federation(self, bundle_path, streams, tmp_path, in_process):
        began = time.monotonic()
        result = run_loopback(bundle_path, streams, rounds=ROUNDS, local_steps=STEPS, workdir=tmp_path / "deployed")
        print(f"loopback: {time.monotonic() - began:.1f} s in all, rounds {[r['seconds'] for r in result.rounds]}")
        assert result.theta.tobytes() == in_process.theta.tobytes()
        assert [r["clients"] for r in result.rounds] == [2, 2]
        assert result.rounds[-1]["bytes_up"] == in_process.rounds[-1]["bytes_up"]
        assert flower_processes(tmp_path / "deployed" / "flwr") == []

    def test_a_run_that_fails_is_an_error_with_the_reason(self, bundle_path, samples, tmp_path):
        for i in range(2):
            np.save(tmp_path / f"{i}.npy", samples(3))  # fewer than a batch
        streams = [tmp_path / f"{i}.npy" for i in range(2)]
        with pytest.raises(FederationError, match=r"(?s)run is finished:failed.*0 of 2 replies.*3 samples remembered"):
            run_loopback(bundle_path, streams, rounds=1, local_steps=1, workdir=tmp_path / "deployed")
        assert flower_processes(tmp_path / "deployed" / "flwr") == []

    def test_a_port_in_use_is_an_error(self, bundle_path, streams, tmp_path):
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import socket,sys; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen();"
                "print(s.getsockname()[1], flush=True); sys.stdin.read()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            port = int(holder.stdout.readline())
            with pytest.raises(FederationError, match="superlink ended with code"):
                run_loopback(bundle_path, streams, rounds=1, local_steps=1, workdir=tmp_path / "d", port=port)
        finally:
            holder.communicate()
