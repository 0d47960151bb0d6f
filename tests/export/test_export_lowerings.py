"""Every lowering equals torch's own autograd, in float64, over shapes that hit every branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from edgessl.errors import ExportError
from export.lowerings import Choices, Lowerings
from export.lowerings.activations import gelu, gelu_backward
from export.lowerings.convolution import FORMS, ConvolutionLowering, possible, possible_on_gpu
from export.lowerings.norms import GroupNormLowering, LayerNormLowering, Standardisation
from export.lowerings.splitting import pad_vector, split_with_sizes

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
QUICK = settings(max_examples=25, deadline=None, derandomize=True)


class Always(Choices):
    """Takes each possible form in turn, so that a form is tested wherever it is possible."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted = wanted

    def take(self, family: str, sizes: Any, possible: Any, rule: str) -> str:
        self.taken[f"{family} {sizes}"] = form = possible[self.wanted % len(possible)]
        return form


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_convolution(
    size: list[int], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
    n: int = 2, c_in: int = 2, c_out: int = 3, groups: int = 1, bias: bool = True, turn: int = 0, gpu: bool = False,
) -> dict[str, str]:  # fmt: skip
    rank, choices = len(size), Always(turn)
    lowering = ConvolutionLowering(choices, possible_on_gpu if gpu else possible)
    x = draw(n, c_in * groups, *size, seed=1).requires_grad_()
    weight = draw(c_out * groups, c_in, *kernel, seed=2).requires_grad_()
    b = draw(c_out * groups, seed=3).requires_grad_() if bias else None
    y = (F.conv1d if rank == 1 else F.conv2d)(x, weight, b, stride, padding, dilation, groups)
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [x, weight] + ([b] if b is not None else []), grad)
    where = stride, padding, dilation, False, [0] * rank, groups
    plain = [t if t is None else t.detach() for t in (x, weight, b)]
    out = lowering.forward(*plain, *where)  # type: ignore[arg-type]
    if out is not NotImplemented:
        torch.testing.assert_close(out, y.detach(), **CLOSE)
    found = lowering.backward(
        grad, plain[0], plain[1], [c_out * groups] if bias else None, *where, [True, True, bias]
    )  # type: ignore[arg-type]  # fmt: skip
    assert (found[2] is not None) == bias
    for ours, torchs in zip(found[: len(wanted)], wanted, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torchs, **CLOSE)
    return {site.split()[0]: form for site, form in choices.taken.items()}


@st.composite
def convolutions(draws: Any, rank: int) -> dict[str, Any]:
    pick = lambda low, high: [draws(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    kernel, stride, dilation, padding = pick(1, 4), pick(1, 3), pick(1, 2), pick(0, 2)
    # any remainder of (size - reach) by the stride: what output padding of the input gradient is for
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + extra for low, extra in zip(least, pick(0, 6), strict=True)]
    return {
        "size": size, "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation,
        "n": draws(st.integers(1, 3)), "turn": draws(st.integers(0, 2)), "gpu": draws(st.booleans()),
    }  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2])
@QUICK
@given(data=st.data(), c_in=st.sampled_from([1, 2, 9]), c_out=st.integers(1, 3), groups=st.integers(1, 3))
def test_convolution(rank: int, data: st.DataObject, c_in: int, c_out: int, groups: int) -> None:
    sizes = data.draw(convolutions(rank))
    check_convolution(**sizes, c_in=c_in, c_out=c_out, groups=groups, bias=data.draw(st.booleans()))


@pytest.mark.parametrize("rank", [1, 2])
@QUICK
@given(data=st.data(), channels=st.integers(2, 5))
def test_depthwise_convolution(rank: int, data: st.DataObject, channels: int) -> None:
    check_convolution(**data.draw(convolutions(rank)), c_in=1, c_out=1, groups=channels, bias=data.draw(st.booleans()))


@QUICK
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    c_in=st.integers(8, 10),
    c_out=st.integers(1, 4),
    n=st.integers(1, 3),
    turn=st.integers(0, 3),
)
def test_3x3_convolution(size: tuple[int, ...], c_in: int, c_out: int, n: int, turn: int) -> None:
    check_convolution(list(size), [3, 3], [1, 1], [1, 1], [1, 1], n=n, c_in=c_in, c_out=c_out, turn=turn)


