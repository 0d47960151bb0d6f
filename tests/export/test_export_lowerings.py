"""Every lowering equals torch's own autograd, in float64, over shapes that hit every branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.errors import ExportError
from export import lowerings
from export.lowerings import GroupNormLowering, convolution_backward, decompositions, split_with_sizes

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_convolution(
    size: list[int], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
    n: int = 2, c_in: int = 2, c_out: int = 3, groups: int = 1, bias: bool = True,
) -> None:  # fmt: skip
    rank = len(size)
    x = draw(n, c_in * groups, *size, seed=1).requires_grad_()
    weight = draw(c_out * groups, c_in, *kernel, seed=2).requires_grad_()
    b = draw(c_out * groups, seed=3).requires_grad_() if bias else None
    convolution = F.conv1d if rank == 1 else F.conv2d
    y = convolution(x, weight, b, stride, padding, dilation, groups)
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [x, weight] + ([b] if b is not None else []), grad)
    found = convolution_backward(
        grad, x.detach(), weight.detach(), [c_out * groups] if bias else None,
        stride, padding, dilation, False, [0] * rank, groups, [True, True, bias],
    )  # fmt: skip
    assert (found[2] is not None) == bias
    for ours, torchs in zip(found[: len(wanted)], wanted, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torchs, **CLOSE)


@st.composite
def convolutions(draws: Any, rank: int) -> dict[str, Any]:
    pick = lambda low, high: [draws(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    kernel, stride, dilation, padding = pick(1, 4), pick(1, 3), pick(1, 2), pick(0, 2)
    # any remainder of (size - reach) by the stride: what output padding of the input gradient is for
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + extra for low, extra in zip(least, pick(0, 6), strict=True)]
    return {
        "size": size, "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation,
        "n": draws(st.integers(1, 3)), "c_in": draws(st.sampled_from([1, 2, 9])),
        "c_out": draws(st.integers(1, 3)), "groups": draws(st.integers(1, 3)), "bias": draws(st.booleans()),
    }  # fmt: skip


@QUICK
@given(convolutions(rank=2))
def test_convolution_2d(convolution: dict[str, Any]) -> None:
    check_convolution(**convolution)


@QUICK
@given(convolutions(rank=1))
def test_convolution_1d(convolution: dict[str, Any]) -> None:
    check_convolution(**convolution)


@QUICK
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.integers(2, 5),
)
def test_depthwise_convolution(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], channels: int
) -> None:
    check_convolution(
        list(size), list(kernel), list(stride), list(padding), [1, 1], c_in=1, c_out=1, groups=channels, bias=False
    )


@QUICK
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    c_in=st.integers(8, 10),
    c_out=st.integers(1, 4),
    n=st.integers(1, 3),
)
def test_3x3_convolution(size: tuple[int, ...], c_in: int, c_out: int, n: int) -> None:
    check_convolution(list(size), [3, 3], [1, 1], [1, 1], [1, 1], n=n, c_in=c_in, c_out=c_out)


SAME = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
BRANCHES: dict[str, dict[str, Any]] = {
    "_pointwise": {"kernel": [1, 1], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "c_in": 9},
    "_separable_3x3": {"kernel": [3, 3], **SAME, "c_in": 9},
    "_taps": {"kernel": [3, 3], **SAME, "stride": [2, 2], "c_in": 9},
    "_depthwise_toeplitz": {"kernel": [3, 3], **SAME, "c_in": 1, "c_out": 1, "groups": 4},
}


@pytest.mark.parametrize("branch", BRANCHES)
def test_each_fast_form_is_taken(branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def watch(name: str, form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: taken.append(name) or form(*args)

    for name in BRANCHES:
        monkeypatch.setattr(lowerings, name, watch(name, getattr(lowerings, name)))
    check_convolution([7, 6], **BRANCHES[branch])
    assert taken == [branch]


def test_gradients_that_nobody_wants_are_not_computed() -> None:
    grad, x, weight = draw(2, 3, 4, 4), draw(2, 2, 4, 4), draw(3, 2, 3, 3)
    common = (grad, x, weight, [3], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    for mask in ([True, False, False], [False, True, False], [False, False, True]):
        assert [g is not None for g in convolution_backward(*common, mask)] == mask


def test_a_transposed_convolution_is_refused() -> None:
    with pytest.raises(ExportError, match="transposed convolution"):
        convolution_backward(
            draw(1, 1, 4, 4), draw(1, 1, 2, 2), draw(1, 1, 2, 2), None,
            [2, 2], [0, 0], [1, 1], True, [0, 0], 1, [True, True, False],
        )  # fmt: skip


@QUICK
@given(
    n=st.integers(1, 3),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 3),
    spatial=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-2]),
)
def test_group_norm(n: int, groups: int, per_group: int, spatial: list[int], affine: bool, eps: float) -> None:
    channels, values = groups * per_group, 1
    for side in spatial:
        values *= side
    x = draw(n, channels, *spatial, seed=1).requires_grad_()
    weight, bias = (draw(channels, seed=s).requires_grad_() if affine else None for s in (2, 3))
    y = torch.group_norm(x, groups, weight, bias, eps)  # as F.group_norm, which refuses single values
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], grad)

    lowering = GroupNormLowering()
    plain = [None if t is None else t.detach() for t in (x, weight, bias)]
    out, mean, rstd = lowering.forward(*plain, n, channels, values, groups, eps)  # type: ignore[arg-type]
    torch.testing.assert_close(out, y.detach(), **CLOSE)
    grouped = x.detach().reshape(n, groups, -1)
    torch.testing.assert_close(mean, grouped.mean(2), **CLOSE)
    torch.testing.assert_close(rstd, (grouped.var(2, correction=0) + eps).rsqrt(), **CLOSE)
    found = lowering.backward(
        grad,
        plain[0],
        mean,
        rstd,
        plain[1],
        n,
        channels,
        values,
        groups,
        [True, affine, affine],  # type: ignore[arg-type]
    )
    for ours, torchs in zip([g for g in found if g is not None], wanted, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-8, atol=1e-8)


def test_group_norms_of_one_shape_must_agree_on_eps() -> None:
    lowering = GroupNormLowering()
    arguments = (draw(2, 4, 3), None, None, 2, 4, 3, 2)
    lowering.forward(*arguments, 1e-5)
    lowering.forward(*arguments, 1e-5)
    with pytest.raises(ExportError, match="differ in eps"):
        lowering.forward(*arguments, 1e-3)


@pytest.mark.parametrize("sizes", [[4], [1, 3], [2, 0, 2], [1, 1, 2]])
@pytest.mark.parametrize("dim", [0, 1])
def test_split(sizes: list[int], dim: int) -> None:
    x = draw(4, 4)
    for ours, torchs in zip(split_with_sizes(x, sizes, dim), x.split(sizes, dim), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("affine", [True, False])
def test_the_table_is_what_tracing_uses(affine: bool) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, 2, padding=1, bias=False),
        torch.nn.GroupNorm(4, 8, affine=affine),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.GroupNorm(2, 8, affine=affine),
        torch.nn.Conv2d(8, 2, 1),
    ).double()
    values = {name: p.detach() for name, p in network.named_parameters()}

    def gradient(values: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        leaves = {name: v.detach().requires_grad_() for name, v in values.items()}
        with torch.enable_grad():
            loss = torch.func.functional_call(network, leaves, (x,)).square().sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    x = draw(3, 1, 6, 7)
    graph = make_fx(gradient, decomposition_table=decompositions())(values, x)
    used = {str(node.target) for node in graph.graph.nodes}
    assert not {name for name in used if "backward" in name or "group_norm" in name or "split" in name}
    other = {name: v * 1.5 + 0.1 for name, v in values.items()}
    found, wanted = graph(other, 2 * x), gradient(other, 2 * x)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * float(value.abs().max()))
