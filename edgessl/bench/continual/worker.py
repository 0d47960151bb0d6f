"""One run of the continual bench in a process of its own: `python -m edgessl.bench.continual.worker`.

JSON lines: `{"stream", "objective", "strategy", "backend", "seed"}` in, a row (or `{"error": text}`) out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from edgessl.bench.continual.contenders import Contender, contender
from edgessl.bench.continual.streams import BATCH, SCENARIOS, Problem, problem
from edgessl.checkpoint import Checkpoint
from edgessl.continual.consolidation import consolidated
from edgessl.continual.device_step import device_step
from edgessl.continual.judge import KINDS, Judge
from edgessl.continual.life import Life, live, live_jointly, standstill
from edgessl.continual.streams import Stream
from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import Learner, SessionProfile
from edgessl.device.noise import probe_signs
from edgessl.device.runners import Model
from edgessl.encoders.cut import cut_encoder
from edgessl.evaluate import embed
from edgessl.pretrain import pretrain
from edgessl.recipe import Part, build_step, parse_recipe
from edgessl.step import hyper_tensors

HEADLINE = "knn"  # of the judge's kinds: what the row's own figures are; the others stand under their names
IMPORTANCE_SAMPLES = 64  # as in export.bundle
RATIO_EVERY = 20  # training steps between two looks at the gradients' norms
Row = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    """Answer questions on stdin until it ends."""
    torch.set_num_threads(1)  # as many workers as there are cores
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    for line in sys.stdin:
        try:
            answer = measure(**json.loads(line))
        except Exception as error:  # a failed run is a row of its own, not the end of the bench
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


def measure(stream: str, objective: str, strategy: str, backend: str, seed: int) -> Row:
    """Let a device live through `stream`, or make a reference, and judge it.

    Raises:
        ConfigError: unknown names, or a strategy that does not go with the objective.
    """
    chosen = contender(strategy)
    found, checkpoint, judge = prepared(stream, objective, seed)
    began = time.process_time()
    with TemporaryDirectory(prefix="edgessl-continual-") as folder:
        life = _life(strategy, chosen, stream, found, checkpoint, judge, backend, seed, Path(folder))
    seconds = time.process_time() - began
    summaries = {kind: life.summary(kind).to_json() for kind in KINDS}
    kept = ("final_accuracy", "average_accuracy", "forgetting", "backward_transfer")
    figures = summaries.pop(HEADLINE)
    return {
        "stream": stream,
        "objective": objective,
        "strategy": strategy,
        "backend": backend,
        "memory_bytes": life.counts.get("memory_bytes", 0),
        **{name: figures.pop(name) for name in kept},
        "seed": seed,
        **figures,
        **summaries,
        "matrices": {kind: life.matrix(kind).round(5).tolist() for kind in KINDS},
        "contexts": list(found.order.names),
        "positions": life.positions,
        "drifts": life.drifts,
        "gradient_ratio": float(np.median(life.metrics.get("gradient_ratio", [0.0]))),
        "seconds": round(seconds, 2),
        **{name: life.counts.get(name, 0) for name in ("steps", "rejected", "rollbacks", "remembered")},
    }


@lru_cache(maxsize=2)
def prepared(stream: str, objective: str, seed: int) -> tuple[Problem, Checkpoint, Judge]:
    """What all strategies of a stream, objective and seed share: the samples, the factory's encoder, the judge."""
    found, scenario = problem(stream, seed), SCENARIOS[stream]
    recipe = parse_recipe(
        {
            "encoder": {"name": scenario.encoder, "options": dict(scenario.encoder_options)},
            "objective": {"name": objective},
            "optimizer": "adamw",
            "hyper": {"lr": scenario.lr},
            "batch_size": BATCH,
            "epochs": scenario.factory_epochs,
            "seed": seed,
        }
    )
    return found, pretrain(recipe, found.factory), Judge(found.bank, found.test)


def _life(
    name: str,
    chosen: Contender,
    stream: str,
    found: Problem,
    checkpoint: Checkpoint,
    judge: Judge,
    backend: str,
    seed: int,
    folder: Path,
) -> Life:
    course = Stream(found.stream, found.order, found.budget.chunk)
    if name in ("random", "frozen"):
        untrained = build_step(checkpoint.recipe, checkpoint.input).parts.encoder
        encoder = untrained if name == "random" else checkpoint.encoder()
        return standstill(lambda x: embed(encoder, x), course, judge)
    budget = found.budget
    if chosen.latent:
        budget = replace(budget, memory_bytes=budget.memory_bytes // 4)
    model = _model(chosen, stream, found, checkpoint, backend, folder)
    if name == "joint":
        return live_jointly(model, found.everything(), course, budget, judge, seed)
    memory = {"memory_bytes": budget.memory_bytes, "policy": chosen.policy, "seed": seed}
    with Learner.open(model, folder / "state", **memory) as learner:  # type: ignore[arg-type]
        life = live(learner, course, budget, judge)
    if isinstance(model, TorchModel) and model.ratios:
        life.metrics["gradient_ratio"] = model.ratios
    return life


def _model(chosen: Contender, stream: str, found: Problem, checkpoint: Checkpoint, backend: str, folder: Path) -> Model:
    """What the learner opens: torch, or a bundle that was exported for it."""
    scenario = SCENARIOS[stream]
    strategy = None if chosen.strategy is None else Part(name=chosen.strategy, options=dict(chosen.options))
    cut = scenario.cut if chosen.latent else None
    hyper = {"lr": scenario.lr}
    calibration = found.factory.take(np.arange(min(256, len(found.factory))))
    if backend == "onnx":
        from export import export_bundle

        return export_bundle(
            checkpoint,
            folder / "device.edgessl",
            calibration=calibration,
            batch_size=BATCH,
            hyper=hyper,
            strategy=strategy,
            cut=cut,
        )
    options: dict[str, Any] = {"batch_size": BATCH, "hyper": hyper}
    step, state = device_step(checkpoint, strategy=strategy, cut=cut)
    if step.strategy is not None and step.strategy.measures:  # as the exporter does: what was pretrained counts too
        rows = calibration[np.unique(np.linspace(0, len(calibration) - 1, IMPORTANCE_SAMPLES).round().astype(np.int64))]
        probes = torch.from_numpy(probe_signs(0, 0, (len(rows), step.parts.encoder.embedding_dim)))
        state = consolidated(step, state, torch.from_numpy(rows), probes, hyper_tensors({**step.hyper, **hyper}))
    recipe = checkpoint.recipe.model_copy(update={"strategy": strategy})
    if cut is None:
        return TorchModel(recipe, checkpoint.input, step, state, ratio_every=RATIO_EVERY, **options)
    from export.backbone import quantize_backbone

    graph, latent = quantize_backbone(cut_encoder(checkpoint.encoder(), cut)[0], cut, calibration)
    backbone = _Latents(graph.SerializeToString())
    return TorchModel(recipe, checkpoint.input, step, state, latent=latent, backbone=backbone, **options)


class _Latents:
    """onnxruntime's int8 backbone, as a bundle would bring it."""

    def __init__(self, graph: bytes) -> None:
        self._session = SessionProfile().session(graph, "backbone")

    def latents(self, x: Array) -> Array:
        """Latents (N, *latent) float32 of samples `x` (N, *shape)."""
        parts = [np.ascontiguousarray(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        return np.concatenate([self._session.run(["latent"], {"x": part})[0] for part in parts])


if __name__ == "__main__":
    main()
