"""How many views per second pretraining takes, beside a plain PyTorch loop of the same encoder and objective.

The plain loop is what one writes by hand: a DataLoader whose dataset augments one image at a time, as torchvision
does: modules, autograd, AdamW (`torch_loop`). Each contestant runs in a process of its own, on as
many cores as it has threads, its data workers included; all stay alive and take turns, so that a change of the
machine's pace hits all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from edgessl.bench.process import Worker, WorkerError
from edgessl.errors import ConfigError
from edgessl.machine import load_average, load_warnings, machine, versions

TIMEOUT_S = 900.0
# name -> how the worker runs it
CPU_BACKENDS: dict[str, dict[str, Any]] = {
    "edgessl": {"loop": "edgessl", "workers": 0},
    "torch": {"loop": "torch", "workers": 0},
    "torch_workers": {"loop": "torch", "workers": None},  # as many as cores
}
GPU_BACKENDS: dict[str, dict[str, Any]] = {
    "edgessl": {"loop": "edgessl", "workers": 0, "bf16": True, "compile": True},
    "edgessl_eager": {"loop": "edgessl", "workers": 0, "bf16": True},
    "edgessl_float32": {"loop": "edgessl", "workers": 0},
    "torch_workers": {"loop": "torch", "workers": None, "bf16": True},
    "torch_workers_compile": {"loop": "torch", "workers": None, "bf16": True, "compile": True},
}
UNMEASURED = ("views_per_s", "ratio", "input_wait_share", "fraction_of_peak", "peak_rss_mb", "peak_gpu_mb")

Row = dict[str, Any]


def run(
    encoders: Sequence[str] = ("ds_cnn_s",),
    threads: Sequence[int] = (1, 2),
    *,
    batch_size: int = 128,
    gpu_encoder: str = "resnet18",
    gpu_batch_size: int = 1024,
    samples: int = 8192,
    turns: int = 5,
    turn_seconds: float = 5.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Views per second of pretraining (SimCLR, AdamW, the default views), per encoder, threads and contestant.

    Args:
        encoders: names for `edgessl.encoders.build_encoder`; image encoders.
        threads: numbers of compute threads on the CPU, and of cores that a contestant may use.
        batch_size: samples per step on the CPU; each has two views.
        gpu_encoder, gpu_batch_size: what is trained on the GPU, where there is one.
        samples: images in the data set (random numbers: augmentation and training cost the same whatever they show).
        turns: how many times each contestant is measured, in alternation.
        turn_seconds: length of one measurement; a few steps before it are not counted.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "load_before", "warnings", "skipped", "rows"}. A row: encoder,
        device, threads, backend; `views_per_s` (median of `turns_views_per_s`), `ratio` (of medians, to the faster of
        the plain loops), `input_wait_share` (of the run's time spent waiting for a batch), `flops_per_view` (of encoder
        and projector, forward and backward), `peak_gflops` (of the largest matrix product tried, same device, threads
        and precision), `fraction_of_peak`, `peak_rss_mb` (without data workers), `peak_gpu_mb`, `error`. `skipped` says
        why there are no GPU rows.

    Raises:
        ConfigError: an unknown name, or a number that is not positive.
    """
    _check(encoders, threads, batch_size, gpu_batch_size, samples, turns, turn_seconds)
    import torch

    common = {"samples": samples, "seconds": turn_seconds}
    load = load_average()
    rows: list[Row] = []
    for encoder in encoders:
        for count in threads:
            job = {**common, "encoder": encoder, "batch_size": batch_size, "device": "cpu", "threads": count}
            rows += take_turns(job, CPU_BACKENDS, turns, progress)
    skipped: list[str] = []
    if torch.cuda.is_available():
        job = {**common, "encoder": gpu_encoder, "batch_size": gpu_batch_size, "device": "cuda"}
        rows += take_turns({**job, "threads": machine()["cores"]}, GPU_BACKENDS, turns, progress)
    else:
        skipped.append(f"GPU: torch {torch.__version__} sees none here")
    return {
        "bench": "pretrain",
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "objective": "simclr",
            "optimizer": "adamw",
            "batch_size": batch_size,
            "gpu_batch_size": gpu_batch_size,
            "samples": samples,
            "turns": turns,
            "turn_seconds": turn_seconds,
        },
        "load_before": load,
        "warnings": load_warnings(load, max(threads)),
        "skipped": skipped,
        "rows": rows,
    }


def take_turns(
    job: dict[str, Any], backends: dict[str, dict[str, Any]], turns: int, progress: Callable[[str], None]
) -> list[Row]:
    """Start a worker per contestant, let them measure in alternation; a row for each."""
    head = {key: job[key] for key in ("encoder", "device", "threads")}
    rows = {name: {**head, "backend": name, **dict.fromkeys(UNMEASURED), "error": None} for name in backends}
    rates: dict[str, list[float]] = {name: [] for name in backends}
    environment = {"OMP_NUM_THREADS": str(job["threads"])}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("edgessl.bench.pretrain.worker", environment, TIMEOUT_S))
            for name in backends
        }

        def ask(name: str, question: dict[str, Any]) -> dict[str, Any]:
            try:
                return workers[name].ask(question)
            except WorkerError as error:
                rows[name]["error"] = str(error)
                del workers[name]
                return {}

        for name in list(workers):
            progress(f"{job['encoder']}, {job['device']}, {job['threads']} threads: starting {name}")
            rows[name].update(ask(name, {**job, **backends[name]}))
        for turn in range(turns):
            progress(f"{job['encoder']}, {job['device']}, {job['threads']} threads: turn {turn + 1} of {turns}")
            for name in list(workers):
                rates[name] += ask(name, {"measure": True}).get("views_per_s", [])
        for name in list(workers):
            rows[name].update(ask(name, {"measure": False}))
    peak = max((row.get("peak_gflops") or 0.0 for row in rows.values()), default=0.0)  # one machine has one peak
    plain = [statistics.median(found) for name, found in rates.items() if name.startswith("torch") and found]
    for name, row in rows.items():
        if rates[name] and row["error"] is None:
            median = statistics.median(rates[name])
            row["turns_views_per_s"] = [round(rate, 1) for rate in rates[name]]
            row["views_per_s"] = round(median, 1)
            row["ratio"] = round(median / max(plain), 3) if plain else None
            row["peak_gflops"] = peak
            row["fraction_of_peak"] = round(median * row["flops_per_view"] / (peak * 1e9), 4)
    return list(rows.values())


def _check(
    encoders: Sequence[str],
    threads: Sequence[int],
    batch_size: int,
    gpu_batch_size: int,
    samples: int,
    turns: int,
    turn_seconds: float,
) -> None:
    from edgessl.encoders import ENCODERS

    unknown = [name for name in encoders if name not in ENCODERS or "image" not in ENCODERS[name].kinds]
    if unknown or not encoders:
        known = ", ".join(name for name, entry in ENCODERS.items() if "image" in entry.kinds)
        raise ConfigError(f"encoders: expected some of {known}; found {list(encoders)}")
    if not threads or min(threads) < 1:
        raise ConfigError(f"threads: expected numbers of 1 or more, found {list(threads)}")
    if min(batch_size, gpu_batch_size) < 2 or samples < max(batch_size, 1):
        raise ConfigError(
            f"expected batches of 2 samples or more, and at least one: found {batch_size} and {gpu_batch_size} "
            f"of {samples} samples"
        )
    if turns < 1 or turn_seconds <= 0:
        raise ConfigError(f"expected turns >= 1 and turn_seconds > 0, found {turns} and {turn_seconds}")
