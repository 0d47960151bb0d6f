"""Which form of each convolution is fastest here: every form is timed in a graph of its own before the step is traced.

    tuning = tune(step, batch_size, threads=2, seconds=60)
    graphs = trace_graphs(step, batch_size, tuning=tuning)

The rules of `export.lowerings` were made on one processor; a device may have another, or more threads. What is measured
is kept in the bundle, so that a choice can be understood later. The same measurements give the same graph; measuring
again need not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from edgessl.device.runtime import SessionProfile
from edgessl.errors import ConfigError
from edgessl.step import TrainStep
from export.lowerings import Lowerings
from export.lowerings.convolution import FORMS, Form, possible
from export.lowerings.geometry import Convolution
from export.trace import lower_step, trace_function

MARGIN = 0.03  # by which a form must beat the rule's: less is noise
ROUNDS = 5  # of which each form's median is taken
ROUND_SECONDS = 0.02  # at least, of one form in one round

Times = Mapping[str, float]  # form -> milliseconds
TimeForms = Callable[[str, Convolution, Sequence[str], int], Times]  # family, sizes, forms, threads


@dataclass(frozen=True)
class Tuning:
    """What was measured: by site (family and sizes of a convolution), each form's milliseconds, the rule's form first.

    Attributes:
        threads: compute threads it was measured with.
        ms: the figures; sites for which the time was not enough are not in it.
        open_sites: how many sites there were to measure.
    """

    threads: int
    ms: Mapping[str, Times]
    open_sites: int

    @property
    def forms(self) -> dict[str, str]:
        """The form that each measured site takes."""
        return {site: choose(times) for site, times in self.ms.items()}

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        figures = {site: {form: round(ms, 4) for form, ms in times.items()} for site, times in sorted(self.ms.items())}
        return {"threads": self.threads, "open_sites": self.open_sites, "ms": figures}


def choose(times: Times) -> str:
    """The fastest form, or the first one (the rule's) unless that is slower by more than `MARGIN`."""
    rule = next(iter(times))
    best = min(times, key=lambda form: (times[form], form))
    return best if times[best] < (1 - MARGIN) * times[rule] else rule


def tune(
    step: TrainStep,
    batch_size: int,
    *,
    threads: int = 1,
    seconds: float = 60.0,
    progress: Callable[[int, int, str], None] = lambda done, total, site: None,
    time_forms: TimeForms | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuning:
    """Time the forms of every convolution of a training step, those with the most arithmetic first.

    Args:
        step, batch_size: as for `trace_graphs`; the step is for CPUs.
        threads: compute threads a device will train with.
        seconds: after which no further site is begun; building the small graphs counts.
        progress: told after each site how many of how many are done, and which comes next.
        time_forms: what measures; onnxruntime by default.
        clock: what `seconds` are counted by.

    Raises:
        ConfigError: not a positive number of threads or seconds.
        ExportError: an operator of the step cannot be lowered.
    """
    if threads < 1 or seconds <= 0:
        raise ConfigError(f"tuning: expected threads >= 1 and seconds > 0, found {threads} and {seconds}")
    until = clock() + seconds
    measure = time_forms or time_on_onnxruntime
    lowerings = Lowerings()
    lower_step(step, (batch_size, *step.parts.encoder.input_shape), lowerings)
    sites = sorted(lowerings.choices.open_sites.items(), key=lambda item: (-_products(item[1][1]), item[0]))
    ms: dict[str, Times] = {}
    for done, (site, (family, sizes)) in enumerate(sites):
        progress(done, len(sites), site)
        if clock() >= until:
            break
        ms[site] = measure(family, sizes, possible(family, sizes), threads)
    progress(len(ms), len(sites), "")
    return Tuning(threads, ms, len(sites))


def time_on_onnxruntime(family: str, sizes: Convolution, forms: Sequence[str], threads: int) -> Times:
    """Milliseconds of each form alone: the median of `ROUNDS`, in which the forms take turns."""
    x_shape, w_shape = (sizes.n, sizes.c_in, *sizes.size), (sizes.c_out, sizes.c_in // sizes.groups, *sizes.kernel)
    grad_shape = (sizes.n, sizes.c_out, *sizes.out)
    shapes = {
        "forward": (x_shape, w_shape), "input_gradient": (grad_shape, w_shape), "weight_gradient": (grad_shape, x_shape)
    }[family]  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip("ab", shapes, strict=True)}
    profile = SessionProfile(threads=threads)
    runs: dict[str, Callable[..., Any]] = {}
    for form in forms:
        model = _graph(FORMS[family][form], sizes, shapes)
        session = profile.session(model.SerializeToString(), f"{family} as {form}")
        session.run(None, feeds)  # the first run plans the memory
        runs[form] = session.run
    rounds = [{form: _milliseconds(run, feeds) for form, run in runs.items()} for _ in range(ROUNDS)]
    return {form: median(times[form] for times in rounds) for form in forms}


def _graph(form: Form, sizes: Convolution, shapes: Sequence[tuple[int, ...]]) -> onnx.ModelProto:
    def function(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return (form(a, b, sizes),)

    return trace_function(function, (torch.zeros(shapes[0]), torch.zeros(shapes[1])), ["a", "b"], ["y"])


def _milliseconds(run: Callable[..., Any], feeds: Mapping[str, Any]) -> float:
    """Of one run, the mean over `ROUND_SECONDS`."""
    count, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < ROUND_SECONDS or not count:
        run(None, feeds)
        count += 1
    return 1e3 * took / count


def _products(sizes: Convolution) -> int:
    """Multiplications of the convolution, the same for its gradients."""
    per_output = sizes.c_in // sizes.groups * int(np.prod(sizes.kernel))
    return sizes.n * sizes.c_out * int(np.prod(sizes.out)) * per_output
