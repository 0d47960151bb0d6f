"""A device's long day in one process: samples without end, learning in the background, memory and files watched."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from edgessl.device import Bundle, Learner
from edgessl.device.background import BackgroundLearner
from edgessl.machine import rss_mb

MEMORY_BYTES = 256 << 10
BLOCK = 64  # samples observed at a time
SAVE_SECONDS = 2.0
WARM_UP = 0.1  # of the samples: allocators settle, the memory fills
SCENES, CHANGE = 8, 0.05  # what there is to see; how much two looks at one scene differ
STEPS_PER_SAMPLE = 0.25
PATIENCE_S = 0.25  # for the steps that a block pays for, before the next block
RATE = 1e-3  # the bundle's own is for pretraining; at that, noise alone makes the guard roll back


def main() -> None:
    """Answer JSON lines {samples} until stdin ends; the first line says bundle, folder, seed and samples in all."""
    job = json.loads(sys.stdin.readline())
    bundle, state = Bundle.open(job["bundle"]), Path(job["folder"]) / "soak"
    rng = np.random.default_rng(job["seed"])
    scenes = _smooth(rng.random((SCENES, *bundle.manifest.input.shape), dtype=np.float32))
    inner = Learner.open(bundle, state, memory_bytes=MEMORY_BYTES)
    inner.hyper["lr"] = RATE
    learner = BackgroundLearner(
        inner,
        when_full="wait",
        wait_seconds=60,
        steps_per_sample=STEPS_PER_SAMPLE,
        save_seconds=SAVE_SECONDS,
    )
    print(json.dumps({"ready": True}), flush=True)
    sizes: list[float] = []
    done, most, refused, warm = 0, 0, 0, int(WARM_UP * job["samples"])
    for line in sys.stdin:
        for _ in range(-(-json.loads(line)["samples"] // BLOCK)):
            seen = scenes[rng.integers(SCENES, size=BLOCK)]
            x = seen + np.float32(CHANGE) * rng.standard_normal(seen.shape, dtype=np.float32)
            due = inner.metrics()["attempts"] + STEPS_PER_SAMPLE * BLOCK
            refused += BLOCK * (not learner.observe(x).accepted)
            done += BLOCK
            until = time.monotonic() + PATIENCE_S
            while inner.metrics()["attempts"] < due and time.monotonic() < until:
                time.sleep(0.001)
            if done % 2048 < BLOCK:
                most = max(most, sum(path.stat().st_size for path in state.iterdir()))
                if done >= warm:
                    sizes.append(rss_mb())
        learner.flush()
        counts = learner.metrics()
        tenth = max(1, len(sizes) // 10)
        answer = {
            "observed": counts["observed"],
            "refused": refused,
            "dropped": counts["dropped"],
            "steps": counts["steps"],
            "saves": counts["saves"],
            "failures": counts["failures"],
            "rollbacks": counts["rollbacks"],
            "frozen": counts["frozen"],
            "rss_mb": rss_mb(),
            "rss_growth_percent": 100 * (median(sizes[-tenth:]) / median(sizes[:tenth]) - 1) if sizes else None,
            "disk_bytes": most,
            "disk_bound_bytes": counts["disk_bound_bytes"],
        }
        print(json.dumps(answer), flush=True)
    learner.close()


def _smooth(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Neighbouring numbers alike, from 0 to 1."""
    mean = (np.roll(x, 1, -1) + x + np.roll(x, -1, -1)) / 3
    low, high = mean.min(-1, keepdims=True), mean.max(-1, keepdims=True)
    return ((mean - low) / (high - low)).astype(np.float32)


if __name__ == "__main__":
    main()
