"""The same questions to every objective: does it learn, is it pure, is it the same on several processes, and does
stock onnxruntime take the same steps?"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from objective_cases import CASES, Case
from torch import Tensor

from edgessl.encoders import AXES
from edgessl.objectives import OBJECTIVES
from edgessl.step import Gradient, State, TrainStep, hyper_tensors
from export import step_parity
from export.parity import random_fields
from export.trace import trace_step

torch.set_num_threads(1)

FAMILIES = (
    "contrastive",
    "distillation",
    "redundancy",
    "clustering",
    "masked",
    "generative",
    "pretext",
    "predictive",
)

every = pytest.mark.parametrize("name", OBJECTIVES)


def inputs(step: TrainStep, case: Case, t: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t)
    noise = torch.rand(step.noise_shape(case.batch), generator=generator)
    return torch.from_numpy(random_fields(case.spec, case.batch, t)), noise


def steps(
    step: TrainStep, case: Case, count: int, *, fixed: bool = False, lr: float = 3e-3
) -> tuple[State, list[float]]:
    state, losses = step.initial_state(), []
    for t in range(count):
        scalars = hyper_tensors({**step.hyper, "lr": lr})
        state, metrics = step(state, *inputs(step, case, 0 if fixed else t), scalars)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_every_objective_has_a_case() -> None:
    assert set(CASES) == set(OBJECTIVES)
    assert sorted(OBJECTIVES[name].family for name in GATED) == sorted(FAMILIES)


@every
def test_it_says_what_it_is(name: str) -> None:
    cls = OBJECTIVES[name]
    assert cls.name == name
    assert cls.family in FAMILIES
    assert cls.kinds
    assert set(cls.kinds) <= {*AXES, "latent"}
    assert cls.min_batch >= 1
    assert dataclasses.is_dataclass(cls)
    assert len(cls.__doc__ or "") > 40
    assert CASES[name].batch >= cls.min_batch
    assert CASES[name].spec.kind in cls.kinds


@every
def test_it_learns_a_batch(name: str) -> None:
    case = CASES[name]
    if case.rises:
        pytest.skip(case.rises)
    _, losses = steps(case.step(name), case, 30, fixed=True)
    start = losses[case.warmup]
    assert losses[-1] < start - 0.01 * abs(start), losses[::5]


@every
def test_it_is_a_pure_function(name: str) -> None:
    case = CASES[name]
    step = case.step(name)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    kept = {slot: value.clone() for slot, value in state.items()}
    first, second = (step(state, *inputs(step, case), hyper) for _ in range(2))
    for (a, a_metrics), (b, b_metrics) in [(first, second)]:
        assert all(torch.equal(a[slot], b[slot]) for slot in state)
        assert all(torch.equal(a_metrics[metric], b_metrics[metric]) for metric in a_metrics)
    assert all(torch.equal(state[slot], kept[slot]) for slot in state)


@every
def test_the_state_keeps_its_form_and_stays_finite(name: str) -> None:
    case = CASES[name]
    step = case.step(name)
    before = step.initial_state()
    state, _ = steps(step, case, 4)
    assert list(state) == list(before)
    for slot, value in state.items():
        assert (value.shape, value.dtype) == (before[slot].shape, torch.float32), slot
        assert torch.isfinite(value).all(), slot


@every
def test_embeddings_are_rows_of_the_encoder(name: str) -> None:
    case = CASES[name]
    step = case.step(name)
    gradient = step.gradient(step.initial_state(), *inputs(step, case), hyper_tensors(step.hyper))
    rows, dim = gradient.embeddings.shape
    assert dim == step.parts.encoder.embedding_dim
    assert rows % case.batch == 0
    assert rows > 0
    assert not gradient.embeddings.requires_grad


@every
def test_every_parameter_is_trained(name: str) -> None:
    case = CASES[name]
    step = case.step(name)
    state, _ = steps(step, case, 3)
    moved = torch.zeros(step.layout.size)
    for t in range(4):
        moved += step.gradient(state, *inputs(step, case, 10 + t), hyper_tensors(step.hyper)).direction.abs()
    still = [
        entry.name
        for entry in step.layout.entries
        if entry.kind in ("weight", "vector") and not moved[entry.offset : entry.offset + entry.size].any()
    ]
    assert [entry for entry in still if not entry.startswith(case.idle or ("\0",))] == []


class Exchange:
    """`gather` between two threads: each gives its rows and gets everybody's, gradients through its own."""

    def __init__(self) -> None:
        self.rows: list[Tensor | None] = [None, None]
        self.barrier = threading.Barrier(2, timeout=60)

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        def gather(rows: Tensor) -> Tensor:
            self.rows[rank] = rows.detach()
            self.barrier.wait()
            parts = [part for part in self.rows if part is not None]
            self.barrier.wait()
            parts[rank] = rows
            return torch.cat(parts)

        return gather


@every
def test_two_processes_make_the_joined_batchs_gradient(name: str) -> None:
    case = CASES[name]
    whole = case.step(name)
    state, _ = steps(whole, case, 2)
    samples, noise = inputs(whole, case, 7)
    hyper = hyper_tensors(whole.hyper)
    exchange, half = Exchange(), case.batch // 2

    def process(rank: int) -> Gradient:
        mine = slice(rank * half, (rank + 1) * half)
        return case.step(name).gradient(state, samples[mine], noise[mine], hyper, gather=exchange.of(rank))

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, range(2)))
    expected = whole.gradient(state, samples, noise, hyper)
    found = parts[0].direction + parts[1].direction
    scale = float(expected.direction.abs().max())
    torch.testing.assert_close(found, expected.direction, rtol=1e-3, atol=2e-5 * scale)
    for part in parts:
        torch.testing.assert_close(part.loss, expected.loss, rtol=1e-5, atol=1e-6)
        assert set(part.slots) == set(expected.slots)
        for slot, value in expected.slots.items():
            torch.testing.assert_close(part.slots[slot], value, rtol=1e-4, atol=1e-5)


# one a family in every run, the others in CI and `make test-slow`: tracing takes 10 to 30 s each
GATED = ("nnclr", "dino", "barlow_twins", "swav", "data2vec", "vae", "rotation", "cpc")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in GATED else pytest.mark.slow) for n in OBJECTIVES])
def test_the_parity_gate_passes(name: str) -> None:
    case = CASES[name]
    if OBJECTIVES[name].onnx:
        pytest.skip(OBJECTIVES[name].onnx)
    step = case.step(name)
    model = trace_step(step, (case.batch, *case.spec.shape))
    state, _ = steps(step, case, 3)
    figures = step_parity(step, state, step.hyper, model, case.spec, case.batch)
    assert figures["draws"][-1] <= 1
