"""Errors that other libraries shipped, each as a test (ssl_reference.md, sections 1 and 5)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from objective_cases import CASES
from torch import Tensor

from edgessl.data import Source, array_source
from edgessl.encoders.norm import BatchNorm
from edgessl.objectives import build_objective
from edgessl.objectives.base import centred_mlp, mlp
from edgessl.objectives.functional import barlow_twins_loss, centred, normalize, standardized
from edgessl.objectives.moco import enqueue
from edgessl.optim import build_optimizer
from edgessl.pretrain import pretrain
from edgessl.recipe import parse_recipe
from edgessl.step import State, TrainStep, hyper_tensors
from edgessl.views import Pipeline
from export.parity import random_fields

torch.set_num_threads(1)

QUEUED = ("moco", "dcl", "nnclr", "swav")
TAUGHT = ("byol", "moco", "mocov3", "dino", "tico")


def inputs(step: TrainStep, name: str, t: int, n: int) -> tuple[Tensor, Tensor]:
    noise = torch.rand(step.noise_shape(n), generator=torch.Generator().manual_seed(t))
    return torch.from_numpy(random_fields(CASES[name].spec, n, t)), noise


def test_a_queue_that_wraps_loses_the_oldest_and_nothing_new() -> None:
    # lightly's memory bank of 5 holds 1 2 3 4 5 after 1 2 3 and 4 5 6: it drops the 6 (quirk 1)
    queue = torch.zeros(5, 1)
    for batch in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        queue = enqueue(queue, torch.tensor(batch).unsqueeze(1))
    assert set(queue[:3, 0].tolist()) == {4, 5, 6}
    assert set(queue[3:, 0].tolist()) < {1, 2, 3}


@pytest.mark.parametrize("name", QUEUED)
def test_every_queue_wraps_at_any_batch_size(name: str) -> None:
    size = 13  # no multiple of the batch
    case = CASES[name]
    step = dataclasses.replace(case, options={**case.options, "queue_size": size}).step(name)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    entered: list[Tensor] = list(state["queue"])
    for t in range(4):
        state, _ = step(state, *inputs(step, name, t, 8), hyper)
        entered = [*state["queue"][:8], *entered]
        torch.testing.assert_close(state["queue"], torch.stack(entered[:size]), rtol=0, atol=0)
        torch.testing.assert_close(state["queue"].norm(dim=1), torch.ones(size), rtol=1e-4, atol=0)
    assert len(torch.unique(torch.stack(entered), dim=0)) == 4 * 8 + size


@pytest.mark.parametrize("name", QUEUED)
def test_the_batch_meets_the_queue_before_it_enters(name: str) -> None:
    """lightly#564: with the bank updated between the two directions of a symmetric loss, the second found its own
    positives among the negatives."""
    case = CASES[name]
    step = dataclasses.replace(case, options={**case.options, "queue_size": 16}).step(name)
    hyper, state = hyper_tensors(step.hyper), step.initial_state()
    for t in range(2):
        state, _ = step(state, *inputs(step, name, t, 8), hyper)
    batch = inputs(step, name, 2, 8)
    first = step.gradient(state, *batch, hyper)
    leaked = step.gradient({**state, "queue": first.slots["queue"]}, *batch, hyper)
    assert (
        abs(float(leaked.loss - first.loss)) > 1e-3
    )  # had they been there already, entering again would change little
    # what is consulted is what was handed in: the rows that this batch pushes out still count
    without = state["queue"].clone()
    without[8:] = normalize(-without[8:])
    assert float(step.gradient({**state, "queue": without}, *batch, hyper).loss) != float(first.loss)
    # and the queue is no road for a gradient
    assert not first.slots["queue"].requires_grad


CARRIED = {
    "moco": "queue",
    "dcl": "queue",
    "nnclr": "queue",
    "swav": "queue",
    "dino": "centre",
    "tico": "covariance",
    "deepcluster": "centroids",
}


@pytest.fixture(scope="module")
def pictures() -> Source:
    return array_source(random_fields(CASES["moco"].spec, 24, 0), kind="image", layout="channels_first")


@pytest.mark.parametrize("name", CARRIED)
def test_what_an_objective_carries_is_in_the_checkpoint(name: str, pictures: Source, tmp_path: Path) -> None:
    """lightly PR#993 left the bank out of checkpoints: a resumed run was another run."""
    options = {**CASES[name].options, **({"queue_size": 13} if name in QUEUED else {})}
    recipe = parse_recipe(
        {
            "encoder": {"name": "ds_cnn_s"},
            "objective": {"name": name, "options": options},
            "batch_size": 8,
            "epochs": 2,
            "views": [{"name": "erase"}],
        }
    )
    path = tmp_path / "run.ckpt"
    whole = pretrain(recipe, pictures)
    cut = pretrain(recipe, pictures, checkpoint=path, stop_after=3)
    resumed = pretrain(recipe, pictures, checkpoint=path)
    assert (cut.step, resumed.step) == (3, 6)
    for slot, value in whole.state.items():
        assert torch.equal(resumed.state[slot], value), slot
    # and it matters: a slot that starts over gives another run
    slot = CARRIED[name]
    step = whole.train_step()
    hyper = hyper_tensors(step.hyper)
    samples, noise = torch.from_numpy(pictures.take(np.arange(8))), torch.rand(step.noise_shape(8))
    fresh = {**cut.state, slot: step.initial_state()[slot]}
    after, forgetful = (step(s, samples, noise, hyper)[0] for s in (cut.state, fresh))
    assert not torch.equal(after["theta"], forgetful["theta"])


