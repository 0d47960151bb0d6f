"""What the device path costs here: on disk, at import, in memory; measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import edgessl
from edgessl.errors import ConfigError
from edgessl.machine import installed_mb

TIMEOUT_S = 120.0
# runs where nothing of edgessl is imported yet, and prints JSON
_PROBE = """
import json, sys, time
start = time.perf_counter()
import numpy, onnxruntime
between = time.perf_counter()
import edgessl.device
from edgessl.device import Bundle, Learner
end = time.perf_counter()
from edgessl.machine import peak_rss_mb
found = {"import_ms": 1e3 * (end - start), "own_import_ms": 1e3 * (end - between), "import_rss_mb": peak_rss_mb()}
if sys.argv[1:]:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        learner = Learner.open(Bundle.open(sys.argv[1]), folder)
        shape = learner.bundle.manifest.input.shape
        learner.embed(numpy.zeros(shape, numpy.float32))
        found["open_ms"] = 1e3 * (time.perf_counter() - start)
        found["open_rss_mb"] = peak_rss_mb()
        found["step_ms"] = 1e3 * learner.warm_up()
        found["learn_rss_mb"] = peak_rss_mb()
        learner.close()
print(json.dumps(found))
"""


def footprint(bundle: Path | None = None) -> dict[str, Any]:
    """`installed_mb` (edgessl, numpy and onnxruntime), `import_ms` and of it `own_import_ms`, `import_rss_mb`; with a
    bundle also `open_ms` (to the first embedding), `open_rss_mb`, `step_ms`, `learn_rss_mb`. MB are 1e6 bytes.

    Raises:
        ConfigError: the bundle cannot be run; the message says why.
    """
    root = Path(edgessl.__file__).parent
    own = sum(path.stat().st_size for path in root.rglob("*.py")) / 1e6
    command = [sys.executable, "-c", _PROBE, *([str(bundle.resolve())] if bundle else [])]
    path = os.pathsep.join([str(root.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    if run.returncode:
        raise ConfigError(f"the device path does not run here: {run.stderr.strip().splitlines()[-1]}")
    figures = {name: round(value, 1) for name, value in json.loads(run.stdout).items()}
    return {"installed_mb": round(installed_mb(("numpy", "onnxruntime")) + own, 1), **figures}
