"""One bundle of the settle bench in a process of its own: a JSON line in, a JSON line out."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgessl.bench.device.worker import MEMORY_BYTES
from edgessl.device import Bundle, Learner
from edgessl.machine import rss_mb

ENROLLED = 20


def main() -> None:
    """Answer one JSON line {bundle, folder, calls} with the figures of a row."""
    print(json.dumps(measure(json.loads(sys.stdin.readline()))), flush=True)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """See settle.run."""
    bundle = Bundle.open(job["bundle"])
    spec = bundle.manifest.input
    x = np.random.default_rng(0).normal(0.3, 0.3, (256, *spec.shape)).astype(np.float32)
    with Learner.open(bundle, job["folder"], memory_bytes=MEMORY_BYTES) as learner:
        learner.observe(x)
        learner.learn(max_steps=2)
        for i in range(ENROLLED):
            learner.enroll(x[i], str(i % 4))
        few = max(2, job["calls"] // 5)
        kinds: dict[str, tuple[Callable[[], object], int]] = {
            "observe_ms": (lambda: learner.observe(x[0]), job["calls"]),
            "classify_ms": (lambda: learner.classify(x[0]), job["calls"]),
            "embed_ms": (lambda: learner.embed(x[0]), job["calls"]),
            "embed_32_ms": (lambda: learner.embed(x[:32]), few),
        }
        before = {name: _median(call, times) for name, (call, times) in kinds.items()}
        resident, began = rss_mb(), time.perf_counter()
        learner.settle()
        settle_ms = 1e3 * (time.perf_counter() - began)
        row = {name: [before[name], _median(call, times)] for name, (call, times) in kinds.items()}
        settled_mb = rss_mb() - resident
    return {
        "parameters": bundle.manifest.theta_size,
        **row,
        "settle_ms": round(settle_ms, 1),
        "settled_mb": round(settled_mb, 1),
    }


def _median(call: Callable[[], object], times: int) -> float:
    """Milliseconds of a call; a tenth as many come first and are not counted."""
    taken = []
    for i in range(times + times // 10):
        start = time.perf_counter()
        call()
        if i >= times // 10:
            taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken), 3)


if __name__ == "__main__":
    main()
