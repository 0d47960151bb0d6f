"""The quantized encoders of a bundle, and the gate that they pass before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort

from edgessl.device.requantize.forms import TAIL
from edgessl.device.requantize.plan import PLAN_FILE, RANGES
from edgessl.encoders import Encoder
from edgessl.errors import ConfigError
from edgessl.evaluate import embed
from export.agreement import agreement
from export.lines import Lines
from export.quantize.calibration import Array
from export.quantize.encoder import ORT_CPU, TENSORRT, quantize_graph, settings_for
from export.quantize.floating import FloatGraph, float_encoder, run_in_batches, with_theta
from export.quantize.int4 import INT4, pack_weights
from export.quantize.requantization import ranges_graph, requantization_plan
from export.quantize.settings import Settings
from export.quantize.writing import Written

TARGETS = (ORT_CPU, TENSORRT, INT4)
KEYS = {ORT_CPU: "encoder_int8", TENSORRT: "encoder_trt", INT4: "encoder_int4"}


@dataclass(frozen=True)
class Quantization:
    """What a bundle's quantized encoders are.

    Attributes:
        settings: for ONNX Runtime's CPU; the TensorRT form takes them with 8-bit weights.
        targets: some of "ort-cpu", "tensorrt" and "int4".
        requantize: the int8 encoder can be made anew on the device, from what it learned; behind a cut, an int8 tail.

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
    activations: int = 0  # whose ranges the ranges graph measures

    def __or__(self, other: Members) -> Members:
        """Both together."""
        models, files, parity = self.models | other.models, self.files | other.files, self.parity | other.parity
        return Members(models, files, parity, self.activations + other.activations)


class Following(NamedTuple):
    """The graph `(slot, x) -> embedding`, the slot's name, its flat weights, the lines behind the graph's tensors."""

    graph: onnx.ModelProto
    slot: str
    theta: Array
    lines: Lines


def quantized_members(
    encoder: Encoder,
    wanted: Quantization,
    calibration: Array,
    held_out: Array,
    following: Following | None,
) -> Members:
    """Every quantized encoder that is `wanted`, calibrated on one part of the samples and judged on the other.

    Args:
        encoder: the float encoder of samples.
        wanted: what to make.
        calibration, held_out: unlabelled samples `(N, *shape)` float32.
        following: the encoder's graph where that embeds samples; None behind a cut, see `tail_members`.

    Raises:
        ConfigError: too few samples.
        ExportError: the constants are not theta's.
        ParityError: an integer encoder disagrees with the float one.
    """
    graph = float_encoder(encoder) if following is None else with_theta(*following)
    made = Members({}, {}, {})
    for target in wanted.targets:
        if target == INT4:
            model = pack_weights(graph).model()
        else:
            settings = wanted.settings if target == ORT_CPU else settings_for(wanted.settings, target)
            written = quantize_graph(graph, calibration, settings, target)
            model = written.graph.model()
            if target == ORT_CPU and wanted.requantize and following is not None:
                made |= _requantizable(graph, written, following)
        made.models[KEYS[target]] = model
        if target == TENSORRT:
            found = exact_results(model, held_out)
            made.parity[KEYS[target]] = agreement(found, embed(encoder, held_out), "TensorRT's int8 encoder")
        else:
            what = "int4 encoder" if target == INT4 else "int8 encoder"
            made.parity[KEYS[target]] = agreement(run_in_batches(model, held_out), embed(encoder, held_out), what)
    return made


def tail_members(settings: Settings, tail: Following, calibration: Array, held_out: Array) -> Members:
    """The int8 form of what learns behind a cut, ready to be made anew on the device, and judged on latents.

    Args:
        settings: how to quantize.
        tail: its graph takes latents.
        calibration, held_out: latents `(N, *latent)` float32, as the backbone gives them.

    Raises:
        ConfigError: too few latents.
        ExportError: the constants are not theta's.
        ParityError: the integer tail disagrees with the float one.
    """
    graph = with_theta(*tail)
    written = quantize_graph(graph, calibration, settings)
    model = written.graph.model()
    figures = agreement(run_in_batches(model, held_out), run_in_batches(graph.model(), held_out), "int8 tail")
    return Members({TAIL: model}, {}, {TAIL: figures}) | _requantizable(graph, written, tail)


def _requantizable(graph: FloatGraph, written: Written, following: Following) -> Members:
    """What a device makes `written` anew with."""
    plan = requantization_plan(graph, written, following.theta.size)
    ranges = ranges_graph(following.graph, written.activations)
    return Members({RANGES: ranges}, {PLAN_FILE: plan.to_bytes()}, {}, len(written.activations))


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
