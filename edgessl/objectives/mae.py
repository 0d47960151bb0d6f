"""MAE: encode the few patches that are visible, predict the others (He et al. 2022, arXiv 2111.06377)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders import Encoder
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import Patches, TokenDecoder, mask_noise, patch_stage
from edgessl.objectives.functional import masked_reconstruction_loss
from edgessl.objectives.functional.masked import check_ratio, visible_selection


@dataclass(frozen=True)
class MAE(Objective):
    """Encoders that cut patches (vit, signal_transformer); no slots.

    The hidden patches never enter the encoder, so a step costs it a quarter of its usual tokens. Every sample is a
    problem of its own and any batch will do; 2 is the smallest for which the spread of the embeddings can be watched.
    Small batches only make the gradient noisy. It takes the sample as it came: MAE gains nothing from colour changes,
    and the mask already varies what is seen.
    """

    mask_ratio: float = 0.75
    normalize_targets: bool = True
    decoder_width: int = 64
    decoder_depth: int = 1
    name: ClassVar[str] = "mae"
    family: ClassVar[str] = "masked"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram", "signal")

    def __post_init__(self) -> None:
        check_ratio(self.name, "mask_ratio", self.mask_ratio)

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number per token."""
        return mask_noise(shape)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The decoder; ConfigError for encoders without patches."""
        stage = patch_stage(encoder, self.name)
        tokens, width = encoder.feature_shape
        values = stage.embed.in_features
        decoder = TokenDecoder(tokens, width, self.decoder_width, self.decoder_depth, values)
        return {"patches": Patches(stage), "decoder": decoder}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Mean squared error at the hidden patches, each standardised with `normalize_targets`."""
        x = network("encoder.normalize", batch.sample)
        tokens = network("encoder.run", x, 0, 0)
        selection = visible_selection(batch.noise[:, : tokens.shape[1]], self.mask_ratio)
        visible = network("encoder.run", selection @ tokens, 1, -2)
        prediction = network("decoder", visible, selection)
        target = network("patches", x)
        mask = 1 - selection.sum(dim=1)
        value = masked_reconstruction_loss(prediction, target, mask, self.normalize_targets, gather)
        return Loss(value, network("encoder.pool", visible), {})
