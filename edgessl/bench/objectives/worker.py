"""One run of the objectives bench in a process of its own: `python -m edgessl.bench.objectives.worker`.

JSON lines: `{"suite", "objective", "seed", "epochs"}` in, a result of `edgessl.evaluate` (or `{"error": text}`) out.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.bench.objectives.suites import Suite, suite_of
from edgessl.checkpoint import Checkpoint
from edgessl.data import Source, Subset, content_hash, load_shared
from edgessl.data.tokens import TokenWindows
from edgessl.encoders import Encoder
from edgessl.evaluate import Protocol, Result, TorchEmbedder, embed_source, knn_accuracy, paired_recall, rankme
from edgessl.evaluate.data import LabelledData, Split, open_labelled
from edgessl.evaluate.finetune import fine_tune
from edgessl.evaluate.probes import fit_linear
from edgessl.pretrain import collapse_warning, input_spec, pretrain
from edgessl.recipe import Part, Recipe, encoder_of, parse_recipe
from edgessl.step import hyper_tensors
from edgessl.views import default_views

PROBES = {"knn": {"k": 20, "temperature": 0.1, "metric": "cosine"}, "linear": {"C": 1.0, "penalty": "l2"}}
REFERENCES = ("random", "supervised")


def main() -> None:
    """Answer questions on stdin until it ends."""
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
    began = time.process_time()
    encoder, details = _encoder(suite, data, objective, seed, epochs)
    seconds = time.process_time() - began
    embedder = TorchEmbedder(LastToken(encoder) if data.train.source.kind == "tokens" else encoder)
    bank, queries = embed_source(embedder, data.train.source), embed_source(embedder, data.test.source)
    probe = fit_linear(bank, data.train.labels)
    figures = {
        "knn": (knn_accuracy(bank, data.train.labels, queries, data.test.labels),),
        "linear": (float((probe.predict(queries) == data.test.labels).mean()),),
    }
    if data.train.source.kind == "tokens":
        details["bits"] = bits(probe, queries, data.test.labels)
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


class LastToken(nn.Module):
    """The last token's features `(N, D)`, which the next symbol depends on, in place of the mean of all."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last place of windows `(N, 1, L)`."""
        return self.encoder.features(x)[:, -1]


def bits(probe: Any, queries: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Mean `-log2` of the probability that a fitted classifier gives the true class of each query.

    A class that it never saw counts as one in a million.
    """
    probabilities = probe.predict_proba(queries)
    column = np.searchsorted(probe.classes_, truth).clip(0, len(probe.classes_) - 1)
    known = probe.classes_[column] == truth
    given = np.where(known, probabilities[np.arange(len(truth)), column], 0.0)
    return float(-np.log2(given.clip(1e-6)).mean())


def _across(done: Checkpoint, samples: np.ndarray[Any, Any]) -> dict[str, float]:
    """How often the first side of a pair finds its second among all others, in the space that clip aligns."""
    projector = done.train_step().parts.get_submodule("projector")
    rows = torch.from_numpy(TorchEmbedder(done.encoder()).embed(samples))
    with torch.no_grad():
        first, second = projector(rows).chunk(2, dim=1)
    return paired_recall(first.numpy(), second.numpy())


def open_suite(suite: Suite) -> LabelledData:
    """The suite's data, both splits cut to size by a fixed draw; text is labelled by the symbol that follows."""
    if suite.data == "shared:tinyshakespeare":
        text = load_shared("tinyshakespeare", **suite.options)
        how = "the last tenth of the text tests; the label is the next character"
        whole = LabelledData(suite.data, _followed(text.train), _followed(text.test), how, content_hash(text.train))
    else:
        whole = open_labelled(suite.data, suite.options)

    def cut(split: Split, size: int) -> Split:
        if len(split) <= size:
            return split
        return split.subset(np.sort(np.random.default_rng(0).choice(len(split), size, replace=False)))

    return replace(whole, train=cut(whole.train, suite.train), test=cut(whole.test, suite.test))


def _followed(source: Source) -> Split:
    """Windows of text, each labelled by the symbol after it."""
    assert isinstance(source, TokenWindows)
    length, stride = source.shape[1], source.stride
    following = source.ids[length::stride].astype(np.int64)
    count = min(len(source), len(following))
    return Split(Subset(source, np.arange(count)), following[:count])


def recipe_of(
    suite: Suite,
    objective: str,
    seed: int,
    epochs: int,
    encoder: tuple[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Recipe:
    """The recipe of a run: the suite's budget and the objective's own defaults."""
    name, encoder_options = encoder or suite.encoder_for(objective)
    return parse_recipe(
        {
            "encoder": {"name": name, "options": dict(encoder_options)},
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
        name, options = suite.encoder_for(objective)
        spec = input_spec(data.train.source)
        start = encoder_of(Part(name=name, options=dict(options)), spec, seed)
        if objective == "random":
            return start, {}
        tuned = fine_tune(
            start,
            data.train.samples(),
            data.train.labels,
            epochs=epochs,
            lr=suite.lr,
            batch_size=suite.batch_size,
            seed=seed,
            views=default_views(spec.kind, spec.shape),
        )
        accuracy = float((tuned.predict(data.test.samples()) == data.test.labels).mean())
        return tuned.encoder, {"own_classifier": accuracy}
    with TemporaryDirectory(prefix="edgessl-teacher-") as folder:
        recipe = recipe_of(suite, objective, seed, epochs)
        if objective == "seed":
            teacher = _teacher(suite, data.train.source, seed, epochs, Path(folder))
            recipe = recipe_of(suite, objective, seed, epochs, teacher=str(teacher))
        done = pretrain(recipe, data.train.source)
        details = _training_details(done)
        if objective == "causal" and data.test.source.kind == "tokens":
            details["own_bits"] = _test_loss(done, data.test.samples()) / math.log(2)
        if objective == "clip":
            details["recall_across"] = _across(done, data.test.samples())
        return done.encoder(), details


def _teacher(suite: Suite, source: Source, seed: int, epochs: int, folder: Path) -> Path:
    """A larger encoder pretrained with simclr in the same number of epochs, for label-free distillation."""
    path = folder / "teacher.safetensors"
    pretrain(recipe_of(suite, "simclr", seed, epochs, encoder=(suite.teacher, {})), source, checkpoint=path)
    return path


def _test_loss(done: Checkpoint, samples: np.ndarray[Any, Any]) -> float:
    """The objective's own loss, without noise, over samples it was not trained on."""
    step, hyper = done.train_step(), hyper_tensors(done.train_step().hyper)
    losses = []
    for rows in np.array_split(samples, max(1, len(samples) // 250)):
        noise = torch.zeros(step.noise_shape(len(rows)))
        losses.append(float(step.gradient(done.state, torch.from_numpy(rows), noise, hyper).loss) * len(rows))
    return sum(losses) / len(samples)


def _training_details(done: Checkpoint) -> dict[str, Any]:
    """First and last loss, and whether the embeddings collapsed, from the training history."""
    columns = {name: done.history[:, i] for i, name in enumerate(done.columns)}
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