def test_every_form_is_possible_somewhere_and_agrees_with_torch() -> None:
    same: dict[str, Any] = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    taken: dict[str, set[str]] = {family: set() for family in FORMS}
    for turn in range(4):
        for sizes in (
            {**same, "kernel": [1, 1], "padding": [0, 0], "c_in": 9},
            {**same, "c_in": 9},
            {**same, "stride": [2, 2], "c_in": 1},
            {**same, "c_in": 1, "c_out": 1, "groups": 4, "size": [5, 6]},
        ):
            for gpu in (False, True):
                for family, form in check_convolution(**{"size": [12, 11], **sizes}, turn=turn, gpu=gpu).items():
                    taken[family].add(form)
    assert taken == {family: set(forms) for family, forms in FORMS.items()}


@pytest.mark.parametrize("rank", [1, 2])
@QUICK
@given(data=st.data(), groups=st.integers(1, 2), extra=st.integers(0, 1))
def test_transposed_convolution(rank: int, data: st.DataObject, groups: int, extra: int) -> None:
    sizes = data.draw(convolutions(rank))
    stride, padding, dilation = sizes["stride"], sizes["padding"], sizes["dilation"]
    more = [min(extra, s - 1) for s in stride]
    reach = [d * (k - 1) + 1 + m for d, k, m in zip(dilation, sizes["kernel"], more, strict=True)]
    size = [
        max(length, -(-(2 * p + 1 - r) // s) + 1)
        for length, p, r, s in zip(sizes["size"], padding, reach, stride, strict=True)
    ]
    x = draw(2, 2 * groups, *size, seed=1).requires_grad_()
    weight = draw(2 * groups, 3, *sizes["kernel"], seed=2).requires_grad_()
    bias = draw(3 * groups, seed=3).requires_grad_()
    transpose = F.conv_transpose1d if rank == 1 else F.conv_transpose2d
    y = transpose(x, weight, bias, stride, padding, more, groups, dilation)
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [x, weight, bias], grad)
    lowering = ConvolutionLowering(Always(sizes["turn"]), possible_on_gpu if sizes["gpu"] else possible)
    found = lowering.backward(
        grad, x.detach(), weight.detach(), [3 * groups], stride, padding, dilation, True, more, groups, [True] * 3
    )
    for ours, torchs in zip(found, wanted, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torchs, **CLOSE)


def test_a_measured_form_is_taken_where_it_is_possible() -> None:
    x, weight = draw(2, 9, 12, 12), draw(4, 9, 3, 3)
    where: tuple[Any, ...] = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    rule = Choices()
    ConvolutionLowering(rule).backward(draw(2, 4, 12, 12), x, weight, *where)
    ((site, form),) = rule.taken.items()
    assert (site, form) == ("weight_gradient 2x9x12x12 -> 4x12x12 k3x3 s1x1 p1x1 d1x1 g1", "by_column")
    assert possible(*rule.open_sites[site])[0] == "by_column"
    for measured, wanted in (("patches", "patches"), ("dense", "by_column")):
        choices = Choices({site: measured})
        ConvolutionLowering(choices).backward(draw(2, 4, 12, 12), x, weight, *where)
        assert choices.taken == {site: wanted}


def test_gradients_that_nobody_wants_are_not_computed() -> None:
    grad, x, weight = draw(2, 3, 4, 4), draw(2, 2, 4, 4), draw(3, 2, 3, 3)
    common = (grad, x, weight, [3], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    for mask in ([True, False, False], [False, True, False], [False, False, True]):
        assert [g is not None for g in ConvolutionLowering(Choices()).backward(*common, mask)] == mask


def test_a_3d_convolution_is_refused() -> None:
    x = draw(1, 1, 2, 2, 2)
    with pytest.raises(ExportError, match="of a 3-D convolution"):
        ConvolutionLowering(Choices()).backward(
            x, x, draw(1, 1, 1, 1, 1), None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1, [True, True, False]
        )


@QUICK
@given(
    n=st.integers(1, 3),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 3),
    spatial=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-2]),
    portable=st.booleans(),
)
def test_group_norm(
    n: int, groups: int, per_group: int, spatial: list[int], affine: bool, eps: float, portable: bool
) -> None:
    channels, values = groups * per_group, 1
    for side in spatial:
        values *= side
    x = draw(n, channels, *spatial, seed=1).requires_grad_()
    weight, bias = (draw(channels, seed=s).requires_grad_() if affine else None for s in (2, 3))
    y = torch.group_norm(x, groups, weight, bias, eps)  # as F.group_norm, which refuses single values
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], grad)

    lowering = GroupNormLowering(Standardisation(portable))
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


