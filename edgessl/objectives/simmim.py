"""SimMIM: hide blocks of the input, predict what they hid (Xie et al. 2022, arXiv 2111.09886)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import sample_decoder
from edgessl.objectives.functional.masked import block_grid, block_mask, check_ratio, masked_mean


@dataclass(frozen=True)
class SimMIM(Objective):
    """Any encoder, any kind of input; no slots.

    On images this is SimMIM; on signals it is masked signal modelling, hiding spans of time of all channels; on
    spectrograms it hides time-frequency patches. The hidden input is 0 after normalisation, its mean: for a transformer
    that leaves a patch's bias and position, which thus are the mask token; convolutions need nothing either.

    Every sample is a problem of its own: any batch will do, and 2 is the smallest whose embeddings have a spread to
    watch. It takes the sample as it came; the mask is the augmentation.

    Attributes:
        mask_ratio: share of the blocks that is hidden.
        block: side of a block, in pixels or time steps; 0 takes an eighth of each axis of a map, a sixteenth of a
            signal.
        decoder_width: channels of the decoder of convolutional encoders; transformers have one linear layer.
    """

    mask_ratio: float = 0.6
    block: int = 0
    decoder_width: int = 32
    name: ClassVar[str] = "simmim"
    family: ClassVar[str] = "masked"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def __post_init__(self) -> None:
        check_ratio(self.name, "mask_ratio", self.mask_ratio)

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def _block(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        parts = 16 if len(sizes) == 1 else 8
        return tuple(min(size, self.block or max(1, round(size / parts))) for size in sizes)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number per block."""
        return math.prod(block_grid(shape[1:], self._block(shape[1:])))

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The decoder; ConfigError for a block as large as the sample, or features without a place in it."""
        if self.noise_width(encoder.input_shape) < 2:
            raise ConfigError(
                f"objective 'simmim': a block of {self.block} hides all of {encoder.input_shape}; give a smaller one"
            )
        return {"decoder": sample_decoder(encoder, self.name, self.decoder_width)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean absolute error, in units of the channels' standard deviations, over what was hidden."""
        x = network("encoder.normalize", batch.sample)
        sizes = tuple(x.shape[2:])
        mask = block_mask(batch.noise, sizes, self._block(sizes), self.mask_ratio)
        features = network("encoder.run", x * (1 - mask), 0, -2)
        errors = (network("decoder", features) - x).abs().mean(dim=1, keepdim=True)
        return Loss(masked_mean(errors, mask, gather), network("encoder.pool", features), {})
