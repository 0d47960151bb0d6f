"""One bundle of the latent bench in a process of its own: `python -m edgessl.bench.device.latent_worker`.

JSON lines. The first line on stdin is `{"bundle": path}`; the answer `{}` says that a learner is open and has learned
once. Each further line `{"seconds": s}` is answered with `step_ms`, `backbone_ms`, `backbone_batch_ms` (medians; None
without a backbone) and `peak_rss_mb`. An answer `{"error": text}` is the last.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

LEAST = 3  # of any measurement, however slow
MEMORY_BYTES = 1 << 20


def main() -> None:
    """Serve one bundle on stdin and stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=out, flush=True)

    try:
        with tempfile.TemporaryDirectory() as folder:
            serve(json.loads(sys.stdin.readline())["bundle"], folder, answer)
    except Exception as error:  # any failure is a result, not a crash
        answer({"error": f"{type(error).__name__}: {error}"})


def serve(path: str, folder: str, answer: Callable[[dict[str, Any]], None]) -> None:
    """Open a learner on the bundle as a product would, let it observe and learn, then time its parts."""
    import numpy as np

    from edgessl.device import Bundle, Learner, SessionProfile, step_noise
    from edgessl.machine import peak_rss_mb

    bundle = Bundle.open(path)
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    n = manifest.batch_size
    mean, std = (
        np.asarray(v).reshape(-1, *[1] * (len(manifest.input.shape) - 1))
        for v in (manifest.input.mean, manifest.input.std)
    )
    x = (mean + std * rng.standard_normal((4 * n, *manifest.input.shape))).astype(np.float32)
    with Learner.open(bundle, folder, memory_bytes=MEMORY_BYTES) as learner:
        for i in range(0, len(x), n):
            learner.observe(x[i : i + n])
        learner.learn(max_steps=2)
        peak = peak_rss_mb()  # of observing and learning, before anything is opened a second time
    backbone, (_, trainer) = bundle.backbone(SessionProfile()), bundle.runners(SessionProfile())
    batch = x[:n] if backbone is None else backbone.latents(x[:n])
    noise = step_noise(0, 0, manifest.noise_shape)
    trainer.step(batch, noise, manifest.hyper)
    answer({})
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        times = {"step_ms": measured(lambda: trainer.step(batch, noise, manifest.hyper), seconds)}
        if backbone is not None:
            times["backbone_ms"] = measured(lambda: backbone.latents(x[:1]), seconds / 4)
            times["backbone_batch_ms"] = measured(lambda: backbone.latents(x[:n]), seconds / 4) / n
        answer({"backbone_ms": None, "backbone_batch_ms": None, **times, "peak_rss_mb": peak})


def measured(work: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of `work`, done again and again for about `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST:
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
