"""One contestant of the pretraining bench in a process of its own: `python -m edgessl.bench.pretrain.worker`.

JSON lines. The first line on stdin is the job (see `Job`); the answer has the row's fixed figures. `{"measure": true}`
asks for one turn, answered by `{"views_per_s": [rate]}`; `{"measure": false}` ends the run and is answered by the
figures of all of it. Any answer may be `{"error": text}`, after which the process ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import torch

from edgessl.bench.pretrain.torch_loop import PlainLoop, like, loader
from edgessl.bench.step.worker import first_lines
from edgessl.data import array_source
from edgessl.data.source import Source
from edgessl.machine import peak_rss_mb
from edgessl.pretrain import input_spec, pretrain
from edgessl.recipe import Recipe, build_step, parse_recipe
from edgessl.step import TrainStep

WARM = 6  # steps of a turn before the clock: more than any loader has in stock
SHAPES = {"resnet8": (3, 32, 32), "resnet18": (3, 32, 32), "vit": (3, 32, 32)}  # others take 1x28x28


class Job(TypedDict, total=False):
    """What a contestant does: `seconds` is the length of a turn, `workers` None for one per thread."""

    encoder: str
    loop: str
    device: str
    threads: int
    workers: int | None
    batch_size: int
    samples: int
    seconds: float
    bf16: bool
    compile: bool


class Turns:
    """Counts `steps`, and holds the run between one turn and the next."""

    def __init__(self, job: Job, listen: Callable[[], bool], answer: Callable[[dict[str, Any]], None]) -> None:
        self._views, self._seconds, self._cuda = 2 * job["batch_size"], job["seconds"], job["device"] == "cuda"
        self._listen, self._answer = listen, answer
        self.steps = 0
        self._began: float | None = None

    def over(self) -> bool:
        """To be called after every step; True when there are no more turns."""
        self.steps += 1
        if self._began is None:
            if self.steps < WARM:
                return False
            self._sync()
            self._began, self.steps = time.perf_counter(), 0
            return False
        if time.perf_counter() - self._began < self._seconds:
            return False
        self._sync()
        rate = self.steps * self._views / (time.perf_counter() - self._began)
        self._answer({"views_per_s": [rate]})
        self._began, self.steps = None, 0
        return not self._listen()

    def _sync(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def main() -> None:
    """Serve one job on stdin and stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=out, flush=True)

    def listen() -> bool:
        line = sys.stdin.readline()
        return bool(line) and bool(json.loads(line)["measure"])

    try:
        job: Job = json.loads(sys.stdin.readline())
        keep_to_cores(job["threads"])
        torch.set_num_threads(job["threads"])
        source = random_images(SHAPES.get(job["encoder"], (1, 28, 28)), job["samples"])
        recipe = make_recipe(job)
        step = build_step(recipe, input_spec(source))
        answer({"flops_per_view": flops_per_view(step), "peak_gflops": round(peak_gflops(job), 1)})
        if listen():
            run = run_edgessl if job["loop"] == "edgessl" else run_torch
            share = run(job, recipe, step, source, Turns(job, listen, answer))
            found = {"input_wait_share": round(share, 6), "peak_rss_mb": round(peak_rss_mb(), 1)}
            if job["device"] == "cuda":
                found["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
            answer(found)
    except Exception as error:  # any failure of a contestant is a result, not a crash
        answer({"error": f"{type(error).__name__}: {first_lines(str(error))}"})


def run_edgessl(job: Job, recipe: Recipe, step: TrainStep, source: Source, turns: Turns) -> float:
    """`edgessl.pretrain` until the turns are over; the share of the time it waited for data."""
    found = pretrain(recipe, source, device=job["device"], should_stop=turns.over)
    share: float = found.provenance["input_wait_share"]
    return share


def run_torch(job: Job, recipe: Recipe, step: TrainStep, source: Source, turns: Turns) -> float:
    """The plain loop until the turns are over; the share of the time it waited for data."""
    device = torch.device(job["device"])
    loop = plain_loop(step, device, bf16=job.get("bf16", False), compile=job.get("compile", False))
    images = torch.from_numpy(source.take(np.arange(len(source))))
    workers = job["threads"] if job["workers"] is None else job["workers"]
    batches = loader(images, like(step.views.pipeline), job["batch_size"], workers, pinned=device.type == "cuda")
    waited = computed = 0.0
    while True:
        began = time.perf_counter()
        a, b = next(batches)
        arrived = time.perf_counter()
        loss = loop.step(a.to(device, non_blocking=True), b.to(device, non_blocking=True))
        if turns.steps % 10 == 0:
            float(loss)  # somebody looks at it
        waited, computed = waited + arrived - began, computed + time.perf_counter() - arrived
        if turns.over():
            return waited / (waited + computed)


def plain_loop(step: TrainStep, device: torch.device, *, bf16: bool = False, compile: bool = False) -> PlainLoop:
    """The plain loop with the modules and hyperparameters of `step`."""
    encoder, projector = step.parts.get_submodule("encoder"), step.parts.get_submodule("projector")
    return PlainLoop(
        encoder.to(device),
        projector.to(device),
        lr=step.hyper["lr"],
        weight_decay=step.hyper["weight_decay"],
        temperature=step.hyper["temperature"],
        bf16=bf16,
        compile=compile,
    )


def make_recipe(job: Job) -> Recipe:
    """SimCLR with AdamW for longer than any bench lasts."""
    return parse_recipe(
        {
            "encoder": {"name": job["encoder"]},
            "batch_size": job["batch_size"],
            "epochs": 1_000_000,
            "precision": "bfloat16" if job.get("bf16") else "float32",
            "compile": job.get("compile", False),
        }
    )


def random_images(shape: tuple[int, ...], count: int) -> Source:
    """`count` images of uniform noise in memory."""
    images = np.random.default_rng(0).random((count, *shape), np.float32)
    return array_source(images, kind="image", layout="channels_first")


def flops_per_view(step: TrainStep) -> int:
    """Floating-point operations of encoder and projector, forward and backward, for one view (2 per multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode

    views = torch.rand(2, *step.views.pipeline.shape)
    counter = FlopCounterMode(display=False)
    with counter:
        step.parts("projector", step.parts("encoder", views)).sum().backward()
    step.parts.zero_grad()
    return int(counter.get_total_flops()) // 2


def peak_gflops(job: Job) -> float:
    """The fastest matrix product found at this device, threads and precision, in 1e9 operations a second."""
    cuda = job["device"] == "cuda"
    dtype = torch.bfloat16 if job.get("bf16") else torch.float32
    best = 0.0
    for size in (4096, 8192, 16384) if cuda else (512, 1024, 2048):
        a = torch.rand(size, size, device=job["device"], dtype=dtype)
        for repeat in range(6):
            began = time.perf_counter()
            product = a @ a
            if cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            if repeat:  # the first one warms up
                best = max(best, 2 * size**3 / seconds / 1e9)
            del product
    return best


def keep_to_cores(count: int) -> None:
    """Keep this process, and the data workers it starts, to `count` cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:count])


if __name__ == "__main__":
    main()
