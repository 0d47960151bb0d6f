"""Quantization: an encoder in integers, for ONNX Runtime's CPU and for TensorRT.

    model = quantize_encoder(encoder, samples, Settings(method="mse"), target="tensorrt")

No single file serves both: ONNX Runtime is fast with uint8 activations and int32 biases, which TensorRT refuses;
TensorRT wants int8 with zero point 0 everywhere, with which ONNX Runtime is slower than in float.
"""

from export.quantize.encoder import ORT_CPU, TARGETS, TENSORRT, quantize_encoder, quantize_graph, settings_for
from export.quantize.floating import FloatGraph, float_encoder, float_graph, with_theta
from export.quantize.members import Quantization
from export.quantize.settings import FLOAT, Settings

__all__ = [
    "FLOAT",
    "ORT_CPU",
    "TARGETS",
    "TENSORRT",
    "FloatGraph",
    "Quantization",
    "Settings",
    "float_encoder",
    "float_graph",
    "quantize_encoder",
    "quantize_graph",
    "settings_for",
    "with_theta",
]
