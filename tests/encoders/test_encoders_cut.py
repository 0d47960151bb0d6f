"""Cuts for latent replay: where they can be, and the adapter behind the last stage."""

from __future__ import annotations

import pytest
import torch

from edgessl.encoders import build_encoder
from edgessl.encoders.cut import ADAPTER, ResidualAdapter, cut_encoder, cut_points
from edgessl.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "shape", "points"),
    [
        ("ds_cnn_s", (1, 16, 16), ("stem", "block1", "block2", "block3", "block4", "pool")),
        ("resnet8", (3, 16, 16), ("stem", "block1", "block2", "pool")),
        ("cnn1d", (6, 64), ("stem", "block1", "block2", "pool")),
        ("vit", (1, 16, 16), ("patches", "block1", "block2", "block3", "pool")),  # its pool has a norm to train
    ],
)
def test_points_have_something_to_learn_behind_them(name: str, shape: tuple[int, ...], points: tuple[str, ...]) -> None:
    encoder = build_encoder(name, shape).eval()
    assert cut_points(encoder) == points
    x = torch.rand(3, *shape)
    for cut in points:
        backbone, tail = cut_encoder(encoder, cut)
        assert torch.equal(tail(backbone(x)), encoder(x))
        assert sum(p.numel() for p in tail.parameters()) > 0
        assert not tail.training
        assert tail.input_shape == backbone.output_shape
        assert tail.embedding_dim == encoder.embedding_dim


def test_behind_the_last_stage_an_adapter_learns_from_the_identity_on() -> None:
    encoder = build_encoder("cnn1d", (3, 32))
    backbone, tail = cut_encoder(encoder, "pool", seed=5)
    assert backbone is encoder
    assert tail.training
    assert tail.stage_names == (ADAPTER,)
    z = torch.randn(4, 128)
    assert torch.equal(tail(z), z)
    tail(z).square().sum().backward()
    gradients = {name: p.grad.abs().max() for name, p in tail.named_parameters()}
    assert gradients["stages.adapter.up.weight"] > 0  # so the identity is no resting point


def test_the_adapter_is_what_its_formula_says_and_its_seed_decides() -> None:
    before = torch.random.get_rng_state()
    a, b, c = ResidualAdapter(6, seed=1), ResidualAdapter(6, seed=1), ResidualAdapter(6, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a.down.weight, b.down.weight)
    assert not torch.equal(a.down.weight, c.down.weight)
    with torch.no_grad():
        a.up.weight.copy_(torch.randn(6, a.up.in_features))
    a, z = a.double(), torch.randn(5, 6, dtype=torch.float64)
    h = z @ a.down.weight.T
    h = (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, unbiased=False, keepdim=True) + 1e-5)
    torch.testing.assert_close(a(z), z + h.clamp(min=0) @ a.up.weight.T)


@pytest.mark.parametrize("cut", ["block5", "block9", "", "adapter"])
def test_impossible_cuts_list_the_possible_ones(cut: str) -> None:
    encoder = build_encoder("ds_cnn_s", (1, 16, 16))
    with pytest.raises(ConfigError, match="Cuts: stem, block1, block2, block3, block4, pool"):
        cut_encoder(encoder, cut)
