"""Colourisation: predict the colours of a grey image (Zhang et al. 2016, arXiv 1603.08511; Larsson et al. 2017).

The regression form. Zhang et al. classify 313 colours per pixel, which paints better, being free to choose where the
regression averages; as a pretext on small images 313 maps per pixel cost a device more than they give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import sample_decoder
from edgessl.objectives.functional.masked import smooth_l1
from edgessl.views.colors import luma


@dataclass(frozen=True)
class Colorization(Objective):
    """RGB images; no slots.

    The encoder sees the luma in all three channels. The target is what the grey image lacks, the normalised image minus
    the normalised grey one. Every sample is a problem of its own: any batch will do, and 2 is the smallest whose
    embeddings have a spread to watch. It takes the sample as it came: colour jitter would make the answer arbitrary.
    Afterwards the encoder embeds colour images, which it has not seen; give it grey ones where that shows.
    """

    decoder_width: int = 32
    name: ClassVar[str] = "colorization"
    family: ClassVar[str] = "pretext"
    hyper: ClassVar[dict[str, float]] = {"transition": 0.5}
    kinds: ClassVar[tuple[str, ...]] = ("image",)

    def crops(self) -> tuple[int, int]:
        """No views."""
        return (0, 0)

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The decoder; ConfigError unless images have three channels."""
        shape = encoder.input_shape
        if len(shape) != 3 or shape[0] != 3:
            raise ConfigError(f"objective 'colorization': expected RGB images (3, H, W), found samples {shape}")
        return {"decoder": sample_decoder(encoder, self.name, self.decoder_width)}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Smooth L1 of the colour differences, in units of the channels' standard deviations."""
        x = batch.sample
        grey = luma(x).expand_as(x)
        target = network("encoder.normalize", x) - network("encoder.normalize", grey)
        features = network("encoder.features", grey)
        errors = smooth_l1(network("decoder", features) - target, hyper["transition"]).flatten(1).mean(dim=1)
        return Loss(gather(errors.unsqueeze(1)).mean(), network("encoder.pool", features), {})
