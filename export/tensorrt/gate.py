"""Which of a bundle's graphs TensorRT takes: the verdicts that the parity gate keeps and `edgessl inspect` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx

from edgessl.errors import ExportError
from export.tensorrt.legality import Verdict, check

if TYPE_CHECKING:
    from edgessl.device import Bundle

# forms made for ONNX Runtime's CPU; `encoder_trt` is what TensorRT gets in their place
ORT_ONLY = frozenset({"encoder_int8", "encoder_int4", "ranges"})


def verdicts(models: Mapping[str, onnx.ModelProto]) -> dict[str, Verdict]:
    """The verdict on each graph, by its key, but for those in `ORT_ONLY`."""
    return {key: check(model) for key, model in models.items() if key not in ORT_ONLY}


def bundle_verdicts(bundle: Bundle) -> dict[str, Verdict]:
    """The verdicts on a bundle's graphs."""
    graphs = bundle.manifest.graphs
    wanted = {key: spec.file for key, spec in graphs.items() if key not in ORT_ONLY}
    return verdicts({key: onnx.load_model_from_string(bundle.read(file)) for key, file in wanted.items()})


def gate(
    models: Mapping[str, onnx.ModelProto], promised: set[str], lines: Mapping[str, Mapping[str, str]]
) -> dict[str, int]:
    """How many violations each graph has; for the manifest.

    `lines` has, by a graph's key, the line of the model behind each of its tensors.

    Raises:
        ExportError: a graph among the `promised` keys, made for TensorRT, has one. No bundle is written then.
    """
    found = verdicts(models)
    for key in sorted(promised & set(found)):
        if not found[key].legal:
            known = lines.get(key, {})
            places = [(v, known.get(v.tensor)) for v in found[key].violations[:8]]
            listed = "\n  ".join(f"{v}, at {line}" if line else str(v) for v, line in places)
            raise ExportError(
                f"{key}: made for TensorRT, which would refuse {len(found[key].violations)} things in it:\n  {listed}"
            )
    return {key: len(verdict.violations) for key, verdict in found.items()}
