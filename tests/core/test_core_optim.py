"""The optimizers against torch.optim, LARS against its formula in numpy, clipping against torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgessl.encoders import BatchNorm
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout
from edgessl.optim import OPTIMIZERS, Optimizer, build_optimizer, clip_by_norm

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
STEPS = 20
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.norm = BatchNorm(3)
        self.b = nn.Conv2d(3, 2, 2)
        self.register_buffer("mean", torch.tensor([5.0, 6.0]))


LAYOUT = ParameterLayout.of(Net())


def draw(seed: int, dtype: torch.dtype, trained: bool = False) -> Tensor:
    flat = np.random.default_rng(seed).standard_normal(LAYOUT.size)
    if trained:
        flat[LAYOUT.trained_end :] = 0  # what a step hands over
    return torch.from_numpy(flat).to(dtype)


def ours(optimizer: Optimizer, dtype: torch.dtype, hypers: Iterable[dict[str, float]]) -> list[Tensor]:
    theta = draw(0, dtype)
    slots, path = optimizer.slots(theta), []
    for t, hyper in enumerate(hypers):
        values = {name: torch.tensor(value, dtype=dtype) for name, value in hyper.items()}
        theta, slots = optimizer.update(theta, draw(t + 1, dtype, trained=True), slots, values, LAYOUT)
        path.append(theta)
    return path


def torchs(
    make: Callable[[list[dict[str, object]]], torch.optim.Optimizer],
    dtype: torch.dtype,
    hypers: Iterable[dict[str, float]],
) -> list[Tensor]:
    """The same run with torch.optim on separate tensors; weight decay on the weights alone."""
    parts = {name: value.clone().requires_grad_() for name, value in LAYOUT.unflatten(draw(0, dtype)).items()}
    of_kind = lambda *kinds: [parts[e.name] for e in LAYOUT.entries if e.kind in kinds]  # noqa: E731
    optimizer = make([{"params": of_kind("weight")}, {"params": of_kind("vector"), "weight_decay": 0.0}])
    path = []
    for t, hyper in enumerate(hypers):
        for name, gradient in LAYOUT.unflatten(draw(t + 1, dtype, trained=True)).items():
            parts[name].grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = hyper["lr"]
        optimizer.step()
        path.append(LAYOUT.flatten({name: part.detach() for name, part in parts.items()}))
    return path


def rates(**hyper: float) -> list[dict[str, float]]:
    return [{**hyper, "lr": 0.1 / (t + 1)} for t in range(STEPS)]


@DTYPES
def test_sgd_is_torchs(dtype: torch.dtype) -> None:
    hypers = rates(momentum=0.9, weight_decay=0.3)
    expected = torchs(lambda groups: torch.optim.SGD(groups, lr=1, momentum=0.9, weight_decay=0.3), dtype, hypers)
    for found, wanted in zip(ours(build_optimizer("sgd"), dtype, hypers), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_adamw_is_torchs(dtype: torch.dtype, eps: float) -> None:
    hypers = rates(beta1=0.8, beta2=0.95, eps=eps, weight_decay=0.3)
    make = lambda groups: torch.optim.AdamW(groups, lr=1, betas=(0.8, 0.95), eps=eps, weight_decay=0.3)  # noqa: E731
    expected = torchs(make, dtype, hypers)
    for found, wanted in zip(ours(build_optimizer("adamw"), dtype, hypers), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@DTYPES
def test_lars_is_its_formula(dtype: torch.dtype) -> None:
    decay, momentum, trust = 0.3, 0.9, 0.02
    hypers = rates(momentum=momentum, weight_decay=decay, trust=trust)
    w = {name: value.numpy() for name, value in LAYOUT.unflatten(draw(0, torch.float64)).items()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    kinds = {e.name: e.kind for e in LAYOUT.entries}
    for t, (hyper, found) in enumerate(zip(hypers, ours(build_optimizer("lars"), dtype, hypers), strict=True)):
        for name, g in LAYOUT.unflatten(draw(t + 1, torch.float64, trained=True)).items():
            direction = g.numpy()
            if kinds[name] == "weight":
                direction = direction + decay * w[name]
                direction = direction * trust * np.sqrt((w[name] ** 2).sum()) / np.sqrt((direction**2).sum())
            v[name] = momentum * v[name] + direction
            w[name] = w[name] - hyper["lr"] * v[name]
        for name, value in LAYOUT.unflatten(found).items():
            np.testing.assert_allclose(value, w[name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("nothing", ["weights", "gradient"])
def test_lars_takes_ratio_one_where_a_norm_is_zero(nothing: str) -> None:
    theta, gradient = (torch.ones(LAYOUT.size) * 0.5 for _ in range(2))
    (theta if nothing == "weights" else gradient)[: LAYOUT.weights_end] = 0
    hyper = {k: torch.tensor(v) for k, v in {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "trust": 1e-3}.items()}
    optimizer = build_optimizer("lars")
    moved, _ = optimizer.update(theta, gradient, optimizer.slots(theta), hyper, LAYOUT)
    torch.testing.assert_close(moved, theta - gradient, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_not_trained_stays_bit_for_bit(name: str) -> None:
    optimizer = build_optimizer(name)
    found = ours(optimizer, torch.float32, [{**optimizer.hyper, "weight_decay": 0.5}] * 3)[-1]
    start = draw(0, torch.float32)
    assert torch.equal(found[LAYOUT.trained_end :], start[LAYOUT.trained_end :])
    assert not (found[: LAYOUT.trained_end] == start[: LAYOUT.trained_end]).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_change_none_of_their_inputs(name: str) -> None:
    optimizer = build_optimizer(name)
    theta, gradient = draw(0, torch.float32), draw(1, torch.float32)
    slots = {k: v + 0.5 for k, v in optimizer.slots(theta).items()}
    before = [theta.clone(), gradient.clone(), *(v.clone() for v in slots.values())]
    hyper = {k: torch.tensor(v) for k, v in optimizer.hyper.items()}
    _, after = optimizer.update(theta, gradient, slots, hyper, LAYOUT)
    assert set(after) == set(slots)
    for found, wanted in zip([theta, gradient, *slots.values()], before, strict=True):
        assert torch.equal(found, wanted)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    scale=st.floats(-12, 12).map(lambda e: 10.0**e),
    limit=st.floats(-6, 6).map(lambda e: 10.0**e),
    seed=st.integers(0, 99),
)
def test_clipping_is_torchs(size: int, scale: float, limit: float, seed: int) -> None:
    gradient = torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(size))
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_([parameter], limit)
    found, found_norm = clip_by_norm(gradient, torch.tensor(limit, dtype=torch.float64))
    torch.testing.assert_close(found, parameter.grad, rtol=1e-12, atol=0)
    torch.testing.assert_close(found_norm, norm, rtol=1e-12, atol=0)
    assert float(found.norm()) <= limit * (1 + 1e-12)


def test_clipping_leaves_zero_alone() -> None:
    clipped, norm = clip_by_norm(torch.zeros(3), torch.tensor(1.0))
    assert clipped.tolist() == [0, 0, 0]
    assert norm == 0


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown optimizer 'adam'; choose one of sgd, adamw, lars"):
        build_optimizer("adam")
