"""Runs a network in Lava's fixed-point simulator, in a worker process, one lane after the other (Lava has no batch)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.errors import EdgeSSLError
from neuromorphic.lava.environment import WORKER, Environment, find_environment
from neuromorphic.network import IntegerNetwork
from neuromorphic.populations import Graded
from neuromorphic.record import spike_dtype
from neuromorphic.rules import LearningRule

ORPHAN_GRACE_S = 10.0


class LavaError(EdgeSSLError):
    """Lava failed or ran out of time; the message carries its traceback whole. Nothing of it is left running."""


@dataclass
class LavaRecord:
    """What Lava computed; arrays as in `neuromorphic.simulator.Record`.

    Attributes:
        spikes: population -> (batch, steps, n).
        u: population -> (batch, steps, n).
        v: population -> (batch, steps, n).
        weights: plastic connection -> (batch, n_post, n_pre) after the run.
        weight_history: plastic connection -> (batch, steps, n_post, n_pre).
        tag_history: plastic connection with a dt rule -> (batch, steps, n_post, n_pre).
        versions: python, numpy and lava of the worker.
        steps_per_second: of one lane, compiling and starting not counted.
    """

    spikes: dict[str, np.ndarray]
    u: dict[str, np.ndarray]
    v: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    weight_history: dict[str, np.ndarray]
    tag_history: dict[str, np.ndarray]
    versions: dict[str, str]
    steps_per_second: float


def run_lava(
    network: IntegerNetwork,
    inputs: Mapping[str, np.ndarray],
    *,
    probe: bool = True,
    timeout_s: float = 300.0,
    environment: Environment | None = None,
) -> LavaRecord:
    """Run from step 0 in Lava.

    Args:
        network: what to run.
        inputs: name -> (batch, steps, n).
        probe: record currents and voltages, and weights and tags after each step; False: spikes and final weights only.
        timeout_s: for each lane; then the whole process group is killed.
        environment: where Lava is; otherwise what `edgessl neuro setup` made.

    Raises:
        LavaUnavailableError: no worker environment.
        LavaError: Lava raised, hung or left no result.
    """
    where = environment or find_environment()
    given = network.check_inputs(inputs)
    batch, steps = next(iter(given.values())).shape[:2]
    lanes = []
    for lane in range(batch):
        with tempfile.TemporaryDirectory(prefix="edgessl-lava-") as folder:
            write_job(Path(folder), network, {name: array[lane] for name, array in given.items()}, probe)
            _run_worker(where, Path(folder), timeout_s)
            lanes.append(_read_lane(Path(folder), network))
    arrays = {key: np.stack([lane[key] for lane, _ in lanes]) for key in lanes[0][0]}
    record = LavaRecord({}, {}, {}, {}, {}, {}, {}, 0.0)
    kinds = {"spikes": record.spikes, "u": record.u, "v": record.v, "weights": record.weight_history}
    kinds |= {"tags": record.tag_history, "final": record.weights}
    for key, array in arrays.items():
        what, name = key.split(".", 1)
        kinds[what][name] = array.astype(np.int16) if what in ("weights", "final", "tags") else array
    for population in network.populations:
        if population.name in record.spikes:
            record.spikes[population.name] = record.spikes[population.name].astype(spike_dtype(population))
    record.versions = {key: str(lanes[0][1][key]) for key in ("python", "numpy", "lava")}
    seconds = sum(done["seconds"] for _, done in lanes)
    record.steps_per_second = batch * (steps - 1) / seconds if seconds else 0.0
    return record


def write_job(folder: Path, network: IntegerNetwork, inputs: Mapping[str, np.ndarray], probe: bool) -> None:
    """Write job.json and its arrays; `inputs` are (steps, n)."""
    count = 0

    def store(array: np.ndarray) -> str:
        nonlocal count
        count += 1
        np.save(folder / f"array{count}.npy", np.ascontiguousarray(array))
        return f"array{count}.npy"

    def describe(part: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for spec in fields(part):
            value = getattr(part, spec.name)
            if isinstance(value, np.ndarray):
                value = store(value)
            elif isinstance(value, LearningRule):
                # the parsed products written out again: Lava reads exactly the rule the simulators run
                sums = {key: " + ".join(map(str, products)) for key, products in _products(value).items()}
                value = {**value.to_json(), **{key: text.replace("+ -", "- ") for key, text in sums.items()}}
            elif isinstance(value, np.integer):
                value = int(value)
            values[spec.name] = value
        return values

    names = [p.name for p in network.populations]
    stateful = [p.name for p in network.populations if not isinstance(p, Graded)]
    plastic = [c.name for c in network.connections if c.rule is not None]
    tagged = [c.name for c in network.connections if c.rule is not None and c.rule.dt]
    record = {"spikes": names, "u": stateful, "v": stateful, "weights": plastic, "tags": tagged}
    job = {
        "steps": len(next(iter(inputs.values()))),
        "inputs": [{"name": name, "data": store(array.T)} for name, array in inputs.items()],
        "populations": [{"kind": p.kind, **describe(p)} for p in network.populations],
        "connections": [{**describe(c), "modulators": network.modulators(c)} for c in network.connections],
        "record": record if probe else {**{what: [] for what in record}, "spikes": names},
    }
    (folder / "job.json").write_text(json.dumps(job))


def _products(rule: LearningRule) -> dict[str, tuple[Any, ...]]:
    return {"dw": rule.weight_products, "dt": rule.tag_products}


def _run_worker(environment: Environment, folder: Path, timeout_s: float) -> None:
    command = [str(environment.python), str(WORKER / "main.py"), str(folder)]
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with open(folder / "output.txt", "wb") as output:
        worker = subprocess.Popen(
            command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=quiet
        )
        try:
            code = worker.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(worker)
            said = _last_words(folder)
            raise LavaError(
                f"Lava did not end within {timeout_s:g} s and was stopped, its children too; raise the time-out or run "
                f"fewer steps. It said:\n{said}"
            ) from None
        except BaseException:
            _kill_group(worker)
            raise
        orphans = _wait_for_group(worker.pid)
        _kill_group(worker)
    if code != 0 or not (folder / "done.json").exists() or (folder / "error.txt").exists():
        raise LavaError(f"Lava failed (exit code {code}):\n{_last_words(folder)}")
    if orphans:
        raise LavaError(f"Lava ended but left {len(orphans)} processes running, now killed:\n{_last_words(folder)}")


def _last_words(folder: Path) -> str:
    texts = [
        path.read_text(errors="replace").strip()
        for name in ("error.txt", "output.txt")
        if (path := folder / name).exists()
    ]
    return "\n".join(text for text in texts if text) or "(nothing)"


def _kill_group(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _wait_for_group(group: int) -> list[int]:
    """What still runs of a process group after a short grace; a clean stop takes its helpers a moment."""
    deadline = time.monotonic() + ORPHAN_GRACE_S
    while (left := living(group)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def living(group: int) -> list[int]:
    """Processes of a process group that still run (zombies do not), read from /proc; empty where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state ppid pgrp ...; the name may hold spaces and brackets
            state, _, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(entry.parent.name))
    return found


def _read_lane(folder: Path, network: IntegerNetwork) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    prefixes = ("spikes.", "u.", "v.", "weights.", "tags.", "final.")
    arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy")) if path.name.startswith(prefixes)}
    return arrays, json.loads((folder / "done.json").read_text())
