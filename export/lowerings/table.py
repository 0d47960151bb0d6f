"""The decomposition table of one export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._decomp import core_aten_decompositions

from edgessl.errors import ConfigError
from export.lowerings.activations import gelu, gelu_backward
from export.lowerings.convolution import ConvolutionLowering, possible, possible_on_gpu
from export.lowerings.geometry import Choices
from export.lowerings.norms import GroupNormLowering, LayerNormLowering, Standardisation
from export.lowerings.splitting import pad_vector, split_with_sizes

aten = torch.ops.aten
FLAVOURS = ("fast", "portable")


class Lowerings:
    """torch's core decompositions with ours in place of the ones that are slow or missing.

    Args:
        flavour: "fast" for onnxruntime on a CPU; "portable" for GPUs, and keeps to what TensorRT's parser takes.
        measured: forms that were measured to be the fastest, `{site: form}`; see `export.tuning`.

    Raises:
        ConfigError: another flavour.
    """

    def __init__(self, flavour: str = "fast", measured: Mapping[str, str] | None = None) -> None:
        if flavour not in FLAVOURS:
            raise ConfigError(f"unknown flavour {flavour!r} of the step; choose one of {', '.join(FLAVOURS)}")
        self.flavour = flavour
        self.choices = Choices(measured)

    def table(self) -> dict[Any, Callable[..., Any]]:
        """For `make_fx`; each call starts afresh, and `choices` tells what was taken."""
        table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
        portable = self.flavour == "portable"
        convolution = ConvolutionLowering(self.choices, possible_on_gpu if portable else possible)
        standardise = Standardisation(portable)
        group_norm, layer_norm = GroupNormLowering(standardise), LayerNormLowering(standardise)
        table[aten.convolution.default] = convolution.forward
        table[aten.convolution_backward.default] = convolution.backward
        table[aten.gelu.default] = gelu
        table[aten.gelu_backward.default] = gelu_backward
        table[aten.split_with_sizes.default] = split_with_sizes
        if portable:
            table[aten.constant_pad_nd.default] = pad_vector
        table[aten.native_group_norm.default] = group_norm.forward
        table[aten.native_group_norm_backward.default] = group_norm.backward
        table[aten.native_layer_norm.default] = layer_norm.forward
        table[aten.native_layer_norm_backward.default] = layer_norm.backward
        return table
