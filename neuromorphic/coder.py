"""The spiking predictive coder: layers of LIF neurons, each trained by a loss of its own, that turn into integers.

    coder = SpikingPredictiveCoder(n_in=784, hidden=(256, 128), seed=0)
    coder.balance(spikes, rate=0.1)          # weights at which neurons fire, from unlabelled spikes (N, T, 784)
    activities = coder(spikes)               # [(N, T, 256), (N, T, 128)], on Lava's clock
    coder.quantize(8)                        # the same spikes as the integer network has, from here on

`cell="leaky"` is its dense twin and `cell="liquid"` a continuous-time baseline; neither turns into integers.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.errors import ConfigError, InputError
from neuromorphic.cells import Cell, LeakyCell, LIFCell, LiquidCell

CELLS = (LIFCell.name, LeakyCell.name, LiquidCell.name)
HALVINGS = 20  # of the interval in which `balance` looks for a layer's gain
Array = np.ndarray[Any, np.dtype[Any]]


class SpikingPredictiveCoder(nn.Module):
    """A stack of dense layers over time; no gradient crosses from one to the next.

    Args:
        n_in: channels of the input spikes.
        hidden: neurons per layer, the first one first.
        cell: "lif", "leaky" (leaky integrators with a ReLU) or "liquid".
        du, dv: decay of current and voltage, integers in 0..4095 of 4096 (Lava adds 1 to du).
        learn_decays: train du and dv, one pair per layer; they stay integers.
        learn_bias: train a bias per neuron, a constant added to its voltage.
        bits: weights of 2 to 8 bits and integer states from the start (call `balance`, then `quantize`, to set the
            scales to balanced weights); None: floats.
        seed: of the initial weights.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        *,
        cell: str = "lif",
        du: int = 1023,
        dv: int = 511,
        learn_decays: bool = False,
        learn_bias: bool = True,
        bits: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = (n_in, *hidden)
        if not hidden or min(sizes) < 1:
            raise ConfigError(f"layers of {sizes} channels; expected an input and at least one layer, each 1 or more")
        if cell not in CELLS:
            raise ConfigError(f"cell {cell!r}; expected one of {', '.join(CELLS)}")
        if bits is not None and cell != LIFCell.name:
            raise ConfigError(f"bits = {bits}: only 'lif' cells turn into integers, not {cell!r}")
        self.n_in, self.sizes, self.cell = n_in, tuple(hidden), cell
        self.layers = nn.ModuleList()
        for level, (below, width) in enumerate(itertools.pairwise(sizes)):
            own = 1000 * seed + 10 * level
            if cell == LiquidCell.name:
                layer: Cell = LiquidCell(below, width, own)
            elif cell == LeakyCell.name:
                layer = LeakyCell(below, width, own, du, dv, learn_decays)
            else:
                layer = LIFCell(below, width, own, du, dv, learn_decays, bits)
            layer.bias.requires_grad_(learn_bias)
            self.layers.append(layer)

    @property
    def bits(self) -> int | None:
        """Bits of the weights, or None where the network runs in floats."""
        bits: int | None = getattr(self.layers[0], "bits", None)
        return bits

    def cells(self) -> list[Cell]:
        """The layers, the first one first."""
        return [layer for layer in self.layers if isinstance(layer, Cell)]

    def forward(self, spikes: Tensor) -> list[Tensor]:
        """Activities of every layer `(N, T, n)` for input spikes `(N, T, n_in)` of 0 and 1.

        Raises:
            InputError: the input has another shape.
        """
        if spikes.ndim != 3 or spikes.shape[2] != self.n_in or spikes.shape[1] < 1:
            raise InputError(f"input of shape {tuple(spikes.shape)}; expected (N, T, {self.n_in}), T of 1 or more")
        out = []
        x = spikes.to(torch.float32)
        for layer in self.layers:
            x = layer(x)
            out.append(x)
            x = x.detach()  # a layer learns from its own loss alone
        return out

    def quantize(self, bits: int | None) -> None:
        """Run in integers of `bits`, each layer at the scale that fits its weights best now; None: back to floats.

        Raises:
            ConfigError: the cells are not LIF, or a layer cannot be scaled.
        """
        for level, layer in enumerate(self.layers):
            if not isinstance(layer, LIFCell):
                raise ConfigError(f"only 'lif' cells turn into integers, not {self.cell!r}")
            try:
                layer.quantize(bits)
            except ConfigError as error:
                raise ConfigError(f"layer {level}: {error}") from None

    def quantized(self, bits: int | None) -> SpikingPredictiveCoder:
        """A copy that runs in integers of `bits` (post-training quantisation), or in floats."""
        other = copy.deepcopy(self)
        other.quantize(bits)
        return other

    @torch.no_grad()
    def balance(self, spikes: Tensor, rate: float = 0.1) -> list[float]:
        """Scale every layer's weights so that its mean activity on `spikes` `(N, T, n_in)` is `rate`; no labels.

        Activity grows with the gain of the weights, up to noise, so that bisection finds it. Liquid cells, which have
        no threshold to reach, are left as they are.

        Returns:
            The activity of each layer now.
        """
        if self.cell == LiquidCell.name:
            return [float(y.abs().mean()) for y in self(spikes)]
        x, found = spikes.to(torch.float32), []
        for layer in self.cells():
            original, low, high = layer.weight.clone(), 1e-3, 1e3
            for _ in range(HALVINGS):
                gain = (low * high) ** 0.5
                layer.weight.copy_(original * gain)
                if float(layer(x).mean()) < rate:
                    low = gain
                else:
                    high = gain
            x = layer(x)
            found.append(float(x.mean()))
        return found

    @torch.no_grad()
    def features(self, spikes: Tensor, bins: int = 1) -> Tensor:
        """What a read-out sees: every layer's mean activity in `bins` equal parts of the time, `(N, bins * sum(n))`."""
        return torch.cat([binned(activity, bins) for activity in self(spikes)], 1)


def binned(activity: Tensor, bins: int) -> Tensor:
    """Mean over time of `activity` `(N, T, n)` in `bins` parts as equal as T allows, `(N, bins * n)`.

    Raises:
        InputError: there are fewer steps than parts.
    """
    steps = activity.shape[1]
    if not 1 <= bins <= steps:
        raise InputError(f"{bins} parts of {steps} steps; expected 1 to {steps}")
    edges = [round(i * steps / bins) for i in range(bins + 1)]
    parts = [activity[:, a:b].mean(1) for a, b in itertools.pairwise(edges)]
    return torch.cat(parts, 1)


def trace(activity: Tensor, keep: float, steps: Tensor | None = None) -> Tensor:
    """Low-pass of `activity` `(N, T, n)` along time: `x(t) = keep x(t - 1) + (1 - keep) a(t)`, x(-1) = 0.

    At every step, `(N, T, n)`, or at `steps` `(S,)`, `(N, S, n)`.
    """
    t = torch.arange(activity.shape[1], dtype=torch.float32, device=activity.device)
    lag = (t if steps is None else t[steps])[:, None] - t
    kernel = torch.where(lag >= 0, (1 - keep) * keep ** lag.clamp(min=0), 0.0).to(activity.dtype)
    return torch.einsum("ts,nsd->ntd", kernel, activity)
