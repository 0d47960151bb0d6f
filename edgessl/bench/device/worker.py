"""One device in one process: open a bundle, observe, learn in the background, save; imports are timed too."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgessl.device import Learner

MEMORY_BYTES = 1 << 20
SAVE_SECONDS = 300.0  # BackgroundLearner's default, which bytes_per_day assumes
DAY_S = 86_400
HOURS = 2  # of a stream of one sample a second that are saved for real, for bytes_per_day


def main() -> None:
    """Answer one JSON line {backend, bundle, folder, samples, gap_s} with the figures."""
    job = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    build = _torch if job["backend"] == "torch" else _onnxruntime
    model = build(job)
    imported = time.perf_counter()
    print(json.dumps(_measure(job, model, 1e3 * (imported - start))), flush=True)


def _onnxruntime(job: dict[str, Any]) -> Callable[[], Any]:
    from edgessl.device import Bundle

    return lambda: Bundle.open(job["bundle"])


def _torch(job: dict[str, Any]) -> Callable[[], Any]:
    """The same network and step on torch."""
    import torch

    from edgessl.bench.device.bundles import checkpoint
    from edgessl.continual.torch_runtime import TorchModel

    torch.set_num_threads(1)
    return lambda: TorchModel.of(checkpoint("ds_cnn_s"), batch_size=job["batch_size"])


def _measure(job: dict[str, Any], model: Callable[[], Any], import_ms: float) -> dict[str, Any]:
    import numpy as np

    from edgessl.device import Learner
    from edgessl.device.background import BackgroundLearner
    from edgessl.machine import peak_rss_mb

    began = time.perf_counter()
    learner = Learner.open(model(), Path(job["folder"]) / "state", memory_bytes=MEMORY_BYTES)
    shape = learner.bundle.manifest.input.shape
    learner.embed(np.zeros(shape, np.float32))
    open_ms = 1e3 * (time.perf_counter() - began)
    rng = np.random.default_rng(0)
    samples = rng.random((job["samples"], *shape), dtype=np.float32)
    alone = _latencies(learner.observe, samples[: len(samples) // 4], job["gap_s"])
    disk = _disk(learner, shape)
    learner.observe(samples[:64])
    learner.learn(max_steps=1)
    with BackgroundLearner(learner, queue_samples=1024, steps_per_sample=float("inf"), save_seconds=5.0) as busy:
        before = busy.metrics()
        times = _latencies(busy.observe, samples, job["gap_s"])
        accepted = busy.flush(60)
        after = busy.metrics()
        peak = peak_rss_mb()
    settled = _settled(job, model(), samples)
    return {
        "import_ms": import_ms,
        "open_ms": open_ms,
        "alone_p50_ms": _percentile(alone, 50),
        "alone_p99_ms": _percentile(alone, 99),
        "observe_p50_ms": _percentile(times, 50),
        "observe_p99_ms": _percentile(times, 99),
        "observed": after["observed"] - before["observed"],
        "lost": after["accepted"] - (after["observed"] - before["observed"]) if accepted else None,
        "dropped": after["dropped"],
        "steps": after["steps"] - before["steps"],
        "step_ms": 1e3 * after["step_seconds"],
        "peak_rss_mb": peak,
        "loads_torch": "torch" in sys.modules,
        **disk,
        **settled,
    }


def _settled(job: dict[str, Any], model: Any, samples: Any) -> dict[str, float]:
    """What settling gives and costs: the state of the device above, resumed."""
    from edgessl.device import Learner
    from edgessl.machine import rss_mb

    some, gap = samples[: len(samples) // 4], job["gap_s"]
    with Learner.open(model, Path(job["folder"]) / "state", memory_bytes=MEMORY_BYTES) as learner:
        for i, x in enumerate(some):
            learner.enroll(x, f"{i % 4}")
        found = {"unsettled_p50_ms": _percentile(_latencies(learner.observe, some, gap), 50)}
        found["unsettled_classify_p50_ms"] = _percentile(_latencies(learner.classify, some, gap), 50)
        before, began = rss_mb(), time.perf_counter()
        learner.settle()
        found["settle_ms"] = 1e3 * (time.perf_counter() - began)
        found["settled_p50_ms"] = _percentile(_latencies(learner.observe, some, gap), 50)
        found["settled_classify_p50_ms"] = _percentile(_latencies(learner.classify, some, gap), 50)
        found["settled_mb"] = rss_mb() - before
    return found


def _latencies(observe: Callable[[Any], Any], samples: Any, gap_s: float) -> list[float]:
    """Milliseconds of each call, one sample at a time, `gap_s` seconds apart."""
    times = []
    for x in samples:
        time.sleep(gap_s)
        start = time.perf_counter()
        observe(x)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def _disk(learner: Learner, shape: tuple[int, ...]) -> dict[str, Any]:
    """What saving costs: HOURS of a sample a second, saved every SAVE_SECONDS, the memory being full."""
    import numpy as np

    rng, per_save, times = np.random.default_rng(1), int(SAVE_SECONDS), []
    saves = round(HOURS * 3600 / SAVE_SECONDS)
    percept = learner.perceive(rng.random((per_save, *shape), dtype=np.float32))
    learner.remember(percept)
    learner.save()
    start = learner.metrics()["bytes_written"]
    for _ in range(saves):
        learner.remember(percept)
        began = time.perf_counter()
        learner.save()
        times.append(1e3 * (time.perf_counter() - began))
    written = learner.metrics()["bytes_written"] - start
    slots = sum(array.nbytes for array in learner.bundle.state().values())
    observed = saves * per_save * percept.samples[0].nbytes
    return {
        "save_ms": statistics.median(times),
        "state_mb": slots / 1e6,
        "memory_mb": learner.metrics()["memory_bytes"] / 1e6,
        "written_mb_per_day": written / 1e6 * DAY_S / (HOURS * 3600),
        "written_per_observed_byte": written / observed,
    }


if __name__ == "__main__":
    main()
