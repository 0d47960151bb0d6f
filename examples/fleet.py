"""The fleet engineer's program: devices learn together, their data stay where they are.

    make demo                                           # writes runs/demo/digits.edgessl
    python examples/fleet.py runs/demo/digits.edgessl   # three devices in this process, each with its own stream

The same clients run against a real SuperLink with `edgessl federate loopback`; docs/deployment.md is about real fleets.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from edgessl.data import open_digits
from edgessl.device import Bundle
from federated import federate_in_process


def main(path: str) -> None:
    bundle, digits = Bundle.open(path), open_digits("train")
    streams = [digits.take(shard) for shard in np.array_split(np.arange(len(digits)), 3)]
    with tempfile.TemporaryDirectory() as folder:
        result = federate_in_process(bundle, streams, rounds=3, local_steps=10, workdir=Path(folder))
    for record in result.rounds:
        print(f"round {record['round']}: loss {record['loss']:.3f}, {record['bytes_up']:,} bytes up")
    print(f"one array of {result.theta.size:,} weights, {result.seconds:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
