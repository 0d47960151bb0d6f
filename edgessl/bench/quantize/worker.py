"""One form of an encoder in a process of its own: `python -m edgessl.bench.quantize.worker`.

JSON lines. The first is the job `{"runtime", "everything", "threads", "folder", "encoder", "file"}`, answered by
`{"open_ms"}`; each further one `{"batch", "seconds"}` asks for runs, answered by `{"ms"}`, or `{"error": text}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEAST_RUNS = 5
Array = np.ndarray[Any, np.dtype[Any]]
Embed = Callable[[Array], object]


def main() -> None:
    """Serve one job on stdin and stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=out, flush=True)

    try:
        job = json.loads(sys.stdin.readline())
        folder = Path(job["folder"])
        with np.load(folder / "inputs.npz") as arrays:
            inputs = arrays["x"]
        make = _torch if job["runtime"] == "torch" else _onnxruntime
        make(job, folder)  # the first pays for imports too
        start = time.perf_counter()
        embed = make(job, folder)
        took = 1e3 * (time.perf_counter() - start)
        embed(inputs[:1])
        answer({"open_ms": round(took, 2)})
        for line in sys.stdin:
            asked = json.loads(line)
            answer({"ms": _measure(embed, inputs[: asked["batch"]], asked["seconds"])})
    except Exception as error:  # any failure of a form is a result, not a crash
        answer({"error": f"{type(error).__name__}: {error}"[:400]})


def _measure(embed: Embed, x: Array, seconds: float) -> list[float]:
    """Milliseconds of each run, for about `seconds`."""
    embed(x)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_RUNS:
        start = time.perf_counter()
        embed(x)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _onnxruntime(job: dict[str, Any], folder: Path) -> Embed:
    """As a device runs it; with `everything` at the highest level of optimization."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if job["everything"] else level.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession((folder / job["file"]).read_bytes(), options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    extra = {name: np.load(folder / "theta.npy") for name in names - {"x"}}
    return lambda x: session.run(None, {"x": x, **extra})


def _torch(job: dict[str, Any], folder: Path) -> Embed:
    import torch

    from edgessl.bench.quantize.speed import fresh

    torch.set_num_threads(job["threads"])
    with np.load(folder / "inputs.npz") as arrays:
        encoder = fresh(job["encoder"], arrays["x"])
    encoder.load_state_dict(torch.load(folder / job["file"], weights_only=True))

    def run(x: Array) -> object:
        with torch.inference_mode():
            return encoder(torch.from_numpy(x)).numpy()

    return run


if __name__ == "__main__":
    main()
