"""How long one training step takes: stock onnxruntime, torch, torch.compile and, where an interpreter that has it is
named, onnxruntime-training, each in a process of its own.

Backends that share a process disturb each other (thread pools that spin, allocators), so each gets a worker. All
workers stay alive and take turns, so that a change of the machine's pace hits all alike.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgessl.bench.process import Worker, WorkerError
from edgessl.errors import ConfigError
from edgessl.machine import installed_mb, load_average, load_warnings, machine, versions

BACKENDS = ("onnxruntime", "torch", "torch_compile")
TRAINING = "onnxruntime_training"  # in an environment of its own, see edgessl.bench.step.training_backend
NEEDED = {
    "onnxruntime": ("onnxruntime", "numpy"),
    "torch": ("torch", "numpy"),
    "torch_compile": ("torch", "numpy"),
    TRAINING: ("onnxruntime-training-cpu",),
}
OPTIMIZERS = ("sgd", "adamw")
OBJECTIVES = ("vicreg", "simclr")  # those with a hand-written torch baseline
# whole networks, and what two ways of latent replay train: the last block and the heads, or an adapter and the heads
ENCODERS = ("ds_cnn_s", "resnet8", "cnn1d", "vit", "ds_cnn_s@block4", "ds_cnn_s@pool")
TIMEOUT_S = 600.0
UNMEASURED = (
    *(
        "median_ms",
        "min_ms",
        "ratio_to_torch",
        "ratio_to_whole",
        "rss_to_torch",
        "peak_rss_mb",
        "import_s",
        "setup_s",
        "first_step_s",
        "compile_s",
    ),
    *("loads_torch", "error"),
)

Row = dict[str, Any]


def run(
    encoders: Sequence[str] = ENCODERS,
    objective: str = "vicreg",
    threads: Sequence[int] = (1, 2),
    backends: str | Sequence[str] = BACKENDS,
    *,
    optimizer: str = "sgd",
    training_python: str | None = None,
    batch_size: int = 32,
    turns: int = 5,
    turn_seconds: float = 1.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time one training step per encoder, number of threads and backend.

    Args:
        encoders: names for `edgessl.encoders.build_encoder`, `NAME@STAGE` for what lies behind a stage.
        objective: "vicreg" or "simclr".
        threads: numbers of compute threads.
        backends: some of `BACKENDS` and "onnxruntime_training", or their names in a text with commas.
        optimizer: "sgd" (with momentum) or "adamw"; onnxruntime-training has the second only.
        training_python: a Python 3.11 or older with onnxruntime-training-cpu 1.19.2, onnx 1.16.2 and numpy before 2.
        batch_size: samples per step.
        turns: how many times each backend is measured, in alternation.
        turn_seconds: length of one measurement (three steps at least).
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "load_before", "warnings", "rows"}; `load_before` is the load
        average before the run (None where the system has none), `warnings` are texts. A row: encoder, objective,
        backend, threads; `median_ms` (of the turns' medians `turns_ms`), `min_ms`, `steps` (timed), `ratio_to_torch`
        (of the medians), `ratio_to_whole` (`NAME@STAGE`: of its median to NAME's), `rss_to_torch`, `peak_rss_mb`,
        `import_s`, `setup_s` (session or modules), `first_step_s`, `compile_s` (the first step of torch_compile),
        `loads_torch`, `installed_mb` (1e6 bytes on disk, requirements included),
        `error`. Where `error` is a text, what could not be measured is None.

    Raises:
        ConfigError: an unknown name, or a number that is not positive.
    """
    backends = backends.split(",") if isinstance(backends, str) else list(backends)
    _check(encoders, objective, threads, backends, batch_size, turns, turn_seconds)
    pythons = _pythons(backends, optimizer, training_python)
    from edgessl.bench.case import export, input_of, prepare  # torch and onnx, from here on

    load = load_average()
    sizes = {name: round(installed_mb(NEEDED[name]), 1) for name in backends if name != TRAINING}
    shapes = {name: list(input_of(name).shape) for name in encoders}
    rows: list[Row] = []
    for encoder in encoders:
        with TemporaryDirectory(prefix="edgessl-bench-") as folder:
            progress(f"{encoder}: tracing the step")
            step, unexportable = prepare(Path(folder), encoder, objective, batch_size, optimizer), None
            if "onnxruntime" in backends:
                unexportable = export(Path(folder), step, batch_size)
            if TRAINING in backends:
                from edgessl.bench.step.forward import write_forward

                write_forward(Path(folder), step, batch_size)
            for count in threads:
                found = take_turns(Path(folder), count, backends, turns, turn_seconds, progress, pythons)
                for backend, row in found.items():
                    if backend == "onnxruntime" and unexportable is not None:
                        row["error"] = unexportable
                    head = {
                        "encoder": encoder,
                        "objective": objective,
                        "backend": backend,
                        "threads": count,
                    }
                    rows.append({**head, "installed_mb": sizes.get(backend), **row})
    _compare_with_whole(rows)
    return {
        "bench": "step",
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "batch_size": batch_size,
            "turns": turns,
            "turn_seconds": turn_seconds,
            "optimizer": optimizer,
            "input_shapes": shapes,
        },
        "load_before": load,
        "warnings": load_warnings(load, max(threads)),
        "rows": rows,
    }


