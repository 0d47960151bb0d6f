"""The registry: sizes, shapes, options, refusals and reproducible weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from edgessl.encoders import ENCODERS, Encoder, build_encoder, encoder_names
from edgessl.errors import ConfigError, InputError

COUNTS = {
    ("ds_cnn_s", (1, 28, 28)): 35_584,
    ("ds_cnn_m", (1, 28, 28)): 133_632,
    ("ds_cnn_l", (1, 28, 28)): 517_120,
    ("resnet8", (3, 32, 32)): 77_392,
    ("resnet18", (3, 32, 32)): 11_168_832,
    ("vit", (3, 32, 32)): 345_696,
    ("cnn1d", (6, 128)): 73_600,
    ("signal_transformer", (6, 128)): 340_320,
    ("token_transformer", (1, 64)): 365_664,
    ("word_vectors", (1, 64)): 24_672,
    ("mlp", (128,)): 4 * (128 * 128 + 128) + 3 * 2 * 128,
    ("pair", (6 * 128 + 128,)): 73_600 + 72_480,
}
DIMS = {
    "ds_cnn_s": 128,
    "ds_cnn_m": 256,
    "ds_cnn_l": 512,
    "resnet8": 64,
    "resnet18": 512,
    "vit": 96,
    "cnn1d": 128,
    "signal_transformer": 96,
    "token_transformer": 96,
    "word_vectors": 96,
    "mlp": 128,
    "pair": 256,
}
OPTIONS: dict[str, dict[str, Any]] = {"pair": {"first_shape": [6, 128], "second_shape": [1, 128]}}
TRANSFORMERS = ("vit", "signal_transformer", "token_transformer")
IMAGES = [(1, 16, 16), (1, 28, 28), (3, 32, 32)]
SIGNALS = [(6, 128), (1, 1024)]


def shapes(name: str) -> list[tuple[int, ...]]:
    of_kind = {"signal": SIGNALS, "tokens": [(1, 16), (1, 64)], "pair": [(6 * 128 + 128,)], "features": [(5,), (128,)]}
    return list(of_kind.get(ENCODERS[name].kinds[0], IMAGES))


def build(name: str, shape: tuple[int, ...], **arguments: Any) -> Encoder:
    return build_encoder(name, shape, **OPTIONS.get(name, {}), **arguments)


def samples(name: str, shape: tuple[int, ...], **options: Any) -> torch.Tensor:
    """Uniform values, or ids of all the vocabulary."""
    x = torch.rand(4, *shape, **options)
    return torch.floor(256 * x) if ENCODERS[name].kinds == ("tokens",) else x


def test_registry_lists_what_is_tested_here() -> None:
    assert encoder_names() == tuple(DIMS)
    assert {name for name, _ in COUNTS} == set(DIMS)


@pytest.mark.parametrize(("name", "shape"), COUNTS)
def test_parameter_count(name: str, shape: tuple[int, ...]) -> None:
    encoder = build(name, shape)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == COUNTS[name, shape]


def test_count_of_ds_cnn_s_by_hand() -> None:
    channels = [16, 32, 64, 64, 128, 128]
    expected = 9 * 16 + 2 * 16
    for before, after in pairwise(channels):
        expected += 9 * before + 2 * before + before * after + 2 * after
    assert expected == COUNTS["ds_cnn_s", (1, 28, 28)]


@pytest.mark.parametrize("name", DIMS)
def test_shapes(name: str) -> None:
    for shape in shapes(name):
        encoder = build(name, shape)
        assert encoder.input_shape == shape
        assert encoder.output_shape == (DIMS[name],)
        assert encoder.embedding_dim == DIMS[name]
        assert encoder.stage_names[-1] == "pool"
        assert encoder.training
        embedding = encoder(samples(name, shape))
        assert embedding.shape == (4, DIMS[name])
        assert embedding.dtype == torch.float32


def test_spectrogram_need_not_be_square() -> None:
    assert build_encoder("ds_cnn_s", (1, 40, 101))(torch.rand(2, 1, 40, 101)).shape == (2, 128)
    assert build_encoder("vit", (1, 40, 100))(torch.rand(2, 1, 40, 100)).shape == (2, 96)


@pytest.mark.parametrize("name", DIMS)
def test_channels_are_multiples_of_16(name: str) -> None:
    for path, module in build(name, shapes(name)[0]).named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            assert module.out_channels % 16 == 0, path
            assert module.in_channels % 16 == 0 or path.endswith("stages.stem.conv"), path
        elif isinstance(module, nn.Linear):
            assert module.out_features % 16 == 0, path


def test_stem_stride_follows_the_size_of_the_input() -> None:
    def latent(shape: tuple[int, ...], **options: Any) -> tuple[int, ...]:
        return build_encoder("ds_cnn_s", shape, **options).split("block5")[0].output_shape

    assert latent((1, 20, 20)) == (128, 5, 5)
    assert latent((1, 21, 21)) == (128, 3, 3)
    assert latent((1, 21, 21), stem_stride=1) == (128, 6, 6)
    assert latent((1, 16, 64)) == (128, 4, 16)


@pytest.mark.parametrize(
    ("shape", "options", "tokens"),
    [
        ((1, 16, 16), {}, 16),
        ((1, 28, 28), {}, 49),
        ((3, 32, 32), {}, 64),
        ((3, 64, 64), {}, 64),
        ((1, 40, 100), {}, 40),
        ((1, 16, 16), {"patch": 2}, 64),
    ],
)
def test_vit_tokens(shape: tuple[int, ...], options: dict[str, Any], tokens: int) -> None:
    assert build_encoder("vit", shape, **options).split("patches")[0].output_shape == (tokens, 96)


def test_vit_cuts_patches_like_a_strided_convolution() -> None:
    encoder = build_encoder("vit", (3, 16, 32))
    embedding: Any = encoder.stages[0]
    weight = embedding.embed.weight.reshape(96, 3, 4, 4)
    x = torch.rand(2, 3, 16, 32)
    expected = nn.functional.conv2d(x, weight, embedding.embed.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(x), expected + embedding.position, atol=1e-5, rtol=1e-5)


def test_vit_attention_is_scaled_dot_product_attention() -> None:
    block: Any = build_encoder("vit", (1, 16, 16)).stages[1]
    attention = block.attention
    x = torch.randn(2, 16, 96)
    heads = (part.reshape(2, 16, 3, 32).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 16, 96)
    torch.testing.assert_close(attention(x), attention.out(mixed), atol=1e-6, rtol=1e-5)


def test_only_positions_are_exempt_from_decay() -> None:
    for name in DIMS:
        encoder = build(name, shapes(name)[0])
        positions = {f"stages.{encoder.stage_names[0]}.position"} if name in TRANSFORMERS else frozenset()
        assert encoder.no_decay == positions
        assert encoder.no_decay <= dict(encoder.named_parameters()).keys()


@pytest.mark.parametrize("name", DIMS)
def test_every_parameter_has_a_gradient_above_rounding(name: str) -> None:
    """Where it is zero in theory (a key bias, a bias before a norm), Adam walks on rounding noise."""
    generator = torch.Generator().manual_seed(0)
    shape = shapes(name)[0]
    encoder = build(name, shape).double()
    embedding = encoder(samples(name, shape, generator=generator, dtype=torch.float64))
    weights = torch.randn(embedding.shape, generator=generator, dtype=torch.float64)
    (embedding * weights).sum().backward()
    for path, parameter in encoder.named_parameters():
        assert parameter.grad is not None, path
        rows = parameter.grad.reshape(len(parameter), -1).abs().amax(1)
        # a ReLU may silence single channels; transformers have none, so each row must count
        assert (rows.min() if name in TRANSFORMERS else rows.max()) > 1e-6, path


def test_input_is_normalized_per_channel_inside() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 2.0, 4.0]
    plain = build_encoder("resnet8", (3, 16, 16))
    normalizing = build_encoder("resnet8", (3, 16, 16), mean=mean, std=std)
    x = torch.rand(2, 3, 16, 16)
    scaled = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalizing(x), plain(scaled), atol=1e-6, rtol=1e-5)
    buffers = dict(normalizing.named_buffers())
    assert {name: tuple(b.shape) for name, b in buffers.items()} == {
        "normalize.mean": (3, 1, 1),
        "normalize.std": (3, 1, 1),
    }
    signal = dict(build_encoder("cnn1d", (6, 64)).named_buffers())
    assert tuple(signal["normalize.mean"].shape) == (6, 1)


@pytest.mark.parametrize("name", DIMS)
def test_seed_decides_the_weights_and_global_generator_is_untouched(name: str) -> None:
    shape = shapes(name)[0]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(name, shape, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (
        build(name, shape, seed=1).state_dict(),
        build(name, shape, seed=2).state_dict(),
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", DIMS)
def test_initial_embeddings_tell_inputs_apart(name: str) -> None:
    shape = shapes(name)[0]
    embedding = build(name, shape).eval()(samples(name, shape, generator=torch.Generator().manual_seed(0)))
    assert embedding.isfinite().all()
    assert embedding.std(0).mean() > 1e-3


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "message"),
    [
        ("resnet9", (1, 16, 16), {}, "unknown encoder 'resnet9'; known: ds_cnn_s, ds_cnn_m"),
        ("resnet8", (1, 16, 16), {"width": 3}, "unknown option 'width'; it takes norm"),
        ("ds_cnn_s", (1, 16, 16), {"norms": "group"}, "it takes norm, stem_stride"),
        (
            "ds_cnn_s",
            (1, 16, 16),
            {"norm": "layer"},
            "unknown norm 'layer'; convolutional encoders take group, batch",
        ),
        ("ds_cnn_s", (1, 16, 16), {"stem_stride": 3}, "expected 1 or 2, found 3"),
        ("cnn1d", (1, 16, 16), {}, r"expected the shape of one signal \(C, T\), found \(1, 16, 16\)"),
        ("vit", (6, 128), {}, r"image \(C, H, W\) or spectrogram \(C, F, T\), found \(6, 128\)"),
        ("resnet8", (1, 0, 16), {}, r"found \(1, 0, 16\)"),
        ("vit", (1, 16, 16), {"norm": "group"}, "unknown norm 'group'; the vit takes layer"),
        ("vit", (1, 16, 16), {"patch": 5}, "expected a divisor of 16 and 16, found 5"),
        ("vit", (1, 16, 16), {"patch": 4.0}, "found 4.0"),
        ("vit", (1, 40, 101), {}, "no patch of 4 pixels or more cuts 40 x 101 into 64 tokens"),
        ("resnet8", (3, 16, 16), {"mean": [0.5]}, "3 input channels but 1 means"),
        ("resnet8", (1, 16, 16), {"mean": [0.5], "std": [0.5, 0.5]}, "1 means but 2 stds"),
        ("resnet8", (1, 16, 16), {"mean": [0.5], "std": [0.0]}, "finite and positive"),
        ("resnet8", (1, 16, 16), {"mean": [float("nan")], "std": [1.0]}, "means must be finite"),
    ],
)
def test_refusals(name: str, shape: tuple[int, ...], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(name, shape, **arguments)


def test_wrong_sample_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(N, 1, 16, 16\), found \(2, 1, 16, 17\)"):
        build_encoder("resnet8", (1, 16, 16))(torch.rand(2, 1, 16, 17))
