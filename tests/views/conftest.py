"""Helpers of the views' tests: seeded uniform numbers, and a graph's outputs under stock onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, u: Tensor) -> Any:
        return self.function(x, u)


def _draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    # Drawn in float32 for every dtype: the same numbers, and none rounds up to 1.
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _run_onnx(function: Callable[..., Any], example: tuple[Tensor, ...], fresh: tuple[Tensor, ...]) -> list[np.ndarray]:
    module = function if isinstance(function, torch.nn.Module) else _Module(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, example, dynamo=True, opset_version=20, optimize=False, verbose=False)
    assert program is not None
    assert {node.domain for node in program.model_proto.graph.node} == {""}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (t.numpy() for t in fresh), strict=True)))


@pytest.fixture(scope="session")
def draw() -> Callable[..., Tensor]:
    """draw(*shape, seed=0, dtype=float32): uniform [0, 1) numbers, the same on every call."""
    return _draw


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., list[np.ndarray]]:
    """run_onnx(function, example, fresh): export what is traced on `example` and run it on `fresh`."""
    return _run_onnx
