"""The last stage of the convolutional encoders."""

from __future__ import annotations

from torch import Tensor, nn


class GlobalMean(nn.Module):
    """Mean over every axis after the channels: (N, C, ...) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages each channel."""
        return x.mean(list(range(2, x.dim())))
