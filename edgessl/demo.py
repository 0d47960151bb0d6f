"""The demo: one unlabelled stream, all the way through, on scikit-learn's handwritten digits.

unlabelled images -> pretraining -> int8 bundle -> a device that learns on after a drift -> a federation -> a report

Labels are read in one place only, `_knn`, to judge embeddings. Every accuracy is of the last step, over all seeds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.continual.drifts import tilt_in_low_light
from edgessl.continual.metrics import mean_and_std
from edgessl.continual.streams import skewed_shards
from edgessl.data.digits import open_digits
from edgessl.device import Bundle, EncoderRunner, FrozenEncoderRunner, Learner
from edgessl.evaluate import embed, knn_accuracy
from edgessl.machine import machine, versions
from edgessl.pretrain import pretrain
from edgessl.recipe import Recipe, build_step
from edgessl.report import demo_report
from edgessl.step import METRICS
from export import Graphs, export_bundle, trace_graphs
from federated import federate_in_process

Array = np.ndarray[Any, np.dtype[Any]]
OnStage = Callable[[str, float, str], None]

EPOCHS = 20
BATCH = 32
DEVICE_LR = 0.002
MEMORY_BYTES = 512 << 10  # 512 images of 16 x 16 float32
KNOWN = 400  # images the device sees before the drift
STEPS_PER_BATCH = 6  # training steps after every 32 drifted images
CLIENTS = 3
CLIENT_IMAGES = 100
SKEW = 0.1  # Dirichlet concentration of the digits over the clients
ROUNDS = 4
LOCAL_STEPS = 20

PROTOCOL = {
    "Data": "scikit-learn's 1,797 handwritten digits at 16 x 16 pixels: the first 1,200 to learn from, the last 597, "
    "by other writers, to test on.",
    "Judge": "20 nearest neighbours in the embedding, cosine-weighted. Labelled training images are the bank, test "
    "images the queries, both of the domain named. Labels are used for nothing else.",
    "Pretraining": f"SimCLR with AdamW on a depthwise-separable CNN (ds_cnn_s), {EPOCHS} epochs, no labels.",
    "Drift": "The camera was knocked and the light went: images turned by 35 degrees, then Gaussian noise of 0.3 of "
    "full scale.",
    "Adapting": f"The device sees {KNOWN} known and then 800 drifted images, once, in order, within "
    f"{MEMORY_BYTES >> 10} KiB of replay memory, and takes {STEPS_PER_BATCH} steps of {BATCH} after every {BATCH} "
    "drifted ones: numpy and onnxruntime only.",
    "Federation": f"{CLIENTS} devices, each with {CLIENT_IMAGES} drifted images of mostly a few digits (Dirichlet, "
    f"{SKEW}), start from the factory weights. Federated: {ROUNDS} FedAvg rounds of {LOCAL_STEPS} local steps. Each on "
    f"its own: the same {ROUNDS * LOCAL_STEPS} steps without exchange.",
}


@dataclass
class _Digits:
    """What one seed sees: known and drifted images, to learn from and to test on."""

    seed: int
    train: Array = field(init=False)
    test: Array = field(init=False)
    drifted_train: Array = field(init=False)
    drifted_test: Array = field(init=False)
    train_labels: Array = field(init=False)
    test_labels: Array = field(init=False)

    def __post_init__(self) -> None:
        train, test = open_digits("train"), open_digits("test")
        self.train, self.test = train.take(np.arange(len(train))), test.take(np.arange(len(test)))
        self.train_labels, self.test_labels = np.asarray(train.labels), np.asarray(test.labels)
        self.drifted_train = tilt_in_low_light(self.train, seed=2 * self.seed)
        self.drifted_test = tilt_in_low_light(self.test, seed=2 * self.seed + 1)


def run_demo(out: Path, seeds: Sequence[int], on_stage: OnStage = lambda stage, done, note: None) -> dict[str, Any]:
    """Run the demo and write `report.json`, `report.html` and the first seed's bundle to `out`.

    Args:
        out: folder, made if needed.
        seeds: one whole run each, weights, order and noise included; three or more for a spread worth the name.
        on_stage: called with (stage, share done, note) as the work goes on.

    Returns:
        The content of `report.json`: accuracies in [0, 1] as `{"mean", "std", "seeds"}`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # tiny networks gain nothing from two, and on a busy machine two are ten times slower
    timer = _Timer()
    knn: dict[str, list[float]] = {"random": [], "pretrained": [], "int8": []}
    drift: dict[str, list[float]] = {"frozen_new": [], "adapted_new": [], "frozen_old": [], "adapted_old": []}
    federated: dict[str, list[float]] = {"local_mean": [], "federated": []}
    shown: dict[str, Any] = {}
    graphs: Graphs | None = None
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            digits, work = _Digits(seed), Path(folder) / str(seed)
            stage = _Stages(on_stage, number, len(seeds))
            with timer("pretrain"):
                checkpoint = _pretrain(digits, stage)
            with timer("export"):
                if graphs is None:
                    stage("Export", 0.0, "tracing the training step")
                    graphs = trace_graphs(checkpoint.train_step(), BATCH)
                bundle = _export(checkpoint, digits, graphs, out if number == 0 else work, stage)
            with timer("adapt"):
                adapted, curve = _adapt(bundle, digits, work / "device", stage)
            with timer("federate"):
                shared, alone, rounds = _federate(bundle, digits, work, stage)
            with timer("evaluate"):
                stage("Evaluate", 0.0, "nearest neighbours")
                factory = bundle.state()["theta"]
                random_encoder = build_step(checkpoint.recipe, checkpoint.input).parts.encoder
                knn["random"].append(_knn(digits, lambda x, e=random_encoder: embed(e, x)))  # type: ignore[misc]
                knn["pretrained"].append(_knn(digits, _with(bundle, factory)))
                knn["int8"].append(_knn(digits, FrozenEncoderRunner(bundle).embed))
                for name, theta in (("frozen", factory), ("adapted", adapted)):
                    drift[f"{name}_new"].append(_knn(digits, _with(bundle, theta), drifted=True))
                    drift[f"{name}_old"].append(_knn(digits, _with(bundle, theta)))
                federated["federated"].append(_knn(digits, _with(bundle, shared), drifted=True))
                each = [_knn(digits, _with(bundle, theta), drifted=True) for theta in alone]
                federated["local_mean"].append(float(np.mean(each)))
                stage("Evaluate", 1.0, f"seed {seed} done")
            if number == 0:
                shown = _shown(digits, bundle, adapted, checkpoint, curve, rounds)
    report = {
        "knn": {name: mean_and_std(values) for name, values in knn.items()},
        "drift": {name: mean_and_std(values) for name, values in drift.items()},
        "federated": {name: mean_and_std(values) for name, values in federated.items()},
        "seconds": timer.total,
        "stage_seconds": timer.stages,
        "seeds": list(seeds),
        "protocol": PROTOCOL,
        "machine": machine(),
        "versions": versions(),
        "command": "make demo",
        **shown,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1))
    demo_report({**report, "seconds": {**timer.stages, "total": timer.total}}, out / "report.html")
    return report


