"""A real Flower deployment on this machine: SuperLink, SuperNodes and a run, over loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgessl.device import Bundle
from federated.deployment.programs import Programs, environment, free_port, write_toml
from federated.deployment.superlink import APP, Server
from federated.result import FederationResult

_LINK = "loopback"


def run_loopback(
    bundle_path: Path,
    streams: Sequence[Path],
    *,
    rounds: int,
    local_steps: int,
    workdir: Path,
    port: int | None = None,
    seed: int = 0,
    memory_bytes: int = 4 << 20,
    timeout: float = 300.0,
) -> FederationResult:
    """Run a federation of one SuperNode per stream (.npy files of float32 samples) and return its result.

    Plain HTTP on 127.0.0.1:`port` (a free one by default): for tests and demonstrations, not for a network.
    `workdir` receives the nodes' state (node-0, node-1 ...), `theta.safetensors` and `logs`. Raises
    FederationError with the end of the logs when a program dies, the run fails, or `timeout` seconds pass;
    whatever was started is stopped in every case.
    """
    bundle, workdir = Bundle.open(bundle_path), workdir.resolve()
    port, final = port or free_port(), workdir / "theta.safetensors"
    home, logs = workdir / "flwr", workdir / "logs"
    for folder in (home, logs):
        folder.mkdir(parents=True, exist_ok=True)
    final.unlink(missing_ok=True)
    address = f"127.0.0.1:{port}"
    link = f'[superlink]\ndefault = "{_LINK}"\n[superlink.{_LINK}]\naddress = "{address}"\ninsecure = true\n'
    (home / "config.toml").write_text(link)
    shared = {"bundle": str(bundle_path.resolve())}
    run = {"save-to": str(final), "rounds": rounds, "local-steps": local_steps, "seed": seed}
    run |= {"min-nodes": len(streams), "round-timeout": timeout}
    write_toml(workdir / "run.toml", shared | run)
    with Programs(environment(home), logs, timeout) as programs:
        programs.start("superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port))
        programs.wait(Server(workdir, port=port).healthy, "the SuperLink to answer")
        for i, stream in enumerate(streams):
            node: dict[str, object] = {"state-dir": str(workdir / f"node-{i}"), "stream": str(stream.resolve())}
            limits = {"memory-bytes": memory_bytes, "seed": seed + i}
            write_toml(config := workdir / f"node-{i}.toml", shared | node | limits)
            own = ("--port", str(free_port()), "--node-config", str(config))
            programs.start(f"supernode-{i}", "flower-supernode", "--insecure", "--superlink", address, *own)
        programs.call("flwr", "run", str(APP), _LINK, "--run-config", str(workdir / "run.toml"))
        programs.wait(lambda: _finished(programs), "the run to finish", every=3.0)
    return FederationResult.load(final, bundle.digest)


def _finished(programs: Programs) -> bool:
    """Whether the run completed; FederationError when it failed (`flwr run` itself exits 0 even then)."""
    (run,) = programs.call("flwr", "list", _LINK)["runs"]
    if run["status"].startswith("finished") and run["status"] != "finished:completed":
        raise programs.failure(f"the run is {run['status']}: {run['status-details']}")
    return bool(run["status"] == "finished:completed")
