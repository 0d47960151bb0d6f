"""onnxruntime-training 1.19.2 (the last there is) on the step: its own gradient graph, its own AdamW.

Runs in an environment of its own: Python 3.11 or older, `onnxruntime-training-cpu==1.19.2 onnx==1.16.2 numpy<2`. Its
package imports torch for parts that are not needed here; empty modules in their place keep torch out, in its favour.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

for _name in ("onnxruntime.training.optim", "onnxruntime.training.amp"):
    sys.modules.setdefault(_name, ModuleType(_name))

import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from onnxruntime.training import api, artifacts, onnxblock  # noqa: E402

from edgessl.device.storage.tensors import Array  # noqa: E402


def build(case: Mapping[str, Any], arrays: Mapping[str, Array], folder: Path, threads: int) -> Callable[[int], float]:
    """The function that does training step number `t` and returns its loss.

    Weight decay applies to all parameters, ours leaves biases and gains out: its optimizer has one group.
    """
    where, hyper = folder / f"training-{threads}", case["hyper"]
    where.mkdir(exist_ok=True)
    clip = onnxblock.optim.ClipGradNorm(max_norm=hyper["clip_norm"])
    artifacts.generate_artifacts(
        onnx.load(folder / "forward.onnx"),
        requires_grad=case["trained"],
        optimizer=onnxblock.optim.AdamW(
            betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"], weight_decay=hyper["weight_decay"], clip_grad=clip
        ),
        artifact_directory=str(where),
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    state = api.CheckpointState.load_checkpoint(str(where / "checkpoint"))
    module = api.Module(str(where / "training_model.onnx"), state, session_options=options)
    optimizer = api.Optimizer(str(where / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(hyper["lr"])
    batches, noises = arrays["batch"], arrays["noise"]
    module.train()

    def step(t: int) -> float:
        i = t % len(batches)
        loss = module(batches[i], noises[i])
        optimizer.step()
        module.lazy_reset_grad()
        return float(loss)

    return step