def _pretrain(digits: _Digits, stage: _Stages) -> Checkpoint:
    recipe = Recipe(epochs=EPOCHS, hyper={"lr": 0.003}, seed=digits.seed)

    def show(p: Any) -> None:
        stage("Pretrain", p.step / p.total, p.warning or f"loss {p.metrics['loss']:.2f}, {p.samples_per_second:.0f}/s")

    return pretrain(recipe, open_digits("train"), on_progress=show)


def _export(checkpoint: Checkpoint, digits: _Digits, graphs: Graphs, folder: Path, stage: _Stages) -> Bundle:
    stage("Export", 0.6, "quantizing and checking parity with torch")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = export_bundle(
        checkpoint, folder / "digits.edgessl", calibration=digits.train[:512], graphs=graphs, hyper={"lr": DEVICE_LR}
    )
    stage("Export", 1.0, "parity gate passed")
    return bundle


def _adapt(bundle: Bundle, digits: _Digits, folder: Path, stage: _Stages) -> tuple[Array, dict[str, list[float]]]:
    """The device's life: known images, then drifted ones, learning as they come. Returns theta and its curves."""
    curve: dict[str, list[float]] = {name: [] for name in ("step", "loss", "embedding_std", "effective_rank")}
    with Learner.open(bundle, folder, memory_bytes=MEMORY_BYTES, seed=digits.seed) as learner:
        learner.observe(digits.train[:KNOWN])
        for start in range(KNOWN, len(digits.drifted_train), BATCH):
            learner.observe(digits.drifted_train[start : start + BATCH])
            report = learner.learn(max_steps=STEPS_PER_BATCH)
            for name, values in curve.items():
                values.append(learner.metrics()["steps"] if name == "step" else report.metrics[name])
            done = (start + BATCH - KNOWN) / (len(digits.drifted_train) - KNOWN)
            stage("Adapt on the device", min(1.0, done), f"loss {report.metrics['loss']:.2f}")
        learner.save()
        return learner.theta, curve