@pytest.mark.parametrize("name", TAUGHT)
def test_the_teachers_batch_norm_uses_the_batch_and_moves_nothing(name: str) -> None:
    """CaSSLe's frozen teacher stays in train mode by accident (quirk 3). Ours is so on purpose, as the authors' are:
    its running statistics are averages of the network's that nothing in a step reads, and its pass leaves none."""
    case = CASES[name]
    pipeline = Pipeline(case.step(name).views.pipeline.transforms, case.spec.shape)
    step = TrainStep(
        case.encoder(case.spec), build_objective(name, **case.options), build_optimizer("sgd"), pipeline, norm="batch"
    )
    assert any(isinstance(module, BatchNorm) for module in step.parts.modules())
    hyper, state = hyper_tensors(step.hyper), step.initial_state()
    for t in range(2):
        state, _ = step(state, *inputs(step, name, t, 8), hyper)
    batch = inputs(step, name, 9, 8)
    span = slice(step.layout.trained_end, step.layout.statistics_end)
    assert span.stop > span.start

    def with_teacher(part: slice, factor: float) -> State:
        teacher = state["teacher"].clone()
        teacher[part] *= factor
        return {**state, "teacher": teacher}

    plain = step.gradient(state, *batch, hyper)
    statistics_changed = step.gradient(with_teacher(span, 3.0), *batch, hyper)
    assert torch.equal(statistics_changed.loss, plain.loss)
    weights_changed = step.gradient(with_teacher(slice(0, step.layout.weights_end), -0.7), *batch, hyper)
    assert not torch.equal(weights_changed.loss, plain.loss)  # the teacher is consulted,
    assert torch.equal(weights_changed.direction[span], plain.direction[span])  # and leaves no statistics


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_barlow_twins_gradient_does_not_depend_on_the_number_of_processes(processes: int) -> None:
    """lightly#1977: the gradient was too small by the number of processes."""
    rng = np.random.default_rng(0)
    views = [torch.from_numpy(rng.standard_normal((8, 5))) for _ in range(2)]
    whole = [view.clone().requires_grad_() for view in views]
    expected = torch.autograd.grad(barlow_twins_loss(*whole), whole)
    share = 8 // processes
    found = []
    for rank in range(processes):
        mine = [view[rank * share : (rank + 1) * share].clone().requires_grad_() for view in views]
        # `gather` of this process: everybody's rows, a gradient through its own
        joined = [
            torch.cat([view[: rank * share], rows, view[(rank + 1) * share :]])
            for view, rows in zip(views, mine, strict=True)
        ]
        found.append(torch.autograd.grad(barlow_twins_loss(*joined), mine))
    for view in (0, 1):
        torch.testing.assert_close(torch.cat([part[view] for part in found]), expected[view], rtol=1e-12, atol=1e-15)


