"""What objectives carry from step to step: BYOL's and MoCo's teachers, MoCo's queue."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError
from edgessl.objectives import OBJECTIVES, build_objective
from edgessl.objectives.moco import enqueue
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import State, TrainStep, hyper_tensors

torch.set_num_threads(1)

SPEC = InputSpec("image", (1, 8, 8), (0.4,), (0.3,), "intensity 0..1")


def make_step(objective: str, norm: str = "group", **options: int) -> TrainStep:
    values = {
        "encoder": {"name": "ds_cnn_s", "options": {"norm": norm}},
        "objective": {"name": objective, "options": options},
        "optimizer": "sgd",
    }
    return build_step(parse_recipe(values), SPEC)


def draw(step: TrainStep, t: int, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t)
    noise = torch.rand(step.noise_shape(n), generator=generator)
    return torch.rand((n, *SPEC.shape), generator=generator), noise


def run(step: TrainStep, steps: int, n: int, **hyper: float) -> list[State]:
    states = [step.initial_state()]
    for t in range(steps):
        states.append(step(states[-1], *draw(step, t, n), hyper_tensors({**step.hyper, **hyper}))[0])
    return states


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("objective", ["byol", "moco"])
def test_the_teacher_is_the_moving_average_of_theta(objective: str, norm: str) -> None:
    decay, steps = 0.7, 6
    states = run(make_step(objective, norm), steps, 6, teacher_decay=decay)
    thetas = [state["theta"].numpy().astype(np.float64) for state in states]
    # written out, not stepped: theta_0 keeps decay^k, theta_i enters with (1 - decay) decay^(k - i)
    expected = decay**steps * thetas[0]
    for i in range(1, steps + 1):
        expected += (1 - decay) * decay ** (steps - i) * thetas[i]
    np.testing.assert_allclose(states[-1]["teacher"], expected, rtol=1e-5, atol=1e-7)
    assert np.abs(expected - thetas[-1]).max() > 1e-3  # the teacher does lag behind


@pytest.mark.parametrize("objective", ["byol", "moco"])
def test_the_teacher_starts_as_a_copy(objective: str) -> None:
    step = make_step(objective)
    state = step.initial_state()
    assert torch.equal(state["teacher"], state["theta"])
    state["teacher"].zero_()
    assert step.initial_state()["teacher"].any()
    assert state["theta"].any()


def test_byol_gives_the_teacher_no_gradient_and_the_predictor_one() -> None:
    step = make_step("byol")
    states = run(step, 2, 6)
    gradient = step.layout.unflatten(step.gradient(states[-1], *draw(step, 9, 6), hyper_tensors(step.hyper)).direction)
    for part in ("encoder.", "projector.", "predictor."):
        trained = {e.name for e in step.layout.entries if e.kind in ("weight", "vector")}
        assert all(gradient[name].abs().max() > 0 for name in trained if name.startswith(part)), part


def ages(queue: Tensor) -> list[int]:
    """Each row of a test's queue holds the number of the batch it came with."""
    return queue[:, 0].int().tolist()


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 7, 20])
@pytest.mark.parametrize("size", [5, 8])
def test_the_queue_holds_the_newest_batches(size: int, batch: int) -> None:
    queue = torch.full((size, 2), -1.0)
    pushed: list[int] = [-1] * size
    for t in range(7):
        queue = enqueue(queue, torch.full((batch, 2), float(t)))
        pushed += [t] * batch
        assert queue.shape == (size, 2)
        # a ring, seen from its newest entry, at any batch size: nothing is skipped and nothing stays too long
        assert ages(queue) == pushed[::-1][:size]


def test_keys_of_a_step_are_the_teachers_and_enter_the_queue_in_front() -> None:
    n, size = 6, 16
    step = make_step("moco", queue_size=size, projection=8)
    states = run(step, 4, n, teacher_decay=0.5)
    for t, (before, after) in enumerate(itertools.pairwise(states)):
        teacher = copy.deepcopy(step.parts)
        step.layout.load_module(teacher, before["teacher"])
        with torch.no_grad():
            _, view_b = step.views(*draw(step, t, n))
            keys = teacher("projector", teacher("encoder", view_b))
        keys = keys / keys.norm(dim=1, keepdim=True)
        torch.testing.assert_close(after["queue"][:n], keys, rtol=1e-5, atol=1e-6)
        assert torch.equal(after["queue"][n:], before["queue"][: size - n])


def test_the_first_queue_is_random_unit_keys_that_follow_the_seed() -> None:
    queue = make_step("moco", queue_size=64, projection=8).initial_state()["queue"]
    assert queue.shape == (64, 8)
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(64), rtol=1e-5, atol=0)
    assert len(torch.unique(queue, dim=0)) == 64
    recipe = parse_recipe({"objective": {"name": "moco", "options": {"queue_size": 64, "projection": 8}}, "seed": 1})
    assert not torch.equal(build_step(recipe, SPEC).initial_state()["queue"], queue)


def test_queue_negatives_matter_to_the_loss() -> None:
    step = make_step("moco", queue_size=8)
    state = step.initial_state()
    inputs = (*draw(step, 0, 6), hyper_tensors(step.hyper))
    loss = step.gradient(state, *inputs).loss
    assert abs(step.gradient({**state, "queue": -state["queue"]}, *inputs).loss - loss) > 1e-4


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown objective 'supcon'; choose one of simclr, .*byol.*vicreg"):
        build_objective("supcon")
    for name in OBJECTIVES:
        with pytest.raises(ConfigError, match=f"'{name}' has no option 'breadth'; it has "):
            build_objective(name, breadth=3)
    with pytest.raises(ConfigError, match="no option 'queue_size'"):
        build_objective("byol", queue_size=3)
