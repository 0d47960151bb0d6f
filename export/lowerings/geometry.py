"""The sizes of one convolution, and the forms its parts can be lowered to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution `(n, c_in, *size)` -> `(n, c_out, *out)`; a 1-D one is 2-D on maps of height 1."""

    n: int
    c_in: int
    c_out: int
    size: Sizes
    out: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Convolution:
        """From the input `(N, Ci, H, W)` and the weight `(Co, Ci / groups, kh, kw)`."""
        size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
        out = tuple(
            (h + 2 * p - d * (k - 1) - 1) // s + 1
            for h, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
        )
        attributes = tuple(stride), tuple(padding), tuple(dilation), groups
        return cls(x.shape[0], x.shape[1], weight.shape[0], size, out, kernel, *attributes)

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return self.groups == self.c_in == self.c_out and self.groups > 1

    @property
    def pointwise(self) -> bool:
        """Whether it mixes channels only, without padding."""
        return prod(self.kernel) == 1 and not any(self.padding) and self.groups == 1

    @property
    def plain_3x3(self) -> bool:
        """Whether it is 3x3 with stride 1 and padding 1, all channels mixed."""
        ones = (1, 1)
        return self.kernel == (3, 3) and self.groups == 1 and self.stride == self.padding == self.dilation == ones

    def __str__(self) -> str:
        def by(sizes: Sizes) -> str:
            return "x".join(map(str, sizes))

        text = f"{self.n}x{self.c_in}x{by(self.size)} -> {self.c_out}x{by(self.out)} k{by(self.kernel)}"
        return f"{text} s{by(self.stride)} p{by(self.padding)} d{by(self.dilation)} g{self.groups}"


class Choices:
    """Which form each operator of a graph takes: what was measured where there is a measurement, else the rule's.

    `taken` lists them as `"family sizes": form`, `open_sites` the convolutions where more than one form is possible.
    """

    def __init__(self, measured: Mapping[str, str] | None = None) -> None:
        self.measured = dict(measured or {})
        self.taken: dict[str, str] = {}
        self.open_sites: dict[str, tuple[str, Convolution]] = {}

    def take(self, family: str, sizes: Convolution, possible: Sequence[str], rule: str) -> str:
        """The form of `family` for `sizes`, one of `possible`; `rule` without a measurement."""
        site = f"{family} {sizes}"
        form = self.measured.get(site, rule)
        self.taken[site] = form = form if form in possible else rule
        if len(possible) > 1:
            self.open_sites[site] = (family, sizes)
        return form
