"""The training step: pure, the gradient of plain torch, and nothing moves that should not."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgessl.encoders import BatchNorm, Encoder, build_encoder
from edgessl.errors import ConfigError, InputError
from edgessl.objectives import Batch, Gather, Loss, Network, Objective, Slots, build_objective
from edgessl.objectives.functional import effective_rank, embedding_std, negative_cosine_loss, nt_xent_loss, vicreg_loss
from edgessl.optim import OPTIMIZERS, build_optimizer
from edgessl.step import METRICS, State, TrainStep, hyper_tensors
from edgessl.views import default_views

MakeStep = Callable[..., TrainStep]
Draw = Callable[..., tuple[Tensor, Tensor]]
PAIRS = [("simclr", "sgd"), ("vicreg", "lars"), ("byol", "adamw"), ("moco", "sgd")]  # each of both at least once
NORMS = ("group", "batch")
OBJECTIVES = ("simclr", "vicreg", "byol", "moco")  # tests/objectives asks all the others


def run(step: TrainStep, draw: Draw, steps: int = 1, **hyper: float) -> tuple[State, State]:
    """State and metrics after `steps` steps with some hyperparameters changed."""
    state, metrics = step.initial_state(), {}
    for t in range(steps):
        state, metrics = step(state, *draw(step, t), hyper_tensors({**step.hyper, **hyper}))
    return state, metrics


def same(a: State, b: State) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def generators_untouched() -> Iterator[None]:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_the_pairs_cover_the_registries() -> None:
    assert {objective for objective, _ in PAIRS} == set(OBJECTIVES)
    assert {optimizer for _, optimizer in PAIRS} == set(OPTIMIZERS)


# --- a pure function ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("objective", "optimizer"), PAIRS)
def test_same_in_same_out_and_inputs_unchanged(
    make_step: MakeStep, draw: Draw, objective: str, optimizer: str, norm: str
) -> None:
    step = make_step(objective, optimizer, norm)
    state, _ = run(step, draw, 1)
    batch, noise = draw(step, 5)
    hyper = hyper_tensors(step.hyper)
    before = [x.clone() for x in (*state.values(), batch, noise, *hyper.values())]
    with generators_untouched():
        first = step(state, batch, noise, hyper)
    for found, wanted in zip((*state.values(), batch, noise, *hyper.values()), before, strict=True):
        assert torch.equal(found, wanted)
    step(step.initial_state(), *draw(step, 6), hyper)  # what happens in between leaves no trace
    second = step(state, batch, noise, hyper)
    assert same(first[0], second[0])
    assert same(first[1], second[1])
    assert first[1].keys() == set(METRICS)
    assert tuple(first[0]) == step.slot_names == tuple(state)
    for name, value in first[0].items():
        assert (value.shape, value.dtype) == (state[name].shape, torch.float32), name
        assert not value.requires_grad
        assert torch.isfinite(value).all()
    assert all(value.shape == () and not value.requires_grad for value in first[1].values())


@pytest.mark.parametrize("norm", NORMS)
def test_theta_holds_all_the_weights_there_are(make_step: MakeStep, draw: Draw, norm: str) -> None:
    step = make_step("byol", "sgd", norm)
    expected = run(step, draw, 2)
    with torch.no_grad():
        for tensor in (*step.parts.parameters(), *step.parts.buffers()):
            tensor.fill_(float("nan"))
    found = run(step, draw, 2)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize("norm", NORMS)
def test_looking_at_the_encoder_between_steps_changes_nothing(make_step: MakeStep, draw: Draw, norm: str) -> None:
    step = make_step("byol", "sgd", norm)
    expected = run(step, draw, 2)
    step.parts.encoder.eval()  # what every evaluation of it does first
    found = run(step, draw, 2)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])


def test_noise_is_what_makes_the_views(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("simclr")
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    batch, noise = draw(step)
    assert noise.shape == (8, step.views.width)
    loss = step(state, batch, noise, hyper)[1]["loss"]
    assert step(state, batch, draw(step, 1)[1], hyper)[1]["loss"] != loss
    assert step(state, draw(step, 1)[0], noise, hyper)[1]["loss"] != loss
    with pytest.raises(InputError, match=r"expected noise \(N, "):
        step(state, batch, noise[:, 1:], hyper)


def test_the_seed_decides_the_weights_and_nothing_else_does(make_step: MakeStep) -> None:
    with generators_untouched():
        first = make_step("moco").initial_state()
    torch.rand(7)
    assert same(make_step("moco").initial_state(), first)
    other = make_step("moco", seed=1)
    layout = other.layout
    for name, value in layout.unflatten(other.initial_state()["theta"]).items():
        kind = next(e.kind for e in layout.entries if e.name == name)
        if kind == "weight":
            assert not torch.equal(value, layout.unflatten(first["theta"])[name]), name


def test_the_initial_state_is_a_fresh_copy(make_step: MakeStep) -> None:
    step = make_step("moco", "adamw", "batch")
    expected = {name: value.clone() for name, value in step.initial_state().items()}
    for value in step.initial_state().values():
        value += 1
    assert same(step.initial_state(), expected)


# --- the gradient of plain torch ---------------------------------------------------------------------------------


def plain_loss(name: str, parts: Any, teacher: Any, a: Tensor, b: Tensor, step: TrainStep) -> Tensor:
    """The objective on ordinary modules, one pass over both views; MoCo's queue is the initial one."""
    hyper = step.hyper
    if name == "moco":
        q = parts.projector(parts.encoder(a))
        with torch.no_grad():
            k = teacher.projector(teacher.encoder(b))
        q, k = nn.functional.normalize(q), nn.functional.normalize(k)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ step.initial_state()["queue"].to(q).T], 1)
        return nn.functional.cross_entropy(logits / hyper["temperature"], torch.zeros(len(q), dtype=torch.long))
    z_a, z_b = parts.projector(parts.encoder(torch.cat([a, b]))).chunk(2)
    if name == "simclr":
        return nt_xent_loss(z_a, z_b, hyper["temperature"])
    if name == "vicreg":
        return vicreg_loss(z_a, z_b, hyper["invariance"], hyper["variance"], hyper["covariance"])
    p_a, p_b = parts.predictor(torch.cat([z_a, z_b])).chunk(2)
    with torch.no_grad():
        t_a, t_b = teacher.projector(teacher.encoder(torch.cat([a, b]))).chunk(2)
    p_a, p_b, t_a, t_b = (rows - rows.mean(0) for rows in (p_a, p_b, t_a, t_b))
    return 2 + negative_cosine_loss(p_a, t_b) + negative_cosine_loss(p_b, t_a)


