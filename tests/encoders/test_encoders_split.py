"""Cutting an encoder in a backbone and a tail."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgessl.encoders import BatchNorm, build_encoder, collect_batch_statistics
from edgessl.errors import ConfigError

CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("ds_cnn_s", (1, 16, 16), {"norm": "group"}),
    ("ds_cnn_s", (1, 16, 16), {"norm": "batch"}),
    ("ds_cnn_m", (1, 16, 16), {}),
    ("ds_cnn_l", (1, 16, 16), {}),
    ("resnet8", (3, 16, 16), {}),
    ("resnet18", (1, 8, 8), {}),
    ("vit", (1, 16, 16), {}),
    ("cnn1d", (6, 64), {}),
    ("signal_transformer", (6, 64), {"causal": True}),
]


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_every_cut(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    encoder = build_encoder(name, shape, mean=[0.3] * shape[0], std=[0.2] * shape[0], **options)
    x = torch.rand(3, *shape)
    whole = encoder(x)
    parameters = dict(encoder.named_parameters())
    assert len(encoder.stage_names) >= 5
    for cut in encoder.stage_names[:-1]:
        backbone, tail = encoder.split(cut)
        latent = backbone(x)
        assert latent.shape == (3, *backbone.output_shape)
        assert tail.input_shape == backbone.output_shape
        assert torch.equal(tail(latent), whole)
        assert backbone.stage_names + tail.stage_names == encoder.stage_names
        assert (backbone.stage_names[-1], tail.embedding_dim) == (cut, encoder.embedding_dim)

        halves = [*backbone.named_parameters(), *tail.named_parameters()]
        assert [path for path, _ in halves] == list(parameters)
        assert all(parameter is parameters[path] for path, parameter in halves)
        assert backbone.no_decay | tail.no_decay == encoder.no_decay
        assert not any(path.startswith("normalize") for path, _ in tail.named_buffers())


def test_cut_of_a_half() -> None:
    encoder = build_encoder("ds_cnn_s", (1, 16, 16))
    x = torch.rand(2, 1, 16, 16)
    tail = encoder.split("block2")[1]
    middle, end = tail.split("block4")
    assert middle.stage_names == ("block3", "block4")
    assert torch.equal(end(middle(encoder.split("block2")[0](x))), encoder(x))


@pytest.mark.parametrize("cut", ["pool", "block6", "", "stem.conv"])
def test_impossible_cut(cut: str) -> None:
    with pytest.raises(ConfigError, match="possible cuts: stem, block1, block2, block3, block4, block5"):
        build_encoder("ds_cnn_s", (1, 16, 16)).split(cut)


def test_nothing_to_cut() -> None:
    stem = build_encoder("resnet8", (1, 16, 16)).split("stem")[0]
    with pytest.raises(ConfigError, match="possible cuts: none"):
        stem.split("stem")


@pytest.mark.parametrize("training", [True, False])
def test_split_keeps_the_mode_and_leaves_no_statistics(training: bool) -> None:
    encoder = build_encoder("resnet8", (1, 16, 16), norm="batch").train(training)
    halves = encoder.split("block2")
    assert all(module.training is training for half in (encoder, *halves) for module in half.stages.modules())
    assert all(half.training is training for half in halves)
    assert collect_batch_statistics(encoder) == {}


def test_frozen_part_keeps_its_mode() -> None:
    encoder = build_encoder("resnet8", (1, 16, 16), norm="batch")
    encoder.split("block1")[0].eval()
    encoder.split("block3")
    frozen = {path for path, module in encoder.named_modules() if isinstance(module, BatchNorm) and not module.training}
    assert frozen == {"stages.stem.norm", "stages.block1.conv1.norm", "stages.block1.conv2.norm"}
