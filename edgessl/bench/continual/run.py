"""Which strategy keeps what: strategies x objectives x streams x seeds, each a device's life over a stream.

Runs share the cores, one process per worker, and a bench that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgessl.bench.continual.contenders import CONTENDERS, REFERENCES, contender
from edgessl.bench.continual.streams import BATCH, SCENARIOS
from edgessl.bench.process import Worker, WorkerError
from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError, DataError
from edgessl.machine import machine, versions

TIMEOUT_S = 3600.0
BACKENDS = ("torch", "onnx")
KEY = ("stream", "objective", "strategy", "backend", "seed")
Row = dict[str, Any]


def run(
    streams: Sequence[str] = ("split_digits",),
    objectives: Sequence[str] = ("vicreg",),
    strategies: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    backends: Sequence[str] = ("torch",),
    workers: int = 0,
    out: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Let devices live through streams and judge what they kept.

    Args:
        streams: of `edgessl.bench.continual.streams.SCENARIOS`.
        objectives: what the factory and the device learn by.
        strategies: of `CONTENDERS`; all when empty. `REFERENCES` are always measured.
        seeds: of the drawn samples, their order, the weights and all noise.
        backends: "torch", and "onnx", the learner as a device runs it, exported for every run.
        workers: processes, each with one thread; 0 for one per core.
        out: folder; `continual-STREAM.json` is written after every run and continued if it exists; "" writes none.
        progress: told in a line what was done.

    Returns:
        {"bench", "machine", "versions", "results"}; a result is what the file of one stream holds: {"stream",
        "settings", "rows", "failures"}. A row is that of `edgessl.bench.continual.worker.measure`.

    Raises:
        ConfigError: an unknown name, or `out` holds a stream with other settings.
    """
    for name in strategies:
        contender(name)
    for kind, known, asked in (("stream", SCENARIOS, streams), ("backend", BACKENDS, backends)):
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}; choose among {', '.join(known)}")
    chosen = [name for name in CONTENDERS if name in (*REFERENCES, *(strategies or CONTENDERS))]
    results = {stream: _start(stream, Path(out) if out else None) for stream in streams}
    done = {tuple(row[k] for k in KEY) for result in results.values() for row in result["rows"]}
    jobs: queue.SimpleQueue[Row] = queue.SimpleQueue()
    waiting = [job for job in _jobs(streams, objectives, chosen, backends, seeds) if tuple(job.values()) not in done]
    for job in waiting:
        jobs.put(job)
    lock = threading.Lock()

    def work() -> None:
        with Worker("edgessl.bench.continual.worker", {"OMP_NUM_THREADS": "1"}, TIMEOUT_S) as worker:
            while True:
                try:
                    job = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    row, error = worker.ask(job), ""
                except WorkerError as failed:
                    row, error = {}, str(failed)
                label = ", ".join(str(job[k]) for k in KEY)
                with lock:
                    result = results[job["stream"]]
                    if error:
                        result["failures"].append({**job, "error": error})
                        progress(f"{label}: {error}")
                    else:
                        result["rows"].append(row)
                        progress(f"{label}: {row['final_accuracy']:.3f} in {row['seconds']:.0f} s")
                    if out:
                        _write(result, Path(out))

    count = min(workers or len(os.sched_getaffinity(0)), max(1, len(waiting)))
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
    return {"bench": "continual", "machine": machine(), "versions": versions(), "results": list(results.values())}


def settings(stream: str) -> dict[str, Any]:
    """Everything about a stream that its figures depend on, the seed aside."""
    scenario = SCENARIOS[stream]
    plain = {k: v for k, v in asdict(scenario).items() if isinstance(v, str | int | float | bool | dict)}
    return {**plain, "batch_size": BATCH, "optimizer": "adamw"}


def _jobs(
    streams: Sequence[str],
    objectives: Sequence[str],
    strategies: Sequence[str],
    backends: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[Row]:
    """Runs that share a factory's encoder one after the other; references have no back end but torch."""
    for stream in streams:
        for objective in objectives:
            for seed in seeds:
                for strategy in strategies:
                    if CONTENDERS[strategy].latent and not SCENARIOS[stream].cut:
                        continue
                    for backend in backends if strategy not in ("random", "frozen") else backends[:1]:
                        yield dict(zip(KEY, (stream, objective, strategy, backend, seed), strict=True))


def _path(stream: str, folder: Path) -> Path:
    return folder / f"continual-{stream}.json"


def _start(stream: str, folder: Path | None) -> dict[str, Any]:
    """What an earlier bench left for `stream`, or nothing yet; failed runs are tried again."""
    wanted = settings(stream)
    fresh = {"stream": stream, "settings": wanted, "rows": [], "failures": []}
    if folder is None or not (path := _path(stream, folder)).exists():
        return fresh
    try:
        found = json.loads(path.read_text())
        rows, same = found["rows"], found["settings"] == json.loads(json.dumps(wanted))
        _ = [[row[k] for k in KEY] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a result of the continual bench: {error!r}") from None
    if not same:
        raise ConfigError(f"{path} was measured with other settings; give another folder, or delete it")
    return {**fresh, "rows": rows}


def _write(result: dict[str, Any], folder: Path) -> None:
    order = {name: i for i, name in enumerate(CONTENDERS)}
    rows = sorted(result["rows"], key=lambda r: (r["objective"], order[r["strategy"]], r["backend"], r["seed"]))
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    whole = {"bench": "continual", **result, "rows": rows, "date": date, "machine": machine(), "versions": versions()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(_path(result["stream"], folder), json.dumps(whole, indent=1).encode() + b"\n")
