"""A device that learns: memory, start, latency while learning, disk; the full and the latent path beside torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgessl.bench.process import Worker, WorkerError
from edgessl.errors import ConfigError
from edgessl.machine import installed_mb, load_average, load_warnings, machine, versions

CASES = {"full": "onnxruntime", "latent": "onnxruntime", "torch": "torch"}  # name -> back end
NEEDED = {"onnxruntime": ("onnxruntime", "numpy"), "torch": ("torch", "numpy")}
TIMEOUT_S = 600.0

Row = dict[str, Any]


def run(
    cases: Sequence[str] = tuple(CASES),
    *,
    batch_size: int = 32,
    samples: int = 400,
    gap_ms: float = 5.0,
    turns: int = 3,
    bundles: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run a learner of 37k parameters (ds_cnn_s on 28 x 28, VICReg, 1 MiB of memory), each case by itself.

    Args:
        cases: some of "full" (the whole network learns), "latent" (int8 backbone, an adapter learns), "torch" (as
            full, the same learner on torch).
        batch_size: samples per training step; what a step takes of memory goes with it.
        samples: observed one at a time while learning runs all the time in the background.
        gap_ms: between two of them.
        turns: processes per case; times are medians over them, memory the largest.
        bundles: a folder with full.edgessl and latent.edgessl from an earlier run, or to keep them in.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "warnings", "rows"}. A row: `path` ("full" or "latent"), `backend`;
        `import_ms`, `open_ms` (bundle and state directory to the first embedding), `observe_p50_ms`, `observe_p99_ms`
        (while learning), `alone_p50_ms`, `alone_p99_ms` (nothing else going on), `lost` (accepted and not remembered),
        `steps`, `step_ms`, `peak_rss_mb` (1e6 bytes), `installed_mb`; of the state resumed, with nothing else going on,
        `unsettled_p50_ms` (observe) and `unsettled_classify_p50_ms`, after `settle_ms` of `Learner.settle`
        `settled_p50_ms`, `settled_classify_p50_ms` and `settled_mb` (memory that it took); `save_ms`, `state_mb`,
        `memory_mb`; `written_mb_per_day` and `written_per_observed_byte` at a sample a second and a save
        every 300 s; `error`.

    Raises:
        ConfigError: an unknown case, or a number that is too small.
    """
    if unknown := sorted(set(cases) - set(CASES)):
        raise ConfigError(f"bench device: unknown case {unknown[0]!r}; choose some of {', '.join(CASES)}")
    if samples < 40 or gap_ms < 0 or turns < 1 or batch_size < 2:
        raise ConfigError("bench device: expected samples >= 40, gap_ms >= 0, turns >= 1, batch_size >= 2")
    from edgessl.bench.device.bundles import write  # torch and onnx, from here on

    load = load_average()
    rows = []
    with TemporaryDirectory(prefix="edgessl-device-") as folder:
        for case in cases:
            backend, path = CASES[case], "latent" if case == "latent" else "full"
            bundle = None
            if backend == "onnxruntime":
                bundle = Path(bundles or folder) / f"{path}.edgessl"
                if not bundle.exists():
                    progress(f"{case}: exporting")
                    write(bundle.parent, path, batch_size=batch_size)
            found = []
            row: Row = {"path": path, "backend": backend, "error": None}
            for turn in range(turns):
                progress(f"{case}: turn {turn + 1} of {turns}")
                home = Path(folder) / f"{case}-{turn}"
                home.mkdir()
                job: Row = {"backend": backend, "bundle": str(bundle), "folder": str(home)}
                job |= {"samples": samples, "gap_s": gap_ms / 1e3, "batch_size": batch_size}
                try:
                    with Worker("edgessl.bench.device.worker", {"OMP_NUM_THREADS": "1"}, TIMEOUT_S) as worker:
                        found.append(worker.ask(job))
                except WorkerError as error:
                    row["error"] = str(error)
                    break
            rows.append({**row, **_together(found), "installed_mb": round(installed_mb(NEEDED[backend]), 1)})
    return {
        "bench": "device",
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "encoder": "ds_cnn_s",
            "batch_size": batch_size,
            "samples": samples,
            "gap_ms": gap_ms,
            "turns": turns,
        },
        "load_before": load,
        "warnings": load_warnings(load, 2),
        "rows": rows,
    }


def _together(found: list[Row]) -> Row:
    """Medians of the turns; of memory the largest, of counts the sum."""
    if not found:
        return {}
    together: Row = {}
    for key in found[0]:
        values = [row[key] for row in found]
        if key == "peak_rss_mb":
            together[key] = round(max(values), 1)
        elif key in ("observed", "lost", "dropped", "steps"):
            together[key] = sum(values) if None not in values else None
        elif isinstance(values[0], bool):
            together[key] = any(values)
        else:
            together[key] = round(sorted(values)[len(values) // 2], 3)
    return together
