"""Every objective with every continual strategy: a few steps in torch; through the parity gate with one."""

from __future__ import annotations

import pytest
import torch
from objective_cases import CASES, Case

from edgessl.continual.strategies import STRATEGIES, build_strategy
from edgessl.objectives import OBJECTIVES
from edgessl.step import State, TrainStep, hyper_tensors
from export import step_parity
from export.parity import random_fields, stored_rows
from export.trace import trace_step

torch.set_num_threads(1)

pytestmark = pytest.mark.slow


def with_strategy(objective: str, strategy: str) -> TrainStep:
    plain = CASES[objective].step(objective)
    return TrainStep(
        plain.parts.encoder,
        plain.objective,
        plain.optimizer,
        plain.views.pipeline,
        strategy=build_strategy(strategy),
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_they_go_together(objective: str, strategy: str) -> None:
    case = CASES[objective]
    kinds = STRATEGIES[strategy].kinds
    if kinds and case.spec.kind not in kinds:
        pytest.skip(f"{strategy} does not take {case.spec.kind}")
    state, metrics = after_three(with_strategy(objective, strategy), case)
    assert all(torch.isfinite(value) for value in metrics)
    assert all(torch.isfinite(value).all() for value in state.values())


def after_three(step: TrainStep, case: Case) -> tuple[State, list[torch.Tensor]]:
    """The state after three steps, and the metrics of each."""
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    generator, found = torch.Generator().manual_seed(0), []
    for t in range(3):
        stored = stored_rows(step, case.batch, t)
        state, metrics = step(
            state,
            torch.from_numpy(random_fields(case.spec, case.batch, t)),
            torch.rand(step.noise_shape(case.batch), generator=generator),
            hyper,
            None if stored is None else torch.from_numpy(stored),
        )
        found += metrics.values()
    return state, found


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cassle_passes_the_parity_gate(objective: str) -> None:
    if OBJECTIVES[objective].onnx:
        pytest.skip(OBJECTIVES[objective].onnx)
    case, step = CASES[objective], with_strategy(objective, "cassle")
    model = trace_step(step, (case.batch, *case.spec.shape))
    # not from the initial state: there the past is the present, the predictor's gradient is rounding around zero, and
    # Adam divides by it
    state, _ = after_three(step, case)
    figures = step_parity(step, state, step.hyper, model, case.spec, case.batch)
    assert figures["draws"][-1] <= 1
