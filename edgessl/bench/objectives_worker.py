"""One run of the objectives bench in a process of its own: `python -m edgessl.bench.objectives_worker`.

JSON lines: `{"suite", "objective", "seed", "epochs"}` in, a result of `edgessl.evaluate` (or `{"error": text}`) out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgessl.bench.suites import Suite, suite_of
from edgessl.checkpoint import Checkpoint
from edgessl.data import Source
from edgessl.encoders import Encoder
from edgessl.evaluate import Protocol, Result, TorchEmbedder, embed_source, knn_accuracy, linear_probe, rankme
from edgessl.evaluate.data import LabelledData, Split, open_labelled
from edgessl.evaluate.finetune import supervised
from edgessl.pretrain import collapse_warning, pretrain
from edgessl.recipe import Recipe, parse_recipe
from edgessl.step import METRICS

PROBES = {"knn": {"k": 20, "temperature": 0.1, "metric": "cosine"}, "linear": {"C": 1.0, "penalty": "l2"}}
REFERENCES = ("random", "supervised")


def main() -> None:
    """Answer questions on stdin until it ends."""
    import torch

    torch.set_num_threads(1)  # as many workers as there are cores
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = measure(job["suite"], job["objective"], job["seed"], job["epochs"]).to_json()
        except Exception as error:  # a failed run is a row of its own, not the end of the bench
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


def measure(name: str, objective: str, seed: int, epochs: int) -> Result:
    """Pretrain `objective` (or make a reference of `REFERENCES`) and probe its last state.

    Raises:
        ConfigError: the objective does not apply to the suite's encoder or data.
    """
    suite = suite_of(name)
    data = open_suite(suite)
    began = time.perf_counter()
    encoder, details = _encoder(suite, data, objective, seed, epochs)
    seconds = time.perf_counter() - began
    embedder = TorchEmbedder(encoder)
    bank, queries = embed_source(embedder, data.train.source), embed_source(embedder, data.test.source)
    figures = {
        "knn": (knn_accuracy(bank, data.train.labels, queries, data.test.labels),),
        "linear": (linear_probe(bank, data.train.labels, queries, data.test.labels),),
    }
    protocol = Protocol(
        data=data.name,
        train_hash=data.train.digest(),
        test_hash=data.test.digest(),
        split=data.how,
        train_size=len(data.train),
        test_size=len(data.test),
        labels=len(data.train),
        probes=PROBES,
        epochs=epochs,
        seeds=(seed,),
    )
    details |= {"rankme": rankme(queries), "dim": bank.shape[1], "seconds": round(seconds, 1)}
    role = "baseline" if objective in REFERENCES else "ours"
    return Result(objective, protocol, figures, role, details)


def open_suite(suite: Suite) -> LabelledData:
    """The suite's data, both splits cut to size by a fixed draw."""
    whole = open_labelled(suite.data, suite.options)

    def cut(split: Split, size: int) -> Split:
        if len(split) <= size:
            return split
        return split.subset(np.sort(np.random.default_rng(0).choice(len(split), size, replace=False)))

    return LabelledData(whole.name, cut(whole.train, suite.train), cut(whole.test, suite.test), whole.how)


def recipe_of(suite: Suite, objective: str, seed: int, epochs: int, **options: Any) -> Recipe:
    """The recipe of a run: the suite's budget and the objective's own defaults."""
    return parse_recipe(
        {
            "encoder": {"name": suite.encoder, "options": dict(suite.encoder_options)},
            "objective": {"name": objective, "options": options},
            "optimizer": "adamw",
            "hyper": {"lr": suite.lr},
            "batch_size": suite.batch_size,
            "epochs": epochs,
            "seed": seed,
        }
    )


def _encoder(
    suite: Suite, data: LabelledData, objective: str, seed: int, epochs: int
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder after its budget, and what is to be said about the run."""
    if objective in REFERENCES:
        recipe = recipe_of(suite, "simclr", seed, epochs)
        start = pretrain(recipe, data.train.source, stop_after=0)
        if objective == "random":
            return start.encoder(), {}
        return supervised(start, data.train, epochs=epochs, seed=seed), {}
    with TemporaryDirectory(prefix="edgessl-teacher-") as folder:
        options = {"teacher": str(_teacher(suite, data.train.source, seed, epochs, Path(folder)))}
        recipe = recipe_of(suite, objective, seed, epochs, **(options if objective == "seed" else {}))
        done = pretrain(recipe, data.train.source)
    return done.encoder(), _training_details(done)


def _teacher(suite: Suite, source: Source, seed: int, epochs: int, folder: Path) -> Path:
    """A larger encoder pretrained with simclr in the same number of epochs, for label-free distillation."""
    values = recipe_of(suite, "simclr", seed, epochs).model_dump()
    values["encoder"] = {"name": suite.teacher, "options": {}}
    path = folder / "teacher.safetensors"
    pretrain(parse_recipe(values), source, checkpoint=path)
    return path


def _training_details(done: Checkpoint) -> dict[str, Any]:
    """First and last loss, and whether the embeddings collapsed, from the training history."""
    columns = {name: done.history[:, 1 + i] for i, name in enumerate(METRICS)}
    last = {name: float(values[-1]) for name, values in columns.items()}
    return {
        "first_loss": float(columns["loss"][0]),
        "last_loss": last["loss"],
        "embedding_std": last["embedding_std"],
        "warning": collapse_warning(last),
        "parameters": int(done.state["theta"].numel()),
    }


if __name__ == "__main__":
    main()
