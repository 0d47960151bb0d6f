"""One backend of the step bench in a process of its own: `python -m edgessl.bench.step.worker`.

JSON lines. The first line on stdin is the job `{"backend", "folder", "threads"}`; the answer says what it took to get
ready. Each further line `{"seconds": s}` asks for steps during `s` seconds; the answer is `{"ms", "peak_rss_mb"}`. Any
answer may be `{"error": text}`, after which the process ends. End of input ends it too.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgessl.bench.step.run import NEEDED, TRAINING
from edgessl.machine import installed_mb, peak_rss_mb

TOLERANCE = 1e-3  # relative, of the losses of the first steps
LEAST_STEPS = 3  # of a turn, however slow they are

Step = Callable[[int], float]


def main() -> None:
    """Serve one job on stdin and stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=out, flush=True)

    try:
        step, ready = prepare(json.loads(sys.stdin.readline()))
        answer(ready)
        t = ready["checked_steps"]
        for line in sys.stdin:
            times = measure(step, t, json.loads(line)["seconds"])
            t += len(times)
            answer({"ms": times, "peak_rss_mb": peak_rss_mb()})
    except Exception as error:  # any failure of a backend is a result, not a crash
        answer({"error": f"{type(error).__name__}: {first_lines(str(error))}"})


def prepare(job: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """Import the backend, build its step, do the first steps and compare their losses with the case's.

    Raises:
        RuntimeError: a loss differs: the backend would not be doing the same work.
    """
    folder = Path(job["folder"])
    start = time.perf_counter()
    build = _importer(job["backend"])
    imported = time.perf_counter()
    from edgessl.device.storage import tensors

    case = json.loads((folder / "case.json").read_text())
    arrays, _ = tensors.loads((folder / "tensors.safetensors").read_bytes())
    step = build(case, arrays, folder, job["threads"])
    built = time.perf_counter()
    losses = [step(0)]
    first = time.perf_counter()
    losses += [step(t) for t in range(1, len(case["losses"]))]
    for t, (found, expected) in enumerate(zip(losses, case["losses"], strict=True)):
        if not math.isclose(found, expected, rel_tol=TOLERANCE):
            raise RuntimeError(f"step {t}: the loss is {found:.6g}, our step's is {expected:.6g}")
    return step, {
        "import_s": imported - start,
        "setup_s": built - imported,
        "first_step_s": first - built,
        "checked_steps": len(losses),
        "loads_torch": "torch" in sys.modules,
        **({"installed_mb": installed_mb(NEEDED[TRAINING])} if job["backend"] == TRAINING else {}),
    }


def _importer(backend: str) -> Callable[..., Step]:
    if backend == "onnxruntime":
        from edgessl.bench.step import onnx_backend

        return onnx_backend.build
    if backend == TRAINING:
        from edgessl.bench.step import training_backend

        return training_backend.build
    from edgessl.bench.step import torch_backend

    compiled = backend == "torch_compile"
    return lambda case, arrays, folder, threads: torch_backend.build(case, arrays, threads, compiled)


def measure(step: Step, t: int, seconds: float) -> list[float]:
    """Milliseconds of each step from number `t` on, for about `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_STEPS:
        start = time.perf_counter()
        step(t + len(times))
        times.append(1e3 * (time.perf_counter() - start))
    return times


def first_lines(text: str, count: int = 4) -> str:
    """The first `count` lines of `text` that say something, as one line."""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][:count])


if __name__ == "__main__":
    main()