def test_barlow_twins_of_parts_of_the_batch_is_another_loss() -> None:
    # why the correlation has to be the joined batch's: averaging the processes' own losses is not data-parallel
    a, b = (torch.from_numpy(np.random.default_rng(s).standard_normal((8, 5))) for s in (1, 2))
    halves = 0.5 * (barlow_twins_loss(a[:4], b[:4]) + barlow_twins_loss(a[4:], b[4:]))
    assert abs(float(halves - barlow_twins_loss(a, b))) > 0.1


CENTRED = ("simsiam", "mocov3", "nnclr", "dino", "barlow_twins", "tico", "swav", "deepcluster")


@pytest.mark.parametrize("name", CENTRED)
def test_no_parameters_gradient_is_rounding_noise(name: str) -> None:
    """Adam divides by the gradient's own size: what rounding leaves of a zero becomes whole steps, other ones on every
    runtime. A bias before a ReLU that is open for every sample is such a parameter where the output is centred."""
    case = CASES[name]
    step = case.step(name)
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    size = torch.zeros(step.layout.size)
    for t in range(3):
        size = torch.maximum(size, step.gradient(state, *inputs(step, name, t, 8), hyper).direction.abs())
    trained = [e for e in step.layout.entries if e.kind in ("weight", "vector")]
    largest = {e.name: float(size[e.offset : e.offset + e.size].max()) for e in trained}
    assert min(largest.values()) > 1e-5 * max(largest.values()), min(largest, key=largest.__getitem__)


def test_the_bias_that_a_centred_head_leaves_out_has_no_gradient() -> None:
    h = torch.tensor([1.0, -1.0]).repeat(4) + 0.01 * torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    head = mlp((8, 8, 4), "layer").double()
    torch.nn.init.constant_(head[1].bias, 10.0)  # every unit open, for every sample
    z = head(h.double())
    by_bias = torch.autograd.grad((z - z.mean(dim=0)).pow(3).sum(), head[1].bias)[0]
    assert by_bias.abs().max() < 1e-12
    assert centred_mlp((8, 8, 4), "layer")[1].bias is None
    z = head(h.double())
    assert torch.autograd.grad(z.pow(3).sum(), head[1].bias)[0].abs().max() > 1e-2  # without centring it has one


def test_what_may_rise_on_a_fixed_batch_falls_without_its_memory() -> None:
    for name, options, hyper in (("dcl", {"queue_size": 0}, {}), ("tico", {}, {"covariance_decay": 0.0})):
        case = CASES[name]
        step = dataclasses.replace(case, options={**case.options, **options}).step(name)
        scalars = hyper_tensors({**step.hyper, **hyper, "lr": 3e-3})
        state, losses = step.initial_state(), []
        for _ in range(20):
            state, metrics = step(state, *inputs(step, name, 0, 8), scalars)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < losses[0] - 0.5, name


def test_centring_tells_apart_what_an_untrained_network_embeds_in_a_cone() -> None:
    draw = torch.Generator().manual_seed(0)
    cone = torch.ones(32, 16) + 0.05 * torch.randn(32, 16, generator=draw)
    queue = normalize(torch.randn(200, 16, generator=draw))
    # as they are, nearly all samples have one and the same neighbour, which says nothing about them
    _, counts = torch.unique((normalize(cone) @ queue.T).argmax(dim=1), return_counts=True)
    assert counts.max() >= 30
    _, counts = torch.unique((normalize(centred(cone)) @ queue.T).argmax(dim=1), return_counts=True)
    assert counts.max() <= 5
    torch.testing.assert_close(standardized(cone).square().mean(dim=0), torch.ones(16), rtol=1e-2, atol=0)
    torch.testing.assert_close(centred(cone).mean(dim=0), torch.zeros(16), rtol=0, atol=1e-6)


def test_small_batches_are_refused_by_the_objectives_that_cannot_take_them() -> None:
    least = {
        "mocov3": 4,
        "nnclr": 4,
        "simsiam": 4,
        "dino": 4,
        "barlow_twins": 8,
        "tico": 4,
        "swav": 4,
        "deepcluster": 4,
        "dcl": 2,
    }
    for name, number in least.items():
        cls = type(build_objective(name))
        assert cls.min_batch == number
        assert str(number) in (cls.__doc__ or "")  # and says why
