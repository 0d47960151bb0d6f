"""The device's side of the step bench: train.onnx in stock onnxruntime, the state kept in its own tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgessl.device.runtime import SessionProfile
from edgessl.device.storage.tensors import Array


def build(case: Mapping[str, Any], arrays: Mapping[str, Array], folder: Path, threads: int) -> Callable[[int], float]:
    """The function that does training step number `t` and returns its loss, as `edgessl.device` runs it."""
    session = SessionProfile(threads=threads).step_session((folder / "train.onnx").read_bytes(), "train.onnx")
    outputs = [node.name for node in session.get_outputs()]
    batches, noises = arrays["batch"], arrays["noise"]
    state = {name.removeprefix("state."): _value(array) for name, array in arrays.items() if name.startswith("state.")}
    hyper = {f"hyper.{name}": _value(np.array(value, np.float32)) for name, value in case["hyper"].items()}

    def step(t: int) -> float:
        i = t % len(batches)
        feeds = {**state, **hyper, "batch": _value(batches[i]), "noise": _value(noises[i])}
        results = dict(zip(outputs, session.run_with_ort_values(outputs, feeds), strict=True))
        for name in state:
            state[name] = results[f"next.{name}"]
        return float(results["loss"].numpy())

    return step


def _value(array: Array) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(array)
