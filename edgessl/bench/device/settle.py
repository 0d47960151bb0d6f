"""What `Learner.settle` gives and costs, encoder by encoder, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.results import start
from edgessl.errors import ConfigError
from edgessl.machine import load_average, load_warnings

TIMEOUT_S = 300.0


def run(
    encoders: Sequence[str] = ("ds_cnn_s", "resnet8", "cnn1d", "vit"),
    *,
    calls: int = 200,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time a learner before and after it settles: calls in a row, one thread, 1 MiB of memory, after two steps.

    Args:
        encoders: names for `edgessl.encoders.build_encoder`, on the inputs of `bench step`.
        calls: of each kind (a fifth of them of 32 samples); figures are medians.
        progress: told in a line what is being done.

    Returns:
        {"bench", "date", "machine", "versions", "settings", "load_before", "warnings", "rows"}. A row: `encoder`,
        `parameters`; `observe_ms`, `classify_ms`, `embed_ms` (one sample), `embed_32_ms`, each [before, after];
        `settle_ms`; `settled_mb`, resident memory after these calls above that before settling (1e6 bytes); `error`.

    Raises:
        ConfigError: no encoder, or fewer than 10 calls.
    """
    if not encoders or calls < 10:
        raise ConfigError(f"bench settle: expected encoders and calls >= 10; found {list(encoders)}, {calls}")
    from edgessl.bench.device.bundles import write  # torch and onnx, from here on

    load = load_average()
    result = start("settle", {"calls": calls}, None)
    result |= {"load_before": load, "warnings": load_warnings(load, 1)}
    with TemporaryDirectory(prefix="edgessl-settle-") as folder:
        for encoder in encoders:
            progress(f"{encoder}: exporting")
            home = Path(folder) / encoder
            home.mkdir()
            job = {"bundle": str(write(home, "full", encoder)), "folder": str(home / "state"), "calls": calls}
            progress(f"{encoder}: measuring")
            row: dict[str, Any] = {"encoder": encoder, "error": None}
            try:
                with Worker("edgessl.bench.device.settle_worker", {"OMP_NUM_THREADS": "1"}, TIMEOUT_S) as worker:
                    row |= worker.ask(job)
            except WorkerError as error:
                row["error"] = str(error)
            result["rows"].append(row)
    return result
