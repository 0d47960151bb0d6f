"""Streams made to ruin a model: what is left of it with the guard and without, beside an honest stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from edgessl.bench.results import keep
from edgessl.data.digits import open_digits
from edgessl.device import Bundle, Learner
from edgessl.device.guard.collapse import Guard, Verdict
from edgessl.device.storage.tensors import Array
from edgessl.errors import ConfigError, InputError
from edgessl.evaluate import knn_accuracy
from edgessl.machine import machine, versions
from edgessl.pretrain import pretrain
from edgessl.recipe import Recipe
from export import export_bundle, trace_graphs

KNOWN = 400  # honest images first
ATTACK = 640  # images of the attack, in blocks
BLOCK, STEPS, SAVE_EVERY = 32, 8, 4  # images and steps a block, blocks a save
MEMORY_BYTES = 512 << 10
RATE = 0.01  # five times the demo's: haste that an attack can use
HOT = 100.0  # times RATE: an integrator's slip of the decimal point
LABELLED, POISONED = 8, 0.4  # exemplars a digit; share with a wrong label
Row = dict[str, Any]


def _streams(train: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Attacks by name, ATTACK images each."""
    base = train[rng.choice(len(train), ATTACK)]
    shape, low = base.shape, float(train.min())
    high = float(train.max())
    shuffled = base.reshape(ATTACK, -1)[:, rng.permutation(base[0].size)].reshape(shape)
    return {
        "honest": base,
        "constant": np.full(shape, 0.5, np.float32),
        "one image": np.repeat(base[:1], ATTACK, 0),
        "tiny variance": (0.5 + 1e-4 * rng.standard_normal(shape)).astype(np.float32),
        "saturated": np.where(rng.random(shape) < 0.5, low, high).astype(np.float32),
        "huge": (1e6 * rng.standard_normal(shape)).astype(np.float32),
        # inverted, every pixel elsewhere: real statistics, no digit
        "adversarial": (high - shuffled).astype(np.float32),
        "NaN": np.full(shape, np.nan, np.float32),
        "hot rate": base,
    }


class _Blind(Guard):
    """Keeps every step."""

    def judge(self, metrics: Mapping[str, float]) -> tuple[Verdict, str]:
        return Verdict.KEEP, ""


