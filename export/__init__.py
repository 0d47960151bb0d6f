"""From torch to the device: graphs, quantization, the parity gate and the bundle writer.

from export import export_bundle
export_bundle(checkpoint, "model.edgessl", calibration=samples)

Importing this package loads neither torch nor onnx; each name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgessl import on_first_use

if TYPE_CHECKING:
    from export.agreement import int8_agreement
    from export.bundle import Graphs, export_bundle, trace_graphs
    from export.parity import STEP_TOLERANCE, encoder_parity, step_parity
    from export.quantize import quantize_encoder
    from export.trace import trace_encoder, trace_frozen_encoder, trace_step

_HOMES = {
    "Graphs": "bundle", "export_bundle": "bundle", "trace_graphs": "bundle",
    "STEP_TOLERANCE": "parity", "encoder_parity": "parity", "int8_agreement": "agreement", "step_parity": "parity",
    "quantize_encoder": "quantize",
    "trace_encoder": "trace", "trace_frozen_encoder": "trace", "trace_step": "trace",
}  # fmt: skip

__all__ = [
    "STEP_TOLERANCE",
    "Graphs",
    "encoder_parity",
    "export_bundle",
    "int8_agreement",
    "quantize_encoder",
    "step_parity",
    "trace_encoder",
    "trace_frozen_encoder",
    "trace_graphs",
    "trace_step",
]


__getattr__ = on_first_use(__name__, _HOMES)