def take_turns(
    folder: Path,
    threads: int,
    backends: Sequence[str],
    turns: int,
    seconds: float,
    progress: Callable[[str], None],
    pythons: Mapping[str, str],
) -> dict[str, Row]:
    """Start a worker per backend on the case in `folder`, then let them measure in alternation; a row for each.

    `pythons` names the interpreter of a backend that has one of its own.
    """
    rows = {backend: _empty_row() for backend in backends}
    medians: dict[str, list[float]] = {backend: [] for backend in backends}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for backend in backends:
            progress(f"{threads} threads: starting {backend}")
            # a cache of its own, else torch.compile would not compile the second time
            cache = str(folder / f"inductor-{threads}")
            environment = {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": cache}
            python = pythons.get(backend, sys.executable)
            worker = stack.enter_context(Worker("edgessl.bench.step.worker", environment, TIMEOUT_S, python))
            try:
                ready = worker.ask({"backend": backend, "folder": str(folder), "threads": threads})
            except WorkerError as error:
                rows[backend]["error"] = str(error)
                continue
            for key in ("import_s", "setup_s", "first_step_s"):
                rows[backend][key] = round(ready[key], 3)
            rows[backend]["loads_torch"] = ready["loads_torch"]
            if "installed_mb" in ready:
                rows[backend]["installed_mb"] = round(ready["installed_mb"], 1)
            if backend == "torch_compile":
                rows[backend]["compile_s"] = rows[backend]["first_step_s"]
            workers[backend] = worker
        for turn in range(turns):
            progress(f"{threads} threads: turn {turn + 1} of {turns}")
            for backend in list(workers):
                try:
                    answer = workers[backend].ask({"seconds": seconds})
                except WorkerError as error:
                    rows[backend]["error"] = str(error)
                    del workers[backend]
                    continue
                _add_turn(rows[backend], medians[backend], answer)
    torch_ms = rows.get("torch", _empty_row())["median_ms"]
    for row in rows.values():
        if row["median_ms"] is not None and torch_ms is not None:
            row["ratio_to_torch"] = round(row["median_ms"] / torch_ms, 3)
            row["rss_to_torch"] = round(row["peak_rss_mb"] / rows["torch"]["peak_rss_mb"], 3)
    return rows


def _compare_with_whole(rows: list[Row]) -> None:
    """`ratio_to_whole` of the parts whose whole network was measured too, by the same backend and threads."""
    medians = {(row["encoder"], row["backend"], row["threads"]): row["median_ms"] for row in rows}
    for row in rows:
        name, _, cut = row["encoder"].partition("@")
        whole = medians.get((name, row["backend"], row["threads"])) if cut else None
        if whole is not None and row["median_ms"] is not None:
            row["ratio_to_whole"] = round(row["median_ms"] / whole, 3)


def _add_turn(row: Row, medians: list[float], answer: dict[str, Any]) -> None:
    times = answer["ms"]
    medians.append(statistics.median(times))
    row["turns_ms"] = [round(median, 3) for median in medians]
    row["median_ms"] = round(statistics.median(medians), 3)
    row["min_ms"] = round(min(times) if row["min_ms"] is None else min(row["min_ms"], *times), 3)
    row["steps"] += len(times)
    row["peak_rss_mb"] = round(answer["peak_rss_mb"], 1)


def _empty_row() -> Row:
    return {**dict.fromkeys(UNMEASURED), "turns_ms": [], "steps": 0}


def _pythons(backends: Sequence[str], optimizer: str, training_python: str | None) -> dict[str, str]:
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer {optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
    if TRAINING not in backends:
        return {}
    if optimizer != "adamw":
        raise ConfigError(f"{TRAINING} has no SGD with momentum; measure all backends with optimizer=adamw")
    if training_python is None or shutil.which(training_python) is None:
        raise ConfigError(
            f"{TRAINING}: expected training_python=/path/to/python, a Python 3.11 or older with "
            f"onnxruntime-training-cpu==1.19.2 onnx==1.16.2 'numpy<2'; found {training_python}"
        )
    return {TRAINING: training_python}


def _check(
    encoders: Sequence[str],
    objective: str,
    threads: Sequence[int],
    backends: Sequence[str],
    batch_size: int,
    turns: int,
    turn_seconds: float,
) -> None:
    if not encoders:
        raise ConfigError("encoders: expected one or more names, found none")
    if objective not in OBJECTIVES:
        raise ConfigError(
            f"objective {objective!r} has no torch baseline to compare with; choose one of {', '.join(OBJECTIVES)}"
        )
    unknown = [name for name in backends if name not in NEEDED]
    if unknown or not backends:
        raise ConfigError(f"backends: expected some of {', '.join(NEEDED)}, found {list(backends)}")
    if not threads or min(threads) < 1:
        raise ConfigError(f"threads: expected numbers of 1 or more, found {list(threads)}")
    if batch_size < 2:
        raise ConfigError(f"batch_size: expected 2 samples or more, found {batch_size}")
    if turns < 1 or turn_seconds <= 0:
        raise ConfigError(f"expected turns >= 1 and turn_seconds > 0, found {turns} and {turn_seconds}")
