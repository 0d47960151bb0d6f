"""The same questions to every strategy: is it pure, does it keep the state's form, does it cost what it says, and does
stock onnxruntime do the same?"""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from strategy_cases import BATCH, CASES, SPEC, Case, after, inputs, walk
from torch import Tensor

from edgessl.continual.consolidation import consolidate, consolidated
from edgessl.continual.gradient_ratio import gradient_ratio
from edgessl.continual.strategies import STRATEGIES
from edgessl.device.noise import probe_signs
from edgessl.objectives.network import Network
from edgessl.step import METRICS, STRATEGY_LOSS, State, TrainStep, hyper_tensors
from export import step_parity
from export.consolidation import consolidation_parity, trace_consolidation
from export.trace import trace_step

torch.set_num_threads(1)

every = pytest.mark.parametrize("case", CASES, ids=str)
DEFAULT_TIER = ("scale",)  # the rest is slow; test_continual_strategies_bundle.py takes ewc all the way


def settle(step: TrainStep, state: State) -> State:
    """`state` consolidated on random samples, where the strategy consolidates."""
    if step.strategy is None or not step.strategy.consolidates:
        return state
    samples, _, _ = inputs(step, 99)
    probes = torch.from_numpy(probe_signs(0, 1, (len(samples), step.parts.encoder.embedding_dim)))
    return consolidated(step, state, samples, probes, hyper_tensors(step.hyper))


@every
def test_it_says_what_it_is(case: Case) -> None:
    cls = STRATEGIES[case.name]
    assert cls.name == case.name
    assert dataclasses.is_dataclass(cls)
    assert "Memory" in (cls.__doc__ or "") or "memory" in (cls.__doc__ or "")
    assert "Compute:" in (cls.__doc__ or "")
    assert f"`{cls.name}`" in Path("docs/strategies.md").read_text()


@every
def test_it_is_a_pure_function(case: Case) -> None:
    step = case.step()
    state, hyper = settle(step, after(step, 2)), hyper_tensors(step.hyper)
    kept = {slot: value.clone() for slot, value in state.items()}
    samples, noise, stored = inputs(step, 5)
    (a, a_metrics), (b, b_metrics) = (step(state, samples, noise, hyper, stored) for _ in range(2))
    assert all(torch.equal(a[slot], b[slot]) for slot in state)
    assert all(torch.equal(a_metrics[name], b_metrics[name]) for name in a_metrics)
    assert all(torch.equal(state[slot], kept[slot]) for slot in state)


@every
def test_the_state_keeps_its_form_and_stays_finite(case: Case) -> None:
    step = case.step()
    before = step.initial_state()
    state = settle(step, after(step, 3))
    *_, (state, metrics) = walk(step, state, 3, first=3)
    assert tuple(metrics) == step.metrics
    assert step.metrics == ((*METRICS, STRATEGY_LOSS) if STRATEGIES[case.name].adds else METRICS)
    for found in (state, settle(step, state)):
        assert list(found) == list(before)
        for slot, value in found.items():
            assert (value.shape, value.dtype) == (before[slot].shape, torch.float32), slot
            assert torch.isfinite(value).all(), slot


@every
def test_it_changes_what_is_learned(case: Case) -> None:
    step = case.step()
    plain = TrainStep(
        step.parts.encoder, step.objective, step.optimizer, step.views.pipeline, seed=0
    )  # the encoder holds its initial weights
    with_it, without = settle(step, after(step, 2)), after(plain, 2)
    *_, (with_it, _) = walk(step, with_it, 4, first=2)
    *_, (without, _) = walk(plain, without, 4, first=2)
    a, b = step.layout.unflatten(with_it[step.embeds]), plain.layout.unflatten(without["theta"])
    moved = max(float((a[name] - b[name]).abs().max()) for name in b)
    assert moved > 1e-5