def run(
    seeds: Sequence[int] = (0, 1, 2),
    *,
    epochs: int = 20,
    attacks: Sequence[str] | None = None,
    out: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """20-nearest-neighbour accuracy on digits after each attack, guarded and not; labels poisoned too.

    A device sees KNOWN images, learns and saves, then the attack: ATTACK images with STEPS steps of 32 after every
    BLOCK and a save every SAVE_EVERY blocks, at a learning rate of RATE; "hot rate" is the honest stream at HOT times
    that. Its bank is the honest training images.

    Args:
        seeds: of pretraining, order and noise.
        epochs: of pretraining (SimCLR, ds_cnn_s).
        attacks: names, or all.
        out: a file the result is written to as it grows.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "versions", "settings", "rows"}; a row: seed, attack, guarded, `before` (after the known
        images), `after`, `rollbacks`, `rejected`, `refused` (samples), `frozen`. Rows "poisoned labels": accuracy of
        the few-label head, with POISONED of the exemplars wrong, `before` with none.

    Raises:
        ConfigError: an unknown attack.
    """
    torch.set_num_threads(1)
    rows: list[Row] = []
    graphs = None
    train, test = (source.take(np.arange(len(source))) for source in (open_digits("train"), open_digits("test")))
    labels = [np.asarray(open_digits(part).labels) for part in ("train", "test")]
    with TemporaryDirectory(prefix="edgessl-attacks-") as folder:
        for seed in seeds:
            progress(f"seed {seed}: pretraining and export")
            made = pretrain(Recipe(epochs=epochs, hyper={"lr": 0.003}, seed=seed), open_digits("train"))
            graphs = graphs or trace_graphs(made.train_step(), 32)
            path = Path(folder) / f"{seed}.edgessl"
            bundle = export_bundle(made, path, calibration=None, graphs=graphs, hyper={"lr": RATE})
            streams = _streams(train, np.random.default_rng(seed))
            if unknown := sorted(set(attacks or ()) - set(streams)):
                raise ConfigError(f"bench attacks: unknown attack {unknown[0]!r}; choose some of {', '.join(streams)}")

            def judge(learner: Learner) -> float:
                return float(knn_accuracy(learner.embed(train), labels[0], learner.embed(test), labels[1]))

            for name in attacks or streams:
                for guarded in (True, False):
                    home = Path(folder) / f"{seed}-{name}-{guarded}"
                    rate = HOT * RATE if name == "hot rate" else RATE
                    row = _attack(bundle, home, train[:KNOWN], streams[name], rate, guarded, seed, judge)
                    rows.append({"seed": seed, "attack": name, "guarded": guarded, **row})
                    progress(f"seed {seed}: {name}, guarded {guarded}: {row['before']:.3f} to {row['after']:.3f}")
                    keep(out, _result(epochs, rows))
            rows.append(
                {
                    "seed": seed,
                    "attack": "poisoned labels",
                    "guarded": True,
                    **_poison(bundle, Path(folder), train, test, labels, seed),
                }
            )
    result = _result(epochs, rows)
    keep(out, result)
    return result


def _result(epochs: int, rows: list[Row]) -> dict[str, Any]:
    settings = {"epochs": epochs, "known": KNOWN, "attack": ATTACK, "steps_per_block": STEPS, "lr": RATE}
    return {"bench": "attacks", "machine": machine(), "versions": versions(), "settings": settings, "rows": rows}


def _attack(
    bundle: Bundle,
    home: Path,
    known: Array,
    stream: Array,
    rate: float,
    guarded: bool,
    seed: int,
    judge: Callable[[Learner], float],
) -> Row:
    with Learner.open(bundle, home, memory_bytes=MEMORY_BYTES, seed=seed) as learner:
        learner.observe(known)
        learner.learn(max_steps=4 * STEPS)
        learner.save()
        before, refused = judge(learner), 0
        learner.hyper["lr"] = rate
        if not guarded:
            learner._loop._guard = _Blind()
            learner._examine = lambda view=None: ""  # type: ignore[method-assign]
        for block, start in enumerate(range(0, len(stream), BLOCK), 1):
            try:
                learner.observe(stream[start : start + BLOCK])
            except InputError:
                refused += BLOCK
            learner.learn(max_steps=STEPS)
            if block % SAVE_EVERY == 0:
                learner.save()
        counts = learner.metrics()
        return {
            "before": before,
            "after": judge(learner),
            "rollbacks": counts["rollbacks"],
            "rejected": counts["rejected"],
            "refused": refused,
            "frozen": bool(counts.get("frozen", False)),
        }


def _poison(bundle: Bundle, folder: Path, train: Array, test: Array, labels: list[Array], seed: int) -> Row:
    rng, found = np.random.default_rng(seed), []
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(labels[0] == digit), LABELLED, replace=False) for digit in range(10)]
    )
    for share in (0.0, POISONED):
        with Learner.open(bundle, folder / f"{seed}-labels-{share}", seed=seed) as learner:
            wrong = rng.random(len(chosen)) < share
            said = np.where(wrong, (labels[0][chosen] + rng.integers(1, 10, len(chosen))) % 10, labels[0][chosen])
            for image, label in zip(train[chosen], said, strict=True):
                learner.enroll(image, str(label))
            answers = [int(p.label) for p in learner.classify(test)]  # type: ignore[union-attr]
            found.append(float(np.mean(np.asarray(answers) == labels[1])))
    return {"before": found[0], "after": found[1], "rollbacks": 0, "rejected": 0, "refused": 0, "frozen": False}
