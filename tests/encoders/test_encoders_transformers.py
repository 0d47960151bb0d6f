"""Transformers of signals and tokens, word vectors, and towers side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder, build_encoder
from edgessl.encoders.transformer import Attention, is_causal
from edgessl.errors import ConfigError

torch.set_num_threads(1)

SMALL = {"width": 16, "depth": 2, "heads": 2}
PHONE_AND_SOUND = {
    "first": "cnn1d", "first_shape": [3, 32],
    "second": "ds_cnn_s", "second_shape": [1, 8, 10], "second_options": {"norm": "batch"},
}  # fmt: skip


def ids(n: int, length: int, vocabulary: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (n, 1, length))).float()


def token_encoder(causal: bool, **options: Any) -> Encoder:
    return build_encoder("token_transformer", (1, 10), vocabulary=7, causal=causal, **{**SMALL, **options})


def test_causal_attention_is_torchs() -> None:
    attention = Attention(16, 2, causal=True)
    x = torch.randn(3, 6, 16)
    heads = (part.reshape(3, 6, 2, 8).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(3, 6, 16)
    torch.testing.assert_close(attention(x), attention.out(mixed), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["tokens", "signal"])
def test_a_causal_encoder_does_not_see_what_comes(kind: str) -> None:
    if kind == "tokens":
        encoder, x, per_token = token_encoder(causal=True), ids(2, 10, 7), 1
        changed = (x[..., 6] + 1) % 7
    else:
        encoder = build_encoder("signal_transformer", (2, 40), patch=4, causal=True, **SMALL)
        x, per_token = torch.randn(2, 2, 40), 4
        changed = x[..., 6 * per_token] + 1
    assert is_causal(encoder)
    later = x.clone()
    later[..., 6 * per_token] = changed
    before, after = encoder.features(x), encoder.features(later)
    assert torch.equal(before[:, :6], after[:, :6])
    assert ((before - after)[:, 6:].abs().amax(2) > 1e-6).all()  # and everything after does see it


def test_without_causal_every_token_sees_every_other() -> None:
    encoder, x = token_encoder(causal=False), ids(2, 10, 7)
    assert not is_causal(encoder)
    later = x.clone()
    later[..., 6] = (x[..., 6] + 1) % 7
    assert ((encoder.features(x) - encoder.features(later)).abs().amax(2) > 1e-6).all()


def test_tokens_are_looked_up() -> None:
    stage: Any = token_encoder(causal=False).stages[0]
    x = ids(4, 10, 7)
    expected = nn.functional.embedding(x.squeeze(1).long(), stage.embed.weight.T) + stage.position
    torch.testing.assert_close(stage(x), expected)
    mask = torch.full((1, 1, 10), 7.0)
    torch.testing.assert_close(stage(mask)[0], stage.embed.weight[:, 7] + stage.position)
    # what is no id, which data and device refuse, stands for nothing
    torch.testing.assert_close(stage(torch.full((1, 1, 10), 0.5))[0], stage.position)


def test_word_vectors_are_averaged() -> None:
    encoder = build_encoder("word_vectors", (1, 5), vocabulary=7, width=4)
    table: Tensor = encoder.stages[0].embed.weight.T
    torch.testing.assert_close(encoder(torch.tensor([[[0.0, 0, 3, 6, 6]]]))[0], table[[0, 0, 3, 6, 6]].mean(0))


def test_patches_of_a_signal_are_a_strided_convolution() -> None:
    encoder = build_encoder("signal_transformer", (3, 40), patch=8, **SMALL)
    embedding: Any = encoder.stages[0]
    x = torch.rand(2, 3, 40)
    weight = embedding.embed.weight.reshape(16, 3, 8)
    expected = nn.functional.conv1d(x, weight, embedding.embed.bias, stride=8).transpose(1, 2)
    torch.testing.assert_close(embedding(x), expected + embedding.position, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("steps", "tokens"), [(128, 32), (8000, 64), (1024, 64), (50, 10), (4, 1)])
def test_default_patches_of_a_signal(steps: int, tokens: int) -> None:
    assert build_encoder("signal_transformer", (1, steps), **SMALL).feature_shape == (tokens, 16)


def test_options_set_the_size() -> None:
    encoder = build_encoder("vit", (1, 16, 16), width=32, depth=1, heads=4)
    assert (encoder.stage_names, encoder.embedding_dim) == (("patches", "block1", "pool"), 32)
    # patch embedding and positions, one block of 12 d^2 + 10 d (no bias of q, k, v), final norm
    d, count = 32, sum(parameter.numel() for parameter in encoder.parameters())
    assert count == (16 * d + d + 16 * d) + (12 * d * d + 10 * d) + 2 * d


def test_a_pair_is_its_two_towers() -> None:
    mean, std = np.linspace(-1, 1, 176), np.linspace(0.5, 2, 176)
    pair = build_encoder("pair", (176,), mean=mean, std=std, **PHONE_AND_SOUND).eval()
    assert (pair.embedding_dim, pair.stage_names, pair.tokenized) == (256, ("towers", "pool"), False)
    x = torch.randn(4, 176)
    towers: Any = pair.stages[0]
    normal = (x - torch.tensor(mean)) / torch.tensor(std)
    first = towers.first(normal[:, :96].float().reshape(4, 3, 32))
    second = towers.second(normal[:, 96:].float().reshape(4, 1, 8, 10))
    torch.testing.assert_close(pair(x), torch.cat([first, second], 1), atol=1e-5, rtol=1e-4)
    other = x.clone()
    other[:, 96:] += 1
    assert torch.equal(pair(other)[:, :128], pair(x)[:, :128])
    assert not torch.allclose(pair(other)[:, 128:], pair(x)[:, 128:], atol=1e-3)


def test_towers_are_initialised_like_encoders_of_their_own() -> None:
    towers: Any = build_encoder("pair", (176,), **PHONE_AND_SOUND).stages[0]
    for path, weight in towers.named_parameters():
        if path.endswith("conv.weight"):
            assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.3), path


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("vit", (1, 16, 16), {"width": 32}, "vit width: expected a multiple of the 3 heads, found 32"),
        ("vit", (1, 16, 16), {"depth": 0}, "vit depth: expected an integer of at least 1, found 0"),
        ("vit", (1, 16, 16), {"heads": True}, "vit heads: expected an integer of at least 1, found True"),
        ("vit", (1, 16, 16), {"causal": True}, "unknown option 'causal'"),
        ("signal_transformer", (1, 64), {"causal": 1}, "causal: expected true or false, found 1"),
        ("signal_transformer", (1, 64), {"patch": 5}, "patch: expected a divisor of 64, found 5"),
        ("signal_transformer", (1, 3), {}, "no patch of 4 steps or more cuts 3 steps"),
        ("signal_transformer", (1, 64), {"norm": "group"}, "unknown norm 'group'; the signal_transformer takes layer"),
        ("token_transformer", (1, 8), {"norm": "batch"}, "unknown norm 'batch'; the token_transformer takes layer"),
        ("token_transformer", (2, 8), {}, r"one window of ids \(1, L\), found \(2, 8\)"),
        ("token_transformer", (1, 8), {"vocabulary": 1}, "vocabulary: expected an integer of at least 2, found 1"),
        ("token_transformer", (1, 8), {"mean": [3.0]}, "token ids are not normalised"),
        ("word_vectors", (1, 8), {"std": [2.0]}, "token ids are not normalised"),
        ("word_vectors", (1, 8), {"width": 0}, "word_vectors width: expected an integer of at least 1, found 0"),
        ("pair", (64,), {}, r"option first_shape is the shape of its samples, such as \[6, 128\]; found \(\)"),
        ("pair", (64,), {"first_shape": [1, 32], "second_shape": [0]}, r"option second_shape .* found \[0\]"),
        ("pair", (64,), {"first_shape": [1, 32], "second_shape": [1, 33]}, r"have 32 \+ 33 values; a sample has 64"),
        ("pair", (64,), {"first": "cnn", "first_shape": [1, 32], "second_shape": [1, 32]}, "unknown encoder 'cnn'"),
        (
            "pair",
            (64,),
            {"first_shape": [1, 32], "second_shape": [1, 32], "second_options": {"width": 3}},
            "encoder cnn1d: unknown option 'width'",
        ),
        ("pair", (8, 8), {}, r"expected the shape of one pair \(n\), found \(8, 8\)"),
    ],
)
def test_refusals(name: str, shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(name, shape, **options)


@pytest.mark.parametrize("name", ["token_transformer", "word_vectors", "pair"])
def test_onnx_agrees_with_torch(name: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    from export.trace import trace_frozen_encoder

    options: dict[str, Any] = {"vocabulary": 7, "width": 6}
    if name == "pair":
        options = PHONE_AND_SOUND
    elif name == "token_transformer":
        options |= {"depth": 1, "causal": True}
    encoder = build_encoder(name, (176,) if name == "pair" else (1, 12), **options).eval()
    session = ort.InferenceSession(trace_frozen_encoder(encoder).SerializeToString())
    for n in (1, 5):
        x = torch.randn(n, 176) if name == "pair" else ids(n, 12, 7)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], encoder(x), atol=1e-5, rtol=1e-4)
