"""The whole evaluation of one encoder: everything that applies, under one protocol, beside its references.

Rows: the pretrained encoder (for a bundle, float and int8), the same encoder with its initial weights ("random
weights"), and trained with every label from those weights ("supervised"). What does not apply is skipped by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import edgessl
from edgessl.data.source import Source
from edgessl.errors import ConfigError
from edgessl.evaluate.data import LabelledData
from edgessl.evaluate.embedder import Embedder, TorchEmbedder, embed_source
from edgessl.evaluate.finetune import Tuned, fine_tune, supervised_settings
from edgessl.evaluate.measures import MEASURES, RANDOM, SUPERVISED
from edgessl.evaluate.protocol import Protocol, Result, table
from edgessl.evaluate.subject import Subject
from edgessl.machine import machine, versions

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[str, float | None, str], None]
SUITES: dict[str, tuple[str, ...]] = {
    "quick": ("knn", "linear", "collapse"),
    "full": tuple(MEASURES),
}


@dataclass(frozen=True)
class Settings:
    """What a user may choose. `seeds`: repetitions of what is drawn; `epochs`: of supervised training."""

    suite: str = "quick"
    k: int = 20
    temperature: float = 0.1
    seeds: int = 5
    epochs: int = 20
    limit: int = 10_000
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ConfigError(f"unknown suite {self.suite!r}; choose one of {', '.join(SUITES)}")


@dataclass
class Row:
    """One encoder under evaluation: its embeddings of both splits, and what was found."""

    name: str
    role: str
    embedder: Embedder
    bank: Array
    queries: Array
    tuned: Tuned | None = None  # the supervised reference: the classifier it was trained with
    probe: Any = None  # the fitted linear probe
    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """What the measures share; they add to `probes`, the rows' figures and details, and `skipped`."""

    subject: Subject
    data: LabelledData
    settings: Settings
    rows: list[Row]
    outside: Source | None
    progress: Progress
    probes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def pretrained(self) -> Row:
        """The float encoder's row."""
        return self.rows[0]


def evaluate(
    subject: Subject,
    data: LabelledData,
    settings: Settings | None = None,
    *,
    outside: Source | None = None,
    references: bool = True,
    on_progress: Progress = lambda stage, done, note: None,
) -> dict[str, Any]:
    """Evaluate `subject` on `data`.

    Args:
        subject: from `open_subject`; data: from `open_labelled`, in the subject's own shape.
        settings: what to run and how; the quick suite by default.
        outside: samples from elsewhere, of the same shape, to be told from the test split.
        references: False leaves out random weights and the supervised encoder, where results of the same protocol that
            have them will stand beside.
        on_progress: (stage, share done or None, note).

    Returns:
        JSON values: `results` (a `Result` per row, all of one protocol), `table` (markdown), `skipped` (measure ->
        why), `contamination`, `energy` (of the pretraining, where its file has it), `seconds`,
        `machine`, `versions`; rows' details hold what is more than a figure.

    Raises:
        DataError: the data are not what the encoder takes.
    """
    settings = settings or Settings()
    began = time.monotonic()
    subject.check(data.train.source, data.name)
    if outside is not None:
        subject.check(outside, "the other data")
    data = data.limited(settings.limit)
    if subject.encoder is not None:
        subject.encoder.to(settings.device)
    rows = _rows(subject, data, settings, references, on_progress)
    run = Run(subject, data, settings, rows, outside, on_progress)
    for name in SUITES[settings.suite]:
        on_progress(name.replace("_", " "), None, "")
        MEASURES[name](run)
    protocol = _protocol(run)
    results = [Result(r.name, protocol, {k: (v,) for k, v in r.figures.items()}, r.role, r.details) for r in rows]
    return {
        "subject": {"path": str(subject.path), "kind": subject.kind, "objective": subject.objective},
        "suite": settings.suite,
        "classes": list(data.classes),
        "protocol": {**protocol.to_json(), "digest": protocol.digest},
        "results": [result.to_json() for result in results],
        "table": table(results).markdown(),
        "skipped": run.skipped,
        **run.extras,
        "energy": subject.provenance.get("energy"),
        "seconds": round(time.monotonic() - began, 3),
        "machine": machine(),
        "versions": versions(("numpy", "onnxruntime", "torch", "scikit-learn")),
    }


def _rows(subject: Subject, data: LabelledData, settings: Settings, references: bool, progress: Progress) -> list[Row]:
    """The encoders and references, with both splits embedded."""

    def embedded(name: str, role: str, embedder: Embedder, tuned: Tuned | None = None) -> Row:
        progress("embedding", None, name)
        bank, queries = (embed_source(embedder, part.source) for part in (data.train, data.test))
        return Row(name, role, embedder, bank, queries, tuned)

    names = list(subject.embedders)
    rows = [embedded(name, "ours" if name == names[0] else "variant", subject.embedders[name]) for name in names]
    if not references:
        return rows
    initial = subject.initial().to(settings.device)
    rows.append(embedded(RANDOM, "baseline", TorchEmbedder(initial)))
    tuned = fine_tune(
        initial,
        data.train.samples(),
        data.train.labels,
        epochs=settings.epochs,
        seed=subject.seed,
        views=subject.views,
        device=settings.device,
        on_epoch=lambda epoch: progress("supervised reference", epoch / settings.epochs, f"epoch {epoch}"),
    )
    rows.append(embedded(SUPERVISED, "baseline", TorchEmbedder(tuned.encoder), tuned))
    return rows


def _protocol(run: Run) -> Protocol:
    subject, data = run.subject, run.data
    return Protocol(
        data=data.name,
        train_hash=data.train.digest(),
        test_hash=data.test.digest(),
        split=data.how,
        train_size=len(data.train),
        test_size=len(data.test),
        labels=len(data.train),
        probes={**run.probes, SUPERVISED: supervised_settings(run.settings.epochs)},
        epochs=subject.epochs,
        seeds=(subject.seed,),
        weights=subject.weights,
        version=edgessl.__version__,
    )
