"""The encoder: input normalisation followed by named stages, which can be cut in two."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edgessl.errors import ConfigError, InputError

Stages: TypeAlias = Mapping[str, nn.Module]

TOKEN_STAGES = ("patches", "tokens")  # what the first stage of a transformer is called


class InputNormalization(nn.Module):
    """`(x - mean) / std` per channel, with the figures kept as buffers so that they travel with the weights.

    Args:
        mean: one value per channel, in the units of the input.
        std: one value per channel, positive, in the same units.
        rank: number of axes of a sample: 3 for (C, H, W) and (C, F, T), 2 for (C, T).

    Raises:
        ConfigError: lengths differ, a value is not finite, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], rank: int) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ConfigError(f"input normalisation: {len(mean)} means but {len(std)} stds; give one per channel")
        if not all(math.isfinite(value) for value in (*mean, *std)) or any(value <= 0 for value in std):
            raise ConfigError(
                f"input normalisation: mean {tuple(mean)}, std {tuple(std)}; "
                "means must be finite and stds finite and positive (a constant channel can take std 1)"
            )
        shape = (-1,) + (1,) * (rank - 1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, ...) in physical units to (N, C, ...) of about zero mean and unit variance."""
        return (x - self.mean) / self.std


class Encoder(nn.Module):
    """Normalisation, then named stages in order; a pure function of its parameters, buffers and input.

    The last stage of a whole encoder is "pool" and gives (N, embedding_dim). `split` cuts an encoder into a
    backbone, whose output is a latent map, and a tail, whose input is that map; both are encoders again.
    Objectives that look inside (masks, predictions in time) use `features`, `frames` and `run`.

    Args:
        stages: name -> module, in order. No randomness, no in-place operation and no branch on data in them.
        input_shape: shape of one sample, without the batch axis.
        normalize: applied before the first stage; None (a tail, say) for nothing.

    Attributes:
        input_shape: shape of one sample.
        output_shape: shape of what one sample becomes: (embedding_dim,), or the latent map of a backbone.
        embedding_dim: number of values in `output_shape`.
        feature_shape: shape of what enters the last stage: (C, H', W') or (C, T') of a convolutional encoder, (L, D)
            tokens of a transformer.
        stage_names: names of the stages, in order.
    """

    def __init__(self, stages: Stages, input_shape: Sequence[int], normalize: InputNormalization | None = None) -> None:
        super().__init__()
        self.normalize: nn.Module = nn.Identity() if normalize is None else normalize
        self.stages = nn.Sequential(OrderedDict(stages))
        self.stage_names = tuple(stages)
        self.input_shape = tuple(int(size) for size in input_shape)
        *before, last = stages.values()
        self.feature_shape = _output_shape(nn.Sequential(*before), self.input_shape)
        self.output_shape = _output_shape(nn.Sequential(last), self.feature_shape)
        self.embedding_dim = math.prod(self.output_shape)

    @property
    def tokenized(self) -> bool:
        """Whether the first stage makes tokens (N, L, D), as a transformer's does, rather than a map (N, C, ...)."""
        return self.stage_names[0] in TOKEN_STAGES

    @property
    def no_decay(self) -> frozenset[str]:
        """Names of the matrices that weight decay should leave alone (learned positions, for instance).

        A module declares its own in an attribute `no_decay`. Vectors (biases, norms) are not listed.
        """
        return frozenset(
            f"{path}.{name}"
            for path, module in self.stages.named_modules(prefix="stages")
            for name in getattr(module, "no_decay", ())
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N, *input_shape) float32, in raw units, as (N, *output_shape) float32.

        Raises:
            InputError: the samples do not have shape `input_shape`.
        """
        return self.pool(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last stage of (N, *input_shape) sees: (N, *feature_shape).

        Raises:
            InputError: the samples do not have shape `input_shape`.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(f"encoder input: expected (N, {_axes(self.input_shape)}), found {tuple(x.shape)}")
        h: Tensor = self.normalize(x)
        for stage in list(self.stages)[:-1]:
            h = stage(h)
        return h

    def pool(self, features: Tensor) -> Tensor:
        """The last stage: (N, *feature_shape) to (N, *output_shape)."""
        embedding: Tensor = self.stages[-1](features)
        return embedding

    def frames(self, x: Tensor) -> Tensor:
        """The features as a sequence (N, T, D): tokens as they are, maps averaged over all axes but the last."""
        return as_frames(self.features(x), self.tokenized)

    def run(self, h: Tensor, first: str | int, last: str | int) -> Tensor:
        """Stages `first` to `last`, both included, on what enters `first`; nothing is normalised or checked here.

        A stage goes by its name or its place: 0 is the first, -1 the pool.
        """
        names = self.stage_names
        start, stop = (names.index(s) if isinstance(s, str) else range(len(names))[s] for s in (first, last))
        for name in names[start : stop + 1]:
            h = self.stages.get_submodule(name)(h)
        return h

    def split(self, cut: str) -> tuple[Encoder, Encoder]:
        """Cuts after stage `cut`: `tail(backbone(x))` is `self(x)`, bit for bit.

        Both halves share this encoder's modules, hence its parameters, their names and the train/eval mode.
        The tail takes the latent map as it is, without normalisation.

        Raises:
            ConfigError: there is no such stage, or nothing would be left after it.
        """
        possible = self.stage_names[:-1]
        if cut not in possible:
            raise ConfigError(f"cannot cut the encoder at {cut!r}; possible cuts: {', '.join(possible) or 'none'}")
        stages = dict(self.stages.named_children())
        end = self.stage_names.index(cut) + 1
        normalize = self.normalize if isinstance(self.normalize, InputNormalization) else None
        backbone = Encoder({name: stages[name] for name in self.stage_names[:end]}, self.input_shape, normalize)
        tail = Encoder({name: stages[name] for name in self.stage_names[end:]}, backbone.output_shape)
        for half in (backbone, tail):
            half.training = half.stages.training = self.training
        return backbone, tail


def as_frames(features: Tensor, tokenized: bool) -> Tensor:
    """Tokens (N, T, D) as they are; a map (N, D, ..., T) averaged over all axes between D and T, as (N, T, D)."""
    if tokenized:
        return features
    between = list(range(2, features.dim() - 1))
    return (features.mean(between) if between else features).transpose(1, 2)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode within, every part in the mode it had after."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@torch.no_grad()
def _output_shape(stages: nn.Sequential, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Runs one sample of zeros in eval mode, which leaves no batch statistics, and restores the modes."""
    sample = torch.zeros(1, *input_shape)
    for parameter in stages.parameters():
        sample = sample.to(parameter)
        break
    with evaluation_mode(stages):
        return tuple(stages(sample).shape[1:])


def _axes(shape: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in shape)
