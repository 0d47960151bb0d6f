"""From an encoder, or its graph, to an integer graph: one calibration, two writers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx

from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from export.quantize import ort_cpu, tensorrt
from export.quantize.bias_correction import correct_biases
from export.quantize.calibration import Array, Range, calibrate
from export.quantize.equalization import equalize
from export.quantize.floating import FloatGraph, float_encoder
from export.quantize.settings import Settings
from export.quantize.writing import Written

ORT_CPU, TENSORRT = "ort-cpu", "tensorrt"


@dataclass(frozen=True)
class Target:
    """One form: which activations it rounds, and how it writes them."""

    rounded: Callable[[FloatGraph, Settings], list[str]]
    write: Callable[[FloatGraph, Mapping[str, Range], Settings], Written]
    weight_bits: int


TARGETS = {
    ORT_CPU: Target(ort_cpu.rounded_tensors, ort_cpu.write, 7),
    TENSORRT: Target(tensorrt.rounded_tensors, tensorrt.write, 8),
}


def quantize_graph(
    graph: FloatGraph, calibration: Array, settings: Settings | None = None, target: str = ORT_CPU
) -> Written:
    """A float graph in integers.

    Args:
        graph: from `float_encoder` or `with_theta`; stays as it was.
        calibration: unlabelled samples `(N, *input_shape)` float32, at least 16, typical of the device's input.
        settings: the target's own number of weight bits and nothing else by default.
        target: "ort-cpu" or "tensorrt".

    Raises:
        ConfigError: unknown target or method, or too few samples.
    """
    if target not in TARGETS:
        raise ConfigError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    form = TARGETS[target]
    settings = settings or Settings(weight_bits=form.weight_bits)
    if settings.equalize:
        graph = equalize(graph)
    ranges = calibrate(graph, form.rounded(graph, settings), calibration, settings.method)
    if settings.correct_bias:
        graph = correct_biases(graph, lambda g: form.write(g, ranges, settings), calibration)
    return form.write(graph, ranges, settings)


def quantize_encoder(
    encoder: Encoder,
    calibration: Array,
    settings: Settings | None = None,
    *,
    target: str = ORT_CPU,
    output: str = "embedding",
) -> onnx.ModelProto:
    """The encoder as an integer graph `x -> output`; see `quantize_graph`."""
    graph = float_encoder(encoder, output)
    return quantize_graph(graph, calibration, settings, target).graph.model()


def settings_for(settings: Settings, target: str) -> Settings:
    """`settings` with the number of weight bits that `target` takes for granted."""
    return replace(settings, weight_bits=TARGETS[target].weight_bits)