def with_torch_batch_norms(module: nn.Module) -> Any:
    """A copy whose batch norms are torch's own, moving their running statistics in place with momentum 0.1."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                flat = isinstance(parent, nn.Sequential) and any(isinstance(c, nn.Linear) for c in parent)
                channels, dtype = child.weight.numel(), child.weight.dtype
                theirs = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(
                    channels, eps=child.eps, momentum=0.1, dtype=dtype
                )
                theirs.load_state_dict({**child.state_dict(), "num_batches_tracked": torch.tensor(0)})
                setattr(parent, name, theirs)
    return module


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_plain_torchs(make_step: MakeStep, draw: Draw, objective: str, norm: str) -> None:
    step = make_step(objective, "sgd", norm)
    layout = step.layout
    # in float64, where two ways to the same gradient agree to many digits
    state = {name: value.double() for name, value in step.initial_state().items()}
    hyper = {name: value.double() for name, value in hyper_tensors(step.hyper).items()}
    if "teacher" in state:  # as later in training: not the network itself
        state["teacher"] += 0.02 * torch.randn(layout.size, generator=torch.Generator().manual_seed(3))
    batch, noise = (x.double() for x in draw(step))
    found = step.gradient(state, batch, noise, hyper)

    student, follower = (copy.deepcopy(step.parts).double() for _ in range(2))
    if "teacher" in state:
        layout.load_module(follower, state["teacher"])
    parts, teacher = with_torch_batch_norms(student), with_torch_batch_norms(follower)
    a, b = step.views(batch, noise)
    loss = plain_loss(objective, parts, teacher, a, b, step)
    loss.backward()
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-6, atol=0)

    gradients = layout.unflatten(found.direction)
    wanted = {name: parameter.grad for name, parameter in parts.named_parameters() if parameter.grad is not None}
    assert set(wanted) == {e.name for e in layout.entries if e.kind in ("weight", "vector")}
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))

    # and one step on: grad_norm of what is trained, running statistics as torch's batch norms keep them
    after, metrics = step.update(state, found, hyper)
    total = torch.stack([g.norm() for g in wanted.values()]).norm()
    torch.testing.assert_close(metrics["grad_norm"], total, rtol=1e-6, atol=0)
    moved, buffers = layout.unflatten(after["theta"]), dict(parts.named_buffers())
    statistics = [e.name for e in layout.entries if e.kind == "statistic"]
    assert bool(statistics) == (norm == "batch")
    for name in statistics:
        torch.testing.assert_close(moved[name], buffers[name], rtol=1e-6, atol=1e-9)


def test_running_statistics_follow_over_many_steps_at_any_decay(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("simclr", "sgd", "batch")
    parts = with_torch_batch_norms(step.parts)
    for module in parts.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.3
    with torch.no_grad():
        for t in range(6):
            a, b = step.views(*draw(step, t))
            parts.projector(parts.encoder(torch.cat([a, b])))
    after, _ = run(step, draw, 6, lr=0.0, statistics_decay=0.7)
    buffers = dict(parts.named_buffers())
    for entry in step.layout.entries:
        if entry.kind == "statistic":
            found = step.layout.unflatten(after["theta"])[entry.name]
            torch.testing.assert_close(found, buffers[entry.name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_input_normalisation_never_moves(
    make_step: MakeStep, draw: Draw, objective: str, optimizer: str, norm: str
) -> None:
    step = make_step(objective, optimizer, norm)
    layout, start = step.layout, step.initial_state()["theta"]
    fixed = slice(layout.statistics_end, layout.size)
    assert [e.name for e in layout.entries if e.kind == "fixed"] == ["encoder.normalize.mean", "encoder.normalize.std"]
    gradient = step.gradient(step.initial_state(), *draw(step), hyper_tensors(step.hyper))
    assert not gradient.direction[fixed].any()
    after, _ = run(step, draw, 3)
    assert torch.equal(after["theta"][fixed], start[fixed])
    assert (after["theta"][: layout.trained_end] != start[: layout.trained_end]).float().mean() > 0.9


# --- hyperparameters are live ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
def test_lr_zero_leaves_the_weights(make_step: MakeStep, draw: Draw, optimizer: str, norm: str) -> None:
    step = make_step("byol", optimizer, norm)
    after, _ = run(step, draw, 3, lr=0.0)
    trained = slice(0, step.layout.trained_end)
    assert torch.equal(after["theta"][trained], step.initial_state()["theta"][trained])


@pytest.mark.parametrize(("objective", "optimizer"), PAIRS)
def test_every_hyperparameter_changes_the_step(make_step: MakeStep, draw: Draw, objective: str, optimizer: str) -> None:
    step = make_step(objective, optimizer, "batch")
    expected, _ = run(step, draw, 2)
    for name, value in step.hyper.items():
        changed = {"clip_norm": 1e-3, "eps": 1e-3}.get(name, value * 0.5)
        after, _ = run(step, draw, 2, **{name: changed})
        assert not same(after, expected), name


def test_the_first_step_is_linear_in_the_learning_rate(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("simclr")
    start = step.initial_state()["theta"].double()
    one, two = (run(step, draw, lr=lr)[0]["theta"].double() - start for lr in (0.5, 1.0))
    torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-6)
    assert two.norm() > 0.1


def test_the_gradient_is_clipped_and_its_norm_reported_before(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("simclr")
    free, metrics = run(step, draw, clip_norm=1e6, weight_decay=0.0)
    torch.testing.assert_close(free["momentum"].norm(), metrics["grad_norm"], rtol=1e-5, atol=0)
    limit = 0.1 * float(metrics["grad_norm"])
    clipped, same_metrics = run(step, draw, clip_norm=limit, weight_decay=0.0)
    assert float(clipped["momentum"].norm()) == pytest.approx(limit, rel=1e-4)
    assert torch.equal(same_metrics["grad_norm"], metrics["grad_norm"])


def test_metrics_are_those_of_the_encoders_embeddings(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("vicreg")
    state, _ = run(step, draw, 2)
    batch, noise = draw(step, 3)
    _, metrics = step(state, batch, noise, hyper_tensors(step.hyper))
    encoder = copy.deepcopy(step.parts)
    step.layout.load_module(encoder, state["theta"])
    with torch.no_grad():
        h = encoder("encoder", torch.cat(step.views(batch, noise)))
    torch.testing.assert_close(metrics["embedding_std"], embedding_std(h), rtol=1e-4, atol=0)
    torch.testing.assert_close(metrics["effective_rank"], effective_rank(h), rtol=1e-4, atol=0)


# --- precision ---------------------------------------------------------------------------------------------------


class Recorded(Objective):
    """An objective that keeps the projections it compared."""

    name = "recorded"
    family = "contrastive"
    hyper = build_objective("simclr").hyper

    def __init__(self, inner: Objective) -> None:
        self.inner = inner
        self.projections: list[Tensor] = []

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        return self.inner.heads(encoder, norm)

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        self.projections = []

        def record(rows: Tensor) -> Tensor:
            self.projections.append(rows.detach().clone())
            return gather(rows)

        return self.inner.loss(network, slots, batch, hyper, record)


EXACT: dict[str, Callable[[Tensor, Tensor, Slots], Tensor]] = {
    "simclr": lambda a, b, hyper: nt_xent_loss(a, b, hyper["temperature"]),
    "vicreg": lambda a, b, hyper: vicreg_loss(a, b, hyper["invariance"], hyper["variance"], hyper["covariance"]),
}


@pytest.mark.parametrize("objective", EXACT)
def test_autocast_runs_the_networks_in_bfloat16_and_the_loss_in_float32(
    make_step: MakeStep, draw: Draw, objective: str
) -> None:
    step = make_step(objective, "sgd", "batch")
    step.objective = recorded = Recorded(step.objective)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    batch, noise = draw(step, n=32)
    exact = step.gradient(state, batch, noise, hyper)
    half = step.gradient(state, batch, noise, hyper, autocast=torch.bfloat16)
    # the networks did run in bfloat16: close, and not equal
    assert half.direction.dtype == half.loss.dtype == torch.float32
    assert not torch.equal(half.direction, exact.direction)
    torch.testing.assert_close(half.loss, exact.loss, rtol=0.05, atol=0.05)
    cosine = nn.functional.cosine_similarity(half.direction, exact.direction, dim=0)
    assert cosine > 0.95
    # the loss did not: from the same projections, without autocast, it is the same number
    z_a, z_b = recorded.projections
    assert z_a.dtype == torch.float32
    torch.testing.assert_close(half.loss, EXACT[objective](z_a, z_b, hyper), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_under_autocast_keeps_float32_state(make_step: MakeStep, draw: Draw, objective: str, norm: str) -> None:
    step = make_step(objective, "adamw", norm)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    for t in range(3):
        gradient = step.gradient(state, *draw(step, t), hyper, autocast=torch.bfloat16)
        state, metrics = step.update(state, gradient, hyper)
    for value in (*state.values(), *metrics.values()):
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()


# --- construction ------------------------------------------------------------------------------------------------


def test_hyperparameters_must_not_share_a_name() -> None:
    objective = build_objective("simclr")
    clash = type("Clash", (type(objective),), {"hyper": {"lr": 1.0, "temperature": 0.2}})()
    views = default_views("image", (1, 8, 8))
    with pytest.raises(ConfigError, match="two of them have a hyperparameter 'lr'"):
        TrainStep(build_encoder("ds_cnn_s", (1, 8, 8)), clash, build_optimizer("sgd"), views)


def test_statistics_decay_is_there_when_there_are_statistics(make_step: MakeStep) -> None:
    assert "statistics_decay" not in make_step("simclr", norm="group").hyper
    assert make_step("simclr", norm="batch").hyper["statistics_decay"] == 0.9


def test_theta_is_the_encoders_weights_to_begin_with(make_step: MakeStep) -> None:
    step = make_step("simclr")
    values = step.layout.unflatten(step.initial_state()["theta"])
    for name, parameter in build_encoder("ds_cnn_s", (1, 8, 8), mean=(0.4,), std=(0.3,)).state_dict().items():
        assert torch.equal(values[f"encoder.{name}"], parameter)


def test_the_two_halves_are_the_step(make_step: MakeStep, draw: Draw) -> None:
    step = make_step("moco", "adamw", "batch")
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    inputs = draw(step)
    gradient = step.gradient(state, *inputs, hyper)
    assert same(step.update(state, gradient, hyper)[0], step(state, *inputs, hyper)[0])
    # an update follows the gradient it is given
    other = replace(gradient, direction=-gradient.direction)
    assert not same(step.update(state, other, hyper)[0], step(state, *inputs, hyper)[0])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simclr", "dino"])  # dino: views of two sizes, two networks
def test_compiled_steps_agree(make_step: MakeStep, draw: Draw, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    step = make_step(objective)
    expected = step.gradient(step.initial_state(), *draw(step), hyper_tensors(step.hyper))
    compile_ = torch.compile
    # the tracing front end is what can go wrong here; the C++ back end needs a compiler and a minute
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend="aot_eager"))
    step.compile()
    found = step.gradient(step.initial_state(), *draw(step), hyper_tensors(step.hyper))
    torch.testing.assert_close(found.direction, expected.direction, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
