"""Compact encoders behind one registry.

    encoder = build_encoder("ds_cnn_s", (1, 28, 28), mean=[0.13], std=[0.31])
    backbone, tail = encoder.split("block3")

A new encoder is one file with a function `(input_shape, *, options) -> stages` and one line in `ENCODERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgessl.encoders.base import Encoder, InputNormalization, Stages
from edgessl.encoders.cnn1d import cnn1d
from edgessl.encoders.ds_cnn import ds_cnn_l, ds_cnn_m, ds_cnn_s
from edgessl.encoders.mlp import mlp
from edgessl.encoders.norm import BatchNorm, collect_batch_statistics, fold_batch_norm, make_norm
from edgessl.encoders.pair import pair
from edgessl.encoders.resnet import resnet8, resnet18
from edgessl.encoders.signal_transformer import signal_transformer
from edgessl.encoders.tokens import token_transformer, word_vectors
from edgessl.encoders.vit import vit
from edgessl.errors import ConfigError

__all__ = [
    "ENCODERS",
    "BatchNorm",
    "Encoder",
    "EncoderEntry",
    "InputNormalization",
    "build_encoder",
    "collect_batch_statistics",
    "encoder_names",
    "fold_batch_norm",
    "make_norm",
]

AXES = {
    "image": ("C", "H", "W"),
    "spectrogram": ("C", "F", "T"),
    "signal": ("C", "T"),
    "tokens": ("1", "L"),
    "pair": ("n",),
    "features": ("n",),
}
MAPS = ("image", "spectrogram")
SIGNALS = ("signal",)
TOKENS = ("tokens",)
PAIRS = ("pair",)
FEATURES = ("features",)


@dataclass(frozen=True)
class EncoderEntry:
    """One line of the registry.

    Attributes:
        builder: `(input_shape, *, option=default, ...) -> stages`; its keywords are the encoder's options.
        kinds: kinds of input that it takes, all of one rank.
        description: one line for people.
    """

    builder: Callable[..., Stages]
    kinds: tuple[str, ...]
    description: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options."""
        parameters = inspect.signature(self.builder).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


ENCODERS: dict[str, EncoderEntry] = {
    "ds_cnn_s": EncoderEntry(ds_cnn_s, MAPS, "depthwise-separable CNN, 35 thousand parameters"),
    "ds_cnn_m": EncoderEntry(ds_cnn_m, MAPS, "depthwise-separable CNN, 130 thousand parameters"),
    "ds_cnn_l": EncoderEntry(ds_cnn_l, MAPS, "depthwise-separable CNN, 520 thousand parameters"),
    "resnet8": EncoderEntry(resnet8, MAPS, "ResNet-8 of MLPerf Tiny, 78 thousand parameters"),
    "resnet18": EncoderEntry(resnet18, MAPS, "ResNet-18 with a 3x3 stem, 11 million parameters"),
    "vit": EncoderEntry(vit, MAPS, "vision transformer of 3 blocks, 340 thousand parameters"),
    "cnn1d": EncoderEntry(cnn1d, SIGNALS, "1-D CNN for sensor and audio windows, 74 thousand parameters"),
    "signal_transformer": EncoderEntry(signal_transformer, SIGNALS, "transformer of 3 blocks on patches of time"),
    "token_transformer": EncoderEntry(token_transformer, TOKENS, "transformer of 3 blocks on token ids"),
    "word_vectors": EncoderEntry(word_vectors, TOKENS, "one vector per token id, averaged over the window"),
    "mlp": EncoderEntry(mlp, FEATURES, "two residual layers on a vector of features, 67 thousand parameters"),
    "pair": EncoderEntry(pair, PAIRS, "two encoders side by side, for pairs of samples"),
}


def encoder_names() -> tuple[str, ...]:
    """The registered names, in the registry's order."""
    return tuple(ENCODERS)


def build_encoder(
    name: str,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Encoder:
    """Builds an encoder on the CPU, in train mode, with weights that depend on the arguments alone.

    Args:
        name: one of `encoder_names()`.
        input_shape: shape of one sample: (C, H, W), (C, F, T), (C, T), token ids (1, L), a pair or features (n,).
        mean: per channel, in the input's units; None for 0.
        std: per channel, in the input's units; None for 1.
        seed: of the initial weights; torch's global generators stay as they were.
        **options: the encoder's own, such as `norm="batch"`.

    Raises:
        ConfigError: unknown name or option, a value out of range, or an input shape the encoder cannot take.
    """
    shape = tuple(int(size) for size in input_shape)
    axes = _checked_axes(name, shape, options)
    mean = [0.0] * shape[0] if mean is None else mean
    std = [1.0] * shape[0] if std is None else std
    if len(mean) != shape[0]:
        raise ConfigError(f"encoder {name}: {shape[0]} input channels but {len(mean)} means; give one per channel")
    if axes == AXES["tokens"] and (any(mean) or any(value != 1 for value in std)):
        raise ConfigError(f"encoder {name}: token ids are not normalised; expected mean 0, std 1, found {mean}, {std}")
    normalize = InputNormalization(mean, std, len(shape))
    # torch.manual_seed would seed the GPUs' generators too, which fork_rng(devices=[]) does not restore
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        stages = build_stages(name, shape, options)
        for stage in stages.values():
            stage.apply(_initialize)
    return Encoder(stages, shape, normalize)


def build_stages(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> Stages:
    """The stages of the encoder `name`, their weights drawn by torch and not yet by `build_encoder`'s rule."""
    _checked_axes(name, shape, options)
    return ENCODERS[name].builder(shape, **options)


def _checked_axes(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes of what `name` takes; ConfigError unless shape and options are its own."""
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    entry = ENCODERS[name]
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        raise ConfigError(f"encoder {name}: unknown option {unknown[0]!r}; it takes {', '.join(entry.options)}")
    axes = AXES[entry.kinds[0]]
    if len(shape) != len(axes) or min(shape) < 1:
        expected = " or ".join(f"{kind} ({', '.join(AXES[kind])})" for kind in entry.kinds)
        raise ConfigError(f"encoder {name}: expected the shape of one {expected}, found {shape}")
    return axes


def _initialize(module: nn.Module) -> None:
    """He et al. 2015 for convolutions before ReLU, Glorot and Bengio 2010 for the transformer's matrices."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
