"""The frozen part up to the cut: an int8 graph whose latents lie on the grid in which the device stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgessl.device.bundle.specs import InputSpec, LatentSpec
from edgessl.encoders import Encoder
from export.quantize import quantize_encoder
from export.quantize.floating import run_in_batches

Array = np.ndarray[Any, np.dtype[Any]]
LATENT = "latent"


def quantize_backbone(backbone: Encoder, cut: str, calibration: Array) -> tuple[onnx.ModelProto, LatentSpec]:
    """The backbone as an int8 QDQ graph `x -> latent`, and what its latents are.

    The graph ends in QuantizeLinear and DequantizeLinear with the storage scale and zero point, so a latent that is
    stored as uint8 and read back is the latent the backbone gave, bit for bit: remembering costs no further accuracy.
    The scale covers the smallest to the largest latent of `calibration`, and 0.

    Args:
        backbone: the frozen part, in evaluation mode.
        cut: the stage after which the encoder was cut.
        calibration: unlabelled samples `(N, *input_shape)` float32, at least 16, typical of the device's input.

    Raises:
        ConfigError: too few samples.
    """
    model = quantize_encoder(backbone, calibration, output=LATENT)
    low, high = _range(run_in_batches(model, calibration))
    scale = np.float32((high - low) / 255)
    zero_point = int(np.clip(np.rint(-low / scale), 0, 255))
    put_on_grid(model.graph, LATENT, scale, zero_point)
    latents = run_in_batches(model, calibration)
    axes = (0, *range(2, latents.ndim))
    mean, std = latents.mean(axes, dtype=np.float64), latents.std(axes, dtype=np.float64)
    std = np.where(std > 0, std, 1.0)  # a channel that never moves
    spec = InputSpec(LATENT, latents.shape[1:], tuple(mean.tolist()), tuple(std.tolist()), "activation")
    return model, LatentSpec(cut, spec, float(scale), zero_point)


def put_on_grid(graph: onnx.GraphProto, output: str, scale: np.float32, zero_point: int) -> None:
    """Round the graph's float32 `output` to `scale * (q - zero_point)`, q uint8, in place."""
    inner = f"{output}_off_grid"
    for node in graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    names = [f"{output}_grid_{part}" for part in ("scale", "zero_point", "level")]
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    graph.initializer.append(helper.make_tensor(names[1], TensorProto.UINT8, (), [zero_point]))
    graph.node.append(helper.make_node("QuantizeLinear", [inner, *names[:2]], [names[2]]))
    graph.node.append(helper.make_node("DequantizeLinear", [names[2], *names[:2]], [output]))


def _range(values: Array) -> tuple[float, float]:
    """The smallest and largest value, widened to contain 0 and not to be empty."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return (low, high) if high > low else (0.0, 1.0)
