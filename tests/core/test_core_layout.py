"""The flat parameter layout."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgessl.device.bundle.specs import KINDS
from edgessl.encoders import ENCODERS, BatchNorm, build_encoder
from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout

LEAVES = {
    "linear": lambda: nn.Linear(3, 2),
    "plain": lambda: nn.Linear(2, 2, bias=False),
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "norm": lambda: BatchNorm(4),
    "layer_norm": lambda: nn.LayerNorm(3),
    "buffer": lambda: Offset(),
    "empty": nn.ReLU,
}


class Offset(nn.Module):
    """A scalar parameter, a fixed buffer of two axes and a matrix that must not decay."""

    no_decay = frozenset({"position"})

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.position = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("table", torch.randn(2, 2))


trees = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def build(tree: object) -> nn.Module:
    if isinstance(tree, str):
        return LEAVES[tree]()
    assert isinstance(tree, dict)
    module = nn.Module()
    for name, child in tree.items():
        module.add_module(name, build(child))
    return module


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tree=trees.filter(lambda t: bool(tensors(build(t)))))
def test_any_tree_of_modules_goes_in_and_out(tree: object) -> None:
    module = build(tree)
    layout = ParameterLayout.of(module)
    values = {name: tensor.detach().clone() for name, tensor in tensors(module).items()}

    # every tensor once, without gaps, kinds in their order
    assert sorted(e.name for e in layout.entries) == sorted(values)
    end = 0
    for entry in layout.entries:
        assert (entry.offset, entry.shape) == (end, tuple(values[entry.name].shape))
        end += values[entry.name].numel()
    assert layout.size == end
    ranks = [KINDS.index(e.kind) for e in layout.entries]
    assert ranks == sorted(ranks)
    ends = [sum(e.size for e in layout.entries if KINDS.index(e.kind) <= rank) for rank in range(4)]
    assert [layout.weights_end, layout.trained_end, layout.statistics_end, layout.size] == ends

    # flatten -> unflatten, by name and through the module
    flat = layout.flatten_module(module)
    assert torch.equal(flat, layout.flatten(dict(reversed(values.items()))))
    for name, value in layout.unflatten(flat).items():
        assert torch.equal(value, values[name])
    replacement = torch.randn_like(flat)
    layout.load_module(module, replacement)
    assert torch.equal(layout.flatten_module(module), replacement)
    for entry in layout.entries:
        there = tensors(module)[entry.name].detach()
        assert torch.equal(there.reshape(-1), replacement[entry.offset : entry.offset + entry.size])


def test_kinds() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "n": BatchNorm(2), "o": Offset()})
    kinds = {e.name: e.kind for e in ParameterLayout.of(module).entries}
    assert kinds == {
        "a.weight": "weight",
        "a.bias": "vector",
        "n.weight": "vector",
        "n.bias": "vector",
        "o.scale": "vector",
        "o.position": "vector",  # a matrix, but the module says that it must not decay
        "n.running_mean": "statistic",
        "n.running_var": "statistic",
        "o.table": "fixed",
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_kinds_of_the_encoders(name: str) -> None:
    shapes = {"signal": (3, 64), "image": (1, 16, 16), "tokens": (1, 16), "pair": (96,), "features": (8,)}
    options = {"pair": {"first_shape": [2, 32], "second_shape": [1, 32]}, "tokens": {"vocabulary": 9}}
    kind = ENCODERS[name].kinds[0]
    encoder = build_encoder(name, shapes[kind], **options.get(kind, {}))
    kinds = {e.name: e.kind for e in ParameterLayout.of(encoder).entries}
    assert {n for n, kind in kinds.items() if kind == "fixed"} == {"normalize.mean", "normalize.std"}
    assert {n for n, kind in kinds.items() if kind == "weight"} == {
        n for n, p in encoder.named_parameters() if p.ndim > 1 and n not in encoder.no_decay
    }


def test_flat_vectors_are_copies_going_in_and_views_coming_out() -> None:
    module = nn.Linear(2, 2)
    layout = ParameterLayout.of(module)
    flat = layout.flatten_module(module)
    flat.zero_()
    assert module.weight.detach().any()
    layout.unflatten(flat)["weight"].fill_(3.0)
    assert flat.tolist() == [3.0] * 4 + [0.0] * 2


def test_unflatten_is_differentiable() -> None:
    layout = ParameterLayout.of(nn.Linear(2, 1))
    flat = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    parts = layout.unflatten(flat)
    (10 * parts["weight"].sum() + parts["bias"].sum()).backward()
    assert flat.grad is not None
    assert flat.grad.tolist() == [10.0, 10.0, 1.0]


def test_flat_vectors_have_their_tensors_dtype_and_modules_give_float32() -> None:
    layout = ParameterLayout.of(nn.Linear(2, 1))
    for dtype in (torch.float64, torch.float32, torch.float16):
        assert (
            layout.flatten({"weight": torch.ones(1, 2, dtype=dtype), "bias": torch.ones(1, dtype=dtype)}).dtype == dtype
        )
    assert layout.flatten_module(nn.Linear(2, 1).double()).dtype == torch.float32


def test_entries_survive_json() -> None:
    layout = ParameterLayout.of(build_encoder("ds_cnn_s", (1, 8, 8), norm="batch"))
    again = json.loads(json.dumps([e.to_json() for e in layout.entries]))
    assert [(e["name"], e["offset"], tuple(e["shape"]), e["kind"]) for e in again] == [
        (e.name, e.offset, e.shape, e.kind) for e in layout.entries
    ]


def test_errors_name_what_is_wrong() -> None:
    layout = ParameterLayout.of(nn.Linear(2, 3))
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    with pytest.raises(ConfigError, match=r"missing tensors \['bias'\], unknown tensors \['gain'\]"):
        layout.flatten({"weight": good["weight"], "gain": good["bias"]})
    with pytest.raises(ConfigError, match=r"weight expected shape \(3, 2\), found \(2, 3\)"):
        layout.flatten({**good, "weight": torch.ones(2, 3)})  # as many numbers, and still refused
    for wrong in (torch.ones(8), torch.ones(10), torch.ones(1, 9)):
        with pytest.raises(ConfigError, match="expected a vector of 9 numbers"):
            layout.unflatten(wrong)
    with pytest.raises(ConfigError, match=r"buffer num_batches_tracked is torch\.int64"):
        ParameterLayout.of(nn.BatchNorm1d(2))
