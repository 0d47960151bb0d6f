"""The quantized encoders of a bundle, and the gate that they pass before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort

from edgessl.device.requantize.plan import PLAN_FILE, RANGES
from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.evaluate import embed
from export.parity import agreement
from export.quantize.calibration import Array
from export.quantize.encoder import ORT_CPU, TENSORRT, quantize_graph, settings_for
from export.quantize.floating import float_encoder, run_in_batches, with_theta
from export.quantize.int4 import INT4, pack_weights
from export.quantize.requantization import ranges_graph, requantization_plan
from export.quantize.settings import Settings

TARGETS = (ORT_CPU, TENSORRT, INT4)
KEYS = {ORT_CPU: "encoder_int8", TENSORRT: "encoder_trt", INT4: "encoder_int4"}


@dataclass(frozen=True)
class Quantization:
    """What a bundle's quantized encoders are.

    Attributes:
        settings: for ONNX Runtime's CPU; the TensorRT form takes them with 8-bit weights.
        targets: some of "ort-cpu", "tensorrt" and "int4".
        requantize: the int8 encoder can be made anew on the device, from what it learned.

    Raises:
        ConfigError: no or an unknown target, or requantize without "ort-cpu".
    """

    settings: Settings = field(default_factory=Settings)
    targets: tuple[str, ...] = (ORT_CPU,)
    requantize: bool = False

    def __post_init__(self) -> None:
        if not self.targets or set(self.targets) - set(TARGETS):
            raise ConfigError(f"targets {list(self.targets)}: expected some of {', '.join(TARGETS)}")
        if self.requantize and ORT_CPU not in self.targets:
            raise ConfigError(f"requantize: what is made anew on the device is {ORT_CPU!r}; add it to the targets")


@dataclass(frozen=True)
class Members:
    """Graphs by their key in the manifest, other files by name, and the gate's figures."""

    models: dict[str, onnx.ModelProto]
    files: dict[str, bytes]
    parity: dict[str, dict[str, float]]
    activations: int = 0


def quantized_members(
    encoder: Encoder,
    wanted: Quantization,
    calibration: Array,
    held_out: Array,
    following: tuple[onnx.ModelProto, str, Array] | None,
) -> Members:
    """Every quantized encoder that is `wanted`, calibrated on one part of the samples and judged on the other.

    Args:
        encoder: the float encoder of samples.
        wanted: what to make.
        calibration, held_out: unlabelled samples `(N, *shape)` float32.
        following: the graph `(slot, x) -> embedding`, the slot's name and its flat weights, where that graph embeds
            samples; None behind a cut, where it embeds latents.

    Raises:
        ConfigError: requantize behind a cut, or too few samples.
        ExportError: the constants are not theta's.
        ParityError: an integer encoder disagrees with the float one.
    """
    if wanted.requantize and following is None:
        raise ConfigError("requantize: behind a cut the whole encoder stays as it is; only the float tail learns")
    graph = float_encoder(encoder) if following is None else with_theta(*following)
    made = Members({}, {}, {})
    activations = 0
    for target in wanted.targets:
        if target == INT4:
            model = pack_weights(graph).model()
        else:
            settings = wanted.settings if target == ORT_CPU else settings_for(wanted.settings, target)
            written = quantize_graph(graph, calibration, settings, target)
            model = written.graph.model()
            if target == ORT_CPU and wanted.requantize and following is not None:
                made.files[PLAN_FILE] = requantization_plan(graph, written, following[2].size).to_bytes()
                made.models[RANGES] = ranges_graph(following[0], written.activations)
                activations = len(written.activations)
        made.models[KEYS[target]] = model
        if target == TENSORRT:
            found = exact_results(model, held_out)
            made.parity[KEYS[target]] = agreement(found, embed(encoder, held_out), "TensorRT's int8 encoder")
        else:
            what = "int4 encoder" if target == INT4 else "int8 encoder"
            made.parity[KEYS[target]] = agreement(run_in_batches(model, held_out), embed(encoder, held_out), what)
    return Members(made.models, made.files, made.parity, activations)


def exact_results(model: onnx.ModelProto, samples: Array, batch: int = 32) -> Array:
    """What an integer graph means: rounding as written, products in float32.

    ONNX Runtime's own int8 kernels for this form saturate on processors without VNNI; TensorRT's do not.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"x": samples[i : i + batch]})[0] for i in range(0, len(samples), batch)]
    return np.concatenate(parts)
