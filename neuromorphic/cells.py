"""Layers over time: the LIF neuron of Lava in floats and in exact integers, its dense twin, and a liquid cell.

Every cell maps inputs `(N, T, n_in)` to activities `(N, T, n_out)` on Lava's clock: what a layer receives at step t is
what the one below sent at step t - 1, and states begin at zero.
"""

from __future__ import annotations

import math
from typing import ClassVar

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from edgessl.errors import ConfigError
from neuromorphic.quantize import (
    MAX_STATE,
    UNIT,
    bias_exponent,
    decay,
    integer_bias,
    integer_threshold,
    integer_weights,
    straight_through,
    weight_scale,
    wrap,
)

SPIKE = surrogate.atan(alpha=2.0)  # snnTorch's default surrogate gradient
TURN = 4096  # decays are 12-bit shares of it


class Cell(nn.Module):
    """What the cells share: a weight matrix, how it begins, and the clock."""

    name: ClassVar[str]

    def __init__(self, n_in: int, n_out: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.n_in, self.n_out = n_in, n_out
        self.weight = nn.Parameter(torch.randn(n_out, n_in, generator=generator) / math.sqrt(n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Activities `(N, T, n_out)` of inputs `(N, T, n_in)`."""
        raise NotImplementedError


class LeakyCell(Cell):
    """The dense twin: the same two leaky integrators, a ReLU where the LIF has threshold and reset.

    u(t) = (1 - (du + 1) / 4096) u(t - 1) + W x(t - 1);  v(t) = (1 - dv / 4096) v(t - 1) + u(t) + b;  y = max(v, 0)
    """

    name = "leaky"

    def __init__(self, n_in: int, n_out: int, seed: int, du: int, dv: int, learn_decays: bool) -> None:
        super().__init__(n_in, n_out, seed)
        for label, value in (("du", du), ("dv", dv)):
            if not 0 <= value < TURN:
                raise ConfigError(f"{label} is {value}; expected 0 to {TURN - 1}")
        raw = torch.tensor([du + 0.5, dv + 0.5], dtype=torch.float64) / TURN
        self.decays = nn.Parameter(torch.logit(raw), requires_grad=learn_decays)  # (2,) logits of (du, dv) / 4096

    def integer_decays(self) -> Tensor:
        """du and dv `(2,)` float64: integers in 0..4095, the gradient that of the logits."""
        value = torch.sigmoid(self.decays) * TURN - 0.5
        return straight_through(value, torch.round(value).clamp(0, TURN - 1))

    def keeps(self) -> tuple[Tensor, Tensor]:
        """What is left of current and voltage after a step: multiples of 1/4096, float64 scalars."""
        du, dv = self.integer_decays()
        return 1 - (du + 1) / TURN, 1 - dv / TURN

    def currents(self, x: Tensor, weight: Tensor) -> Tensor:
        """`W x(t - 1)`: `(N, T, n_out)`, zero at the first step."""
        return nn.functional.pad(x[:, :-1] @ weight.T, (0, 0, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Rectified voltages `(N, T, n_out)`."""
        return self.voltages(x).relu()

    def voltages(self, x: Tensor) -> Tensor:
        """Voltages without threshold and reset, `(N, T, n_out)`; in thresholds."""
        arrived = self.currents(x, self.weight)
        keep_u, keep_v = (keep.to(arrived.dtype) for keep in self.keeps())
        u = v = torch.zeros_like(arrived[:, 0])
        out = []
        for a in arrived.unbind(1):
            u = keep_u * u + a
            v = keep_v * v + u + self.bias
            out.append(v)
        return torch.stack(out, 1)


class LIFCell(LeakyCell):
    """Current-based leaky integrate-and-fire neurons, reset to zero at the step of the spike; the threshold is 1.

    With `bits` None the arithmetic is that of `snntorch.Synaptic(reset_mechanism="zero", reset_delay=False)` with the
    bias added to the voltage, where Lava adds it; gradients too. With bits (2 to 8) states are Lava's integers: the
    spikes are those of the integer network, and gradients pass straight through (see `quantize`).
    """

    name = "lif"
    scale: Tensor

    def __init__(
        self, n_in: int, n_out: int, seed: int, du: int, dv: int, learn_decays: bool, bits: int | None = None
    ) -> None:
        super().__init__(n_in, n_out, seed, du, dv, learn_decays)
        self.register_buffer("scale", torch.zeros((), dtype=torch.float64))
        self.bits: int | None = None
        if bits is not None:
            self.quantize(bits)

    def quantize(self, bits: int | None) -> None:
        """Run in integers with weights of `bits`, at the scale that fits the weights best now; None: in floats.

        Raises:
            ConfigError: the weights cannot be scaled into the integers' ranges.
        """
        if bits is not None:
            self.scale.fill_(weight_scale(self.weight, bits))
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Spikes `(N, T, n_out)` float32 of 0 and 1."""
        return self.states(x)[0]

    def states(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, and currents and voltages after the reset; each `(N, T, n_out)`.

        In floats the unit is a threshold; in integers it is Lava's, and currents and voltages are float64.
        """
        return self._float_states(x) if self.bits is None else self._integer_states(x, self.bits)

    def _float_states(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arrived = self.currents(x, self.weight)
        keep_u, keep_v = (keep.to(arrived.dtype) for keep in self.keeps())
        u = v = torch.zeros_like(arrived[:, 0])
        out = []
        for a in arrived.unbind(1):
            u = keep_u * u + a
            v = keep_v * v + u + self.bias
            s = SPIKE(v - 1)
            v = v - s * v
            out.append((s, u, v))
        return _stacked(out)

    def _integer_states(self, x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
        scale = float(self.scale)
        # sums of a layer's integer weights stay below 2^24, where float32 is exact
        arrived = self.currents(x, integer_weights(self.weight, scale, bits)).double() * UNIT
        bias = integer_bias(self.bias, scale).double()
        threshold = float(integer_threshold(scale) * UNIT)
        keep_u, keep_v = self.keeps()
        u = v = torch.zeros_like(arrived[:, 0])
        out = []
        for a in arrived.unbind(1):
            u = wrap(decay(u, keep_u) + a)
            v = (decay(v, keep_v) + u + bias).clamp(-MAX_STATE + 1, MAX_STATE - 1)
            s = SPIKE((v - threshold) / threshold)
            v = v - s * v
            out.append((s, u, v))
        return _stacked(out)

    def integers(self) -> dict[str, Tensor | int]:
        """What an integer network is built of: weights, vth, du, dv, bias_mant, bias_exp, bits.

        Raises:
            ConfigError: the cell runs in floats.
        """
        if self.bits is None:
            raise ConfigError("this layer runs in floats; quantize it first")
        scale = float(self.scale)
        exponent = bias_exponent(self.bias, scale)
        du, dv = self.integer_decays().detach().tolist()
        return {
            "weights": integer_weights(self.weight.detach(), scale, self.bits).to(torch.int16),
            "vth": integer_threshold(scale),
            "du": int(du),
            "dv": int(dv),
            "bias_mant": (integer_bias(self.bias.detach(), scale) / (1 << exponent)).to(torch.int32),
            "bias_exp": exponent,
            "bits": self.bits,
        }

    def as_snntorch(self) -> tuple[nn.Linear, snntorch.Synaptic]:
        """The float layer in snnTorch's modules.

        snnTorch delivers a spike in the step it is sent, one earlier than Lava, and has no place for a bias on the
        voltage.

        Raises:
            ConfigError: a bias is not zero.
        """
        if bool(self.bias.detach().any()):
            raise ConfigError("snnTorch's Synaptic has no bias on the voltage; train with learn_bias = false")
        linear = nn.Linear(self.n_in, self.n_out, bias=False)
        linear.weight = nn.Parameter(self.weight.detach().clone())
        alpha, beta = (float(keep) for keep in self.keeps())
        neuron = snntorch.Synaptic(alpha, beta, spike_grad=SPIKE, reset_mechanism="zero", reset_delay=False)
        return linear, neuron


class LiquidCell(Cell):
    """A liquid time-constant cell (Hasani et al. 2021, arXiv 2006.04439, eq. 1), one fused Euler step (eq. 3) per step.

    f = sigmoid(W x(t - 1) + R y(t - 1) + b);  y(t) = (y(t - 1) + f A) / (1 + 1 / tau + f)
    """

    name = "liquid"

    def __init__(self, n_in: int, n_out: int, seed: int, tau: float = 4.0) -> None:
        super().__init__(n_in, n_out, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        self.recurrent = nn.Parameter(torch.randn(n_out, n_out, generator=generator) / math.sqrt(n_out))
        self.reversal = nn.Parameter(torch.randn(n_out, generator=generator))  # A: where a driven cell goes
        self.log_tau = nn.Parameter(torch.full((n_out,), math.log(tau)))  # of the leak, in steps

    def forward(self, x: Tensor) -> Tensor:
        """States `(N, T, n_out)`."""
        arrived = nn.functional.pad(x[:, :-1] @ self.weight.T, (0, 0, 1, 0)) + self.bias
        leak = torch.exp(-self.log_tau)
        y = torch.zeros_like(arrived[:, 0])
        out = []
        for a in arrived.unbind(1):
            f = torch.sigmoid(a + y @ self.recurrent.T)
            y = (y + f * self.reversal) / (1 + leak + f)
            out.append(y)
        return torch.stack(out, 1)


def _stacked(steps: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    spikes, currents, voltages = (torch.stack(values, 1) for values in zip(*steps, strict=True))
    return spikes, currents, voltages