def _federate(
    bundle: Bundle, digits: _Digits, folder: Path, stage: _Stages
) -> tuple[Array, list[Array], list[dict[str, Any]]]:
    """The same steps with and without exchange. Returns the shared theta, each device's own, and the rounds."""
    shards = skewed_shards(digits.train_labels, CLIENTS, concentration=SKEW, seed=digits.seed)
    streams = [digits.drifted_train[shard[:CLIENT_IMAGES]] for shard in shards]

    def show(record: dict[str, Any], theta: Array) -> None:
        stage("Federate", 0.5 * record["round"] / ROUNDS, f"round {record['round']} of {ROUNDS}")

    result = federate_in_process(
        bundle,
        streams,
        rounds=ROUNDS,
        local_steps=LOCAL_STEPS,
        seed=digits.seed,
        workdir=folder / "federation",
        memory_bytes=MEMORY_BYTES,
        on_round=show,
    )

    def on_its_own(client: int) -> Array:
        state = folder / f"alone-{client}"
        with Learner.open(bundle, state, memory_bytes=MEMORY_BYTES, seed=digits.seed + client) as learner:
            learner.observe(streams[client])
            learner.learn(max_steps=ROUNDS * LOCAL_STEPS)
            return learner.theta

    alone = []
    with ThreadPoolExecutor(2) as pool:  # onnxruntime leaves Python's lock while it computes
        for client, theta in enumerate(pool.map(on_its_own, range(CLIENTS))):
            alone.append(theta)
            stage("Federate", 0.5 + 0.5 * (client + 1) / CLIENTS, f"device {client + 1} on its own")
    return result.theta, alone, result.rounds


def _with(bundle: Bundle, theta: Array) -> Callable[[Array], Array]:
    runner = EncoderRunner(bundle)
    return lambda x: runner.embed(theta, x)


def _knn(digits: _Digits, embedder: Callable[[Array], Array], drifted: bool = False) -> float:
    bank, queries = (digits.drifted_train, digits.drifted_test) if drifted else (digits.train, digits.test)
    return knn_accuracy(embedder(bank), digits.train_labels, embedder(queries), digits.test_labels)


def _shown(
    digits: _Digits,
    bundle: Bundle,
    adapted: Array,
    checkpoint: Checkpoint,
    curve: dict[str, list[float]],
    rounds: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the report draws, from the first seed."""
    from sklearn.decomposition import PCA

    def plane(theta: Array) -> dict[str, Any]:
        points = PCA(2, random_state=0).fit_transform(_with(bundle, theta)(digits.drifted_test))
        return {"points": points.round(4).tolist(), "labels": digits.test_labels.tolist()}

    rows = checkpoint.rows()
    return {
        "curves": {
            "pretrain": {name: [row[name] for row in rows] for name in ("step", *METRICS) if name != "grad_norm"},
            "adapt": curve,
            "federated": {"round": [r["round"] for r in rounds], "loss": [r["loss"] for r in rounds]},
        },
        "samples": {
            "before": digits.test[:12, 0].round(3).tolist(),
            "after": digits.drifted_test[:12, 0].round(3).tolist(),
        },
        "embedding": {"before": plane(bundle.state()["theta"]), "after": plane(adapted)},
        "bundle": {name: member.bytes for name, member in bundle.manifest.members.items()},
        "parity": dict(bundle.manifest.parity),
    }


@dataclass(frozen=True)
class _Stages:
    """Stage progress of one seed as progress over all seeds."""

    on_stage: OnStage
    number: int
    count: int

    def __call__(self, stage: str, done: float, note: str) -> None:
        self.on_stage(stage, (self.number + done) / self.count, note)


class _Timer:
    """Wall-clock seconds by stage, added up over seeds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages[stage] = round(self.stages.get(stage, 0.0) + time.perf_counter() - start, 2)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return round(time.perf_counter() - self._start, 2)
