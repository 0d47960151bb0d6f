"""The embedded engineer's program: open a bundle, watch a stream, learn when there is time. numpy and onnxruntime only.

make demo                                                # writes runs/demo/digits.edgessl
python examples/device_sdk.py runs/demo/digits.edgessl   # random images stand in for a camera
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np

from edgessl.device import Learner


def camera(shape: tuple[int, ...], frames: int):
    """Replace this by your sensor: float32 samples in the bundle's input units."""
    rng = np.random.default_rng(0)
    for _ in range(frames):
        yield rng.random(shape, dtype=np.float32)


def main(bundle: str) -> None:
    with (
        tempfile.TemporaryDirectory() as state_dir,  # on a device: a folder on flash that survives power loss
        Learner.open(bundle, state_dir, memory_bytes=1 << 20) as learner,
    ):
        for n, frame in enumerate(camera(learner.bundle.manifest.input.shape, frames=200), start=1):
            learner.observe(frame)
            if n % 32 == 0:
                report = learner.learn(max_seconds=0.2)
                print(f"frame {n}: {report.steps} steps in {report.seconds:.2f} s; {report.stopped}")
        learner.enroll(frame, "what I just saw")
        print(learner.classify(frame))
        print(f"saved as generation {learner.save()}; {learner.metrics()['drift_events']} drift events")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
