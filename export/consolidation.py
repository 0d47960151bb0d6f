"""Consolidation as graphs: importances of one sample, and the state in which what was learned is the past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from edgessl.continual.consolidation import consolidate, importance
from edgessl.device.bundle.specs import InputSpec
from edgessl.device.noise import probe_signs
from edgessl.errors import ParityError
from edgessl.step import State, TrainStep, hyper_tensors
from export.parity import STEP_TOLERANCE, graph_session, random_fields, relative_error, vary
from export.trace import following, trace_function

Array = np.ndarray[Any, np.dtype[Any]]
SAMPLES = 8  # of which the gate compares importances
DRAWS = 3


def trace_consolidation(step: TrainStep) -> dict[str, onnx.ModelProto]:
    """The graphs that the step's strategy needs: none, `consolidate`, or that and `importance`.

    `importance`: `theta`, `x` `(1, *input_shape)`, `probe` `(1, D)` to `importance` `(size,)`. `consolidate`: every
    slot by name, `importance` `(size,)` where there is that graph, `hyper.<name>` scalars, to `next.<slot>`.

    Raises:
        ExportError: an operator has no portable form.
    """
    if step.strategy is None or not step.strategy.consolidates:
        return {}
    models = {"consolidate": _trace_consolidate(step)}
    if step.strategy.measures:
        encoder = step.parts.encoder
        arguments = (
            step.initial_state()["theta"],
            torch.rand(1, *encoder.input_shape),
            torch.ones(1, encoder.embedding_dim),
        )

        def measure(theta: Tensor, x: Tensor, probe: Tensor) -> tuple[Tensor, ...]:
            return (importance(step, theta, x, probe),)

        models["importance"] = trace_function(measure, arguments, ["theta", "x", "probe"], ["importance"])
    return models


def consolidation_parity(
    step: TrainStep,
    state: State,
    hyper: Mapping[str, float],
    models: Mapping[str, onnx.ModelProto],
    spec: InputSpec,
    seed: int = 0,
) -> dict[str, float]:
    """Relative L2 errors, graph against torch: of the mean importance of random samples (`importance`), and of the
    worst slot after consolidating with it (`consolidate`). `models` are `trace_consolidation`'s; without any: {}.

    As in `step_parity`, a sample on the edge of a ReLU says nothing about the graph, so up to `DRAWS` draws are tried.

    Raises:
        ParityError: beyond `STEP_TOLERANCE`; names what differs.
    """
    if not models:
        return {}
    errors: dict[str, float] = {}
    for draw in range(DRAWS):
        errors = _errors(step, state, vary(hyper, seed, draw), models, spec, seed * DRAWS + draw)
        if max(errors.values()) <= STEP_TOLERANCE:
            return errors
    worst = max(errors, key=lambda name: errors[name])
    raise ParityError(
        f"{worst} graph: differs from torch by {errors[worst]:.2e} (relative) in {DRAWS} draws of random samples; "
        f"at most {STEP_TOLERANCE:.0e} is allowed. No bundle was written"
    )


def _errors(
    step: TrainStep,
    state: State,
    hyper: Mapping[str, float],
    models: Mapping[str, onnx.ModelProto],
    spec: InputSpec,
    seed: int,
) -> dict[str, float]:
    moved = state | {"theta": _nudged(state["theta"], seed)}  # away from an anchor that may be theta itself
    scalars = hyper_tensors(hyper)
    feeds: dict[str, Array] = {name: value.numpy() for name, value in moved.items()}
    feeds |= {f"hyper.{name}": value.numpy() for name, value in scalars.items()}
    errors: dict[str, float] = {}
    mean: Tensor | None = None
    if "importance" in models:
        session = graph_session(models["importance"])
        x, probes = (
            random_fields(spec, SAMPLES, seed),
            probe_signs(seed, 0, (SAMPLES, step.parts.encoder.embedding_dim)),
        )
        theta = moved["theta"]
        found, wanted = np.zeros(len(theta), np.float32), torch.zeros_like(theta)
        for i in range(SAMPLES):
            sample, probe = x[i : i + 1], probes[i : i + 1]
            found += session.run(None, {"theta": theta.numpy(), "x": sample, "probe": probe})[0]
            wanted += importance(step, theta, torch.from_numpy(sample), torch.from_numpy(probe))
        errors["importance"] = relative_error(found, wanted.numpy())
        mean = wanted / SAMPLES
        feeds["importance"] = mean.numpy()
    session = graph_session(models["consolidate"])
    outputs = [node.name for node in session.get_outputs()]
    after = dict(zip(outputs, session.run(outputs, feeds), strict=True))
    expected = consolidate(step, moved, mean, scalars)
    errors["consolidate"] = max(relative_error(after[f"next.{n}"], v.numpy()) for n, v in expected.items())
    return errors


def _nudged(theta: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return theta * (1 + 0.01 * torch.randn(theta.shape, generator=generator))


def _trace_consolidate(step: TrainStep) -> onnx.ModelProto:
    slots, hypers = step.slot_names, tuple(step.hyper)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    inputs = [*slots, *(f"hyper.{name}" for name in hypers)]
    arguments = (*state.values(), *hyper.values())
    assert step.strategy is not None
    if step.strategy.measures:
        inputs.append("importance")
        arguments = (*arguments, torch.rand(step.layout.size))

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, tensors, strict=True))
        scalars = {name: given[f"hyper.{name}"] for name in hypers}
        after = consolidate(step, {name: given[name] for name in slots}, given.get("importance"), scalars)
        return following(given, after)

    return trace_function(flat, arguments, inputs, [f"next.{name}" for name in slots])
