"""int8 encoder for ONNX Runtime's CPU: QDQ, uint8 activations, int8 per-channel weights, int32 bias.

Weights use 7 of their 8 bits: x64 processors without VNNI add pairs of uint8 x int8 products in 16 bits that saturate,
and a full-range model that is right on one machine is wrong on the next (mean cosine to float on Zen 2: 0.98, with 7
bits over 0.995).

Batch norms are folded into their convolutions first. Calibration uses unlabelled samples. This is the fast form on
x64 and ARM; TensorRT needs another one (symmetric, fp32 bias), which no single file can be as well.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgessl.encoders import Encoder, fold_batch_norm
from edgessl.errors import ConfigError
from export.passes import strip
from export.trace import IR_VERSION, trace_frozen_encoder

Array = np.ndarray[Any, np.dtype[Any]]


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Array, batch_size: int) -> None:
        self._batches: Iterator[Array] = iter([samples[i : i + batch_size] for i in range(0, len(samples), batch_size)])

    def get_next(self) -> dict[str, Array] | None:
        """The next feed, or None at the end (onnxruntime's protocol)."""
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


def quantize_encoder(
    encoder: Encoder, calibration: Array, batch_size: int = 32, output: str = "embedding"
) -> onnx.ModelProto:
    """The encoder as an int8 QDQ graph `x -> output`, activation ranges (min, max) from `calibration`.

    Args:
        encoder: float encoder.
        calibration: unlabelled samples `(N, *input_shape)` float32, at least 16, typical of the device's input.
        batch_size: samples per calibration run.
        output: name of what the graph gives.

    Raises:
        ConfigError: too few samples.
    """
    if len(calibration) < 16:
        raise ConfigError(f"int8 calibration: {len(calibration)} samples; give at least 16, better some hundreds")
    floating = trace_frozen_encoder(fold_batch_norm(encoder), output)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice about pre-processing that is done here already
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, prepared, result = (
                str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx")
            )
            onnx.save(floating, source)
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                result,
                _Samples(calibration, batch_size),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            model = onnx.load(result)
    finally:
        logging.disable(previous)
    strip(model)
    model.ir_version = IR_VERSION
    return model