@QUICK
@given(
    rows=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    affine=st.booleans(),
    portable=st.booleans(),
)
def test_layer_norm(rows: list[int], shape: list[int], affine: bool, portable: bool) -> None:
    x = draw(*rows, *shape, seed=1).requires_grad_()
    weight, bias = (draw(*shape, seed=s).requires_grad_() if affine else None for s in (2, 3))
    y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, 1e-3)
    grad = draw(*y.shape, seed=4)
    wanted = torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], grad)
    lowering = LayerNormLowering(Standardisation(portable))
    plain = [None if t is None else t.detach() for t in (x, weight, bias)]
    out = lowering.forward(plain[0], shape, plain[1], plain[2], 1e-3)  # type: ignore[arg-type]
    assert (out is NotImplemented) != portable
    if portable:
        for ours, torchs in zip(out, (y, mean, rstd), strict=True):
            torch.testing.assert_close(ours, torchs.detach(), **CLOSE)
    found = lowering.backward(
        grad, plain[0], shape, mean, rstd, plain[1], plain[2], [True, affine, affine]  # type: ignore[arg-type]
    )  # fmt: skip
    for ours, torchs in zip([g for g in found if g is not None], wanted, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-8, atol=1e-8)


def test_group_norms_of_one_shape_must_agree_on_eps() -> None:
    lowering = GroupNormLowering(Standardisation(portable=False))
    arguments = (draw(2, 4, 3), None, None, 2, 4, 3, 2)
    lowering.forward(*arguments, 1e-5)
    lowering.forward(*arguments, 1e-5)
    with pytest.raises(ExportError, match="differ in eps"):
        lowering.forward(*arguments, 1e-3)


def test_gelu() -> None:
    x = torch.linspace(-9.0, 9.0, 301, dtype=torch.float64).requires_grad_()
    y, grad = F.gelu(x), draw(301)
    (wanted,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(gelu(x.detach()), y.detach(), **CLOSE)
    torch.testing.assert_close(gelu_backward(grad, x.detach()), wanted, **CLOSE)
    assert gelu(x, approximate="tanh") is gelu_backward(grad, x, approximate="tanh") is NotImplemented


@pytest.mark.parametrize("sizes", [[4], [1, 3], [2, 0, 2], [1, 1, 2]])
@pytest.mark.parametrize("dim", [0, 1])
def test_split(sizes: list[int], dim: int) -> None:
    x = draw(4, 4)
    for ours, torchs in zip(split_with_sizes(x, sizes, dim), x.split(sizes, dim), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("pad", [[0, 3], [2, 0], [1, 4], [0, 0]])
def test_padding_of_a_vector(pad: list[int]) -> None:
    assert torch.equal(pad_vector(draw(5), pad, 0.5), F.pad(draw(5), pad, value=0.5))


def test_other_paddings_stay_operators() -> None:
    assert pad_vector(draw(5), [-1, 2]) is pad_vector(draw(5, 5), [0, 1]) is NotImplemented


@pytest.mark.parametrize(("affine", "flavour"), [(True, "fast"), (False, "fast"), (True, "portable")])
def test_the_table_is_what_tracing_uses(affine: bool, flavour: str) -> None:
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
    graph = make_fx(gradient, decomposition_table=Lowerings(flavour).table())(values, x)
    used = {str(node.target) for node in graph.graph.nodes}
    assert any("native_layer_norm" in name for name in used) == (flavour == "fast")
    assert not {name for name in used if "backward" in name or "group_norm" in name or "split" in name}
    other = {name: v * 1.5 + 0.1 for name, v in values.items()}
    found, wanted = graph(other, 2 * x), gradient(other, 2 * x)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * float(value.abs().max()))
