"""How good each objective's embeddings are: same data, same encoder, same budget, several seeds, the last state.

Beside random weights and a supervised encoder of the same budget. Runs share the cores, one process per core, and a
bench that was interrupted goes on where it was.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgessl.bench.objectives.suites import suite_of
from edgessl.bench.process import Worker, WorkerError
from edgessl.bench.results import keep, taken_up
from edgessl.errors import ConfigError
from edgessl.machine import machine, versions

TIMEOUT_S = 3600.0
REFERENCES = ("random", "supervised")
Row = dict[str, Any]


def run(
    suite: str = "fashion",
    objectives: Sequence[str] = (),
    seeds: int = 3,
    *,
    epochs: int = 0,
    workers: int = 0,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Pretrain and probe every objective of a suite.

    Args:
        suite: one of `edgessl.bench.objectives.suites.SUITES`.
        objectives: some of the suite's; all of them and the references when empty.
        seeds: runs of each, with seeds 0, 1, ...
        epochs: passes over the data; 0 for the suite's.
        workers: processes, each with one thread; 0 for one per core.
        out: JSON file that is written after every run and continued if it exists.
        progress: told in a line what was done.

    Returns:
        {"bench", "suite", "machine", "versions", "settings", "rows", "failures"}. A row is a result of
        `edgessl.evaluate` for one objective and seed, protocol included; a failure is {"objective", "seed", "error"}.

    Raises:
        ConfigError: unknown suite or objective, or `out` holds another bench.
    """
    chosen = suite_of(suite)
    names = tuple(objectives) or (*REFERENCES, *chosen.objectives)
    if unknown := sorted(set(names) - {*REFERENCES, *chosen.objectives}):
        raise ConfigError(f"suite {suite!r} has no objective {unknown[0]!r}; it has {', '.join(chosen.objectives)}")
    settings = {
        "encoder": chosen.encoder,
        "encoder_options": dict(chosen.encoder_options),
        "epochs": epochs or chosen.epochs,
        "batch_size": chosen.batch_size,
        "lr": chosen.lr,
        "optimizer": "adamw",
        "train": chosen.train,
        "test": chosen.test,
    }
    rows = taken_up(out, {"bench": "objectives", "suite": suite, "settings": settings})
    failures: list[Row] = []  # of this run; those of earlier ones are tried again
    done = {(row["name"], row["protocol"]["seeds"][0]) for row in rows}
    jobs: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    waiting = [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in done]
    for job in waiting:
        jobs.put(job)
    lock = threading.Lock()

    def result() -> dict[str, Any]:
        order = {name: i for i, name in enumerate((*REFERENCES, *chosen.objectives))}
        return {
            "bench": "objectives",
            "suite": suite,
            "title": chosen.title,
            "machine": machine(),
            "versions": versions(),
            "settings": settings,
            "rows": sorted(rows, key=lambda r: (order[r["name"]], r["protocol"]["seeds"])),
            "failures": failures,
        }

    def work() -> None:
        with Worker("edgessl.bench.objectives.worker", {"OMP_NUM_THREADS": "1"}, TIMEOUT_S) as worker:
            while True:
                try:
                    name, seed = jobs.get_nowait()
                except queue.Empty:
                    return
                question = {"suite": suite, "objective": name, "seed": seed, "epochs": settings["epochs"]}
                try:
                    row, error = worker.ask(question), ""
                except WorkerError as failed:
                    row, error = {}, str(failed)
                with lock:
                    if error:
                        failures.append({"objective": name, "seed": seed, "error": error})
                        progress(f"{name}, seed {seed}: {error}")
                    else:
                        rows.append(row)
                        progress(f"{name}, seed {seed}: kNN {row['figures']['knn'][0]:.3f} ({len(rows)} done)")
                    keep(out, result())

    count = min(workers or len(os.sched_getaffinity(0)), max(1, len(waiting)))
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
    return result()