@every
def test_it_costs_what_it_says(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    step = case.step()
    plain = Case("lump").step()  # adds neither slots nor passes
    price, own = STRATEGIES[case.name].price, set(step.slot_names) - set(plain.slot_names)
    flat = [name for name in own if step.initial_state()[name].shape == (step.layout.size,)]
    assert price.bytes_per_parameter == 4 * len(flat)
    assert sum(step.initial_state()[name].numel() for name in own - set(flat)) < 0.2 * step.layout.size
    assert price.bytes_per_feature == (4 if step.stores else 0)
    passes: list[int] = []
    call = Network.__call__

    def counting(self: Network, part: str, *arguments: Tensor) -> Tensor:
        if part == "encoder":
            passes.append(len(arguments[0]))
        return call(self, part, *arguments)

    monkeypatch.setattr(Network, "__call__", counting)
    samples, noise, stored = inputs(step)
    step.gradient(step.initial_state(), samples, noise, hyper_tensors(step.hyper), stored=stored)
    assert sum(passes) / (2 * BATCH) == 1 + price.forward  # SimCLR embeds both views in one pass
    assert price.backward == 0


@every
def test_the_gradient_ratio_tells_the_two_apart(case: Case) -> None:
    step = case.step()
    state = settle(step, after(step, 3))
    *_, (state, _) = walk(step, state, 1, first=3)
    samples, noise, stored = inputs(step, 8)
    hyper = hyper_tensors(step.hyper)
    ratio = gradient_ratio(step, state, samples, noise, hyper, stored)
    assert (ratio > 0) == STRATEGIES[case.name].adds
    if ratio == 0:
        return
    weights = [name for name in step.strategy.hyper if name.endswith(("weight", "contrast", "distill"))]
    louder = hyper_tensors({**step.hyper, **{name: 3 * step.hyper[name] for name in weights}})
    assert gradient_ratio(step, state, samples, noise, louder, stored) == pytest.approx(3 * ratio, rel=1e-4)


class Exchange:
    """`gather` between two threads: each gives its rows and gets everybody's, gradients through its own."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = [torch.empty(0)] * 2
        self.barrier = threading.Barrier(2, timeout=60)

    def of(self, rank: int):
        def gather(rows: Tensor) -> Tensor:
            self.rows[rank] = rows.detach()
            self.barrier.wait()
            parts = list(self.rows)
            self.barrier.wait()
            parts[rank] = rows
            return torch.cat(parts)

        return gather


@every
def test_two_processes_make_the_joined_batchs_gradient(case: Case) -> None:
    whole = case.step()
    state, hyper = settle(whole, after(whole, 2)), hyper_tensors(whole.hyper)
    samples, noise, stored = inputs(whole, 7)
    order = torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])  # each process gets new and remembered rows
    rows = [order[:4], order[4:]]
    exchange = Exchange()

    def process(rank: int):
        mine = rows[rank]
        past = None if stored is None else stored[mine]
        return case.step().gradient(state, samples[mine], noise[mine], hyper, stored=past, gather=exchange.of(rank))

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, range(2)))
    expected = whole.gradient(state, samples, noise, hyper, stored=stored)
    if case.name == "lump":  # its partners are the rows of one process
        pytest.skip("mixes within a process")
    scale = float(expected.direction.abs().max())
    found = parts[0].direction + parts[1].direction
    torch.testing.assert_close(found, expected.direction, rtol=1e-3, atol=2e-5 * scale)
    for part in parts:
        torch.testing.assert_close(part.term, expected.term, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", ["byol", "vicreg", "simmim"])
@every
def test_it_goes_with_other_kinds_of_objectives(case: Case, objective: str) -> None:
    step = case.step(objective)
    state = settle(step, after(step, 2))
    *_, (state, _) = walk(step, state, 2, first=2)
    assert all(torch.isfinite(value).all() for value in state.values())


@every
def test_batch_norms_statistics_are_the_objectives(case: Case) -> None:
    """Passes of a strategy must not stand in for the objective's in the running statistics."""
    step = case.step(norm="batch")
    state, _ = next(walk(step, step.initial_state(), 1))
    plain = TrainStep(step.parts.encoder, step.objective, step.optimizer, step.views.pipeline, norm="batch")
    fresh, _ = next(walk(plain, plain.initial_state(), 1))
    name = "encoder.stages.stem.norm.running_mean"
    if case.name != "lump":
        a, b = step.layout.unflatten(state["theta"])[name], plain.layout.unflatten(fresh["theta"])[name]
        torch.testing.assert_close(a, b)
    assert torch.isfinite(settle(step, state)["theta"]).all()


def gate(case: Case, step: TrainStep) -> None:
    model = trace_step(step, (BATCH, *SPEC.shape))
    state = settle(step, after(step, 3))
    step_parity(step, state, step.hyper, model, SPEC, BATCH)
    models = trace_consolidation(step)
    figures = consolidation_parity(step, state, step.hyper, models, SPEC)
    assert set(figures) == set(models)
    assert set(models) == {
        *(("consolidate",) if STRATEGIES[case.name].consolidates else ()),
        *(("importance",) if STRATEGIES[case.name].measures else ()),
    }


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if str(c) in DEFAULT_TIER else [pytest.mark.slow], id=str(c)) for c in CASES],
)
def test_the_parity_gate_passes(case: Case) -> None:
    gate(case, case.step(optimizer="sgd"))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
@every
def test_the_parity_gate_passes_with_adam(case: Case, norm: str) -> None:
    gate(case, case.step("vicreg", norm=norm))


def test_consolidation_moves_the_anchor_and_nothing_else_by_itself() -> None:
    step = Case("lwf").step()
    state = after(step, 2)
    settled = consolidate(step, state, None, hyper_tensors(step.hyper))
    assert torch.equal(settled["anchor"], state["theta"])
    assert all(torch.equal(settled[name], state[name]) for name in state if name != "anchor")
