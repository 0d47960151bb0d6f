"""From torch to the device: graphs, quantization, the parity gate and the bundle writer.

from export import export_bundle
export_bundle(checkpoint, "model.edgessl", calibration=samples)
"""

from export.bundle import Graphs, export_bundle, trace_graphs
from export.parity import STEP_TOLERANCE, encoder_parity, int8_agreement, step_parity
from export.quantize import quantize_encoder
from export.trace import trace_encoder, trace_frozen_encoder, trace_step

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
