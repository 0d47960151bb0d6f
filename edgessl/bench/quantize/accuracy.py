"""What quantization does to what an encoder knows: pretrained encoders, every method, judged on test data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.bench.objectives.suites import suite_of
from edgessl.bench.objectives.worker import open_suite
from edgessl.encoders import Encoder
from edgessl.evaluate import embed, knn_accuracy, linear_probe, rankme
from edgessl.pretrain import pretrain
from edgessl.recipe import parse_recipe
from export.parity import compare
from export.quantize import FloatGraph, Settings, float_encoder, quantize_graph
from export.quantize.floating import run_in_batches
from export.quantize.int4 import pack_weights
from export.quantize.members import exact_results
from export.quantize.sensitivity import mixed_precision, weight_bytes

CALIBRATION = 512  # unlabelled training samples
CHOOSING = 256  # other training samples, by which mixed precision is chosen
Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One encoder on one suite of the objectives bench; `epochs` 0 takes the suite's."""

    suite: str
    encoder: str
    options: tuple[tuple[str, Any], ...] = (("norm", "batch"),)
    epochs: int = 0

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.encoder} on {self.suite}"


CASES = {
    "fashion": Case("fashion", "ds_cnn_s"),
    "fashion_group": Case("fashion", "ds_cnn_s", (("norm", "group"),)),
    "har": Case("har", "cnn1d"),
    "digits": Case("digits", "ds_cnn_s"),
    "resnet8": Case("fashion", "resnet8"),
}
AWARE_BITS = (8, 6, 4)


def measure(case: Case, seed: int, trainings: tuple[int, ...], progress: Callable[[str], None]) -> list[Row]:
    """Pretrain with SimCLR, rounding to each number of bits in `trainings` (0: float); a row per way to quantize that.

    A row: suite, encoder, seed, trained ("float" or "aware 4"), method, weight_bits, bytes (of the graph), cosine_mean,
    cosine_min, neighbor_overlap (to the float encoder of the same training), rankme, knn, linear (test accuracy).
    """
    suite = suite_of(case.suite)
    data = open_suite(suite)
    train, test = data.train.samples(), data.test.samples()
    draw = np.random.default_rng([seed, 51]).permutation(len(train))
    calibration, choosing = train[draw[:CALIBRATION]], train[draw[CALIBRATION : CALIBRATION + CHOOSING]]
    rows: list[Row] = []
    for bits in trainings:
        trained = f"aware {bits}" if bits else "float"
        recipe = parse_recipe(
            {
                "encoder": {"name": case.encoder, "options": dict(case.options)},
                "objective": {"name": "simclr"},
                "optimizer": "adamw",
                "hyper": {"lr": suite.lr},
                "batch_size": suite.batch_size,
                "epochs": case.epochs or suite.epochs,
                "seed": seed,
                **({"quantization": {"weight_bits": bits}} if bits else {}),
            }
        )
        encoder = pretrain(recipe, data.train.source).encoder()
        bank, queries = embed(encoder, train), embed(encoder, test)
        head = {"case": case.title, "suite": case.suite, "encoder": case.encoder, "seed": seed, "trained": trained}

        def judged(method: str, embed_with: Callable[[Array], Array], **figures: Any) -> Row:
            z_train, z_test = embed_with(train), embed_with(test)
            return {
                **head,  # noqa: B023 - called within this turn
                "method": method,
                **figures,
                **compare(z_test[:1000], queries[:1000]),  # noqa: B023
                "rankme": rankme(z_test),
                "knn": knn_accuracy(z_train, data.train.labels, z_test, data.test.labels),
                "linear": linear_probe(z_train, data.train.labels, z_test, data.test.labels),
            }

        known = {id(train): bank, id(test): queries}
        rows.append(judged("float", lambda x: known[id(x)]))  # noqa: B023
        ways = _aware_ways(encoder, calibration, bits) if bits else _ways(encoder, calibration, choosing)
        for method, run, figures in ways:
            rows.append(judged(method, run, **figures))
            progress(f"{case.title}, seed {seed}, trained {trained}: {method} kNN {rows[-1]['knn']:.3f}")
    return rows


Way = tuple[str, Callable[[Array], Array], dict[str, Any]]


def _ways(encoder: Encoder, calibration: Array, choosing: Array) -> Iterator[Way]:
    graph = float_encoder(encoder)
    for method in ("minmax", "percentile", "entropy", "mse"):
        yield _way(method, graph, calibration, Settings(method=method))
    yield _way("equalized", graph, calibration, Settings(equalize=True))
    yield _way("bias corrected", graph, calibration, Settings(correct_bias=True))
    yield _way("8 bits, as this CPU computes", graph, calibration, Settings(weight_bits=8))
    yield _way("tensorrt", graph, calibration, Settings(weight_bits=8), "tensorrt", exact=True)
    for bits in AWARE_BITS:
        yield _way(f"{bits} bits, exact", graph, calibration, Settings(weight_bits=bits), exact=True)
    yield _way(
        "4 bits, exact, equalized and corrected", graph, calibration, Settings("minmax", 4, True, True), exact=True
    )
    packed = pack_weights(graph).model()
    figures = {"weight_bits": 4, "bytes": len(packed.SerializeToString())}
    yield "int4 weights only", lambda x: exact_results(packed, x), figures
    mixed, _ = mixed_precision(graph, calibration, choosing, Settings())
    name, run, figures = _way("mixed 4 and 7 bits", graph, calibration, mixed)
    layers = len(mixed.layer_bits)
    yield name, run, {**figures, "weight_bytes": weight_bytes(graph, mixed), "layers_at_4": layers}


def _aware_ways(encoder: Encoder, calibration: Array, bits: int) -> Iterator[Way]:
    yield _way(f"{bits} bits, exact", float_encoder(encoder), calibration, Settings(weight_bits=bits), exact=True)


def _way(
    name: str, graph: FloatGraph, calibration: Array, settings: Settings, target: str = "ort-cpu", exact: bool = False
) -> Way:
    model = quantize_graph(graph, calibration, settings, target).graph.model()
    figures = {"weight_bits": settings.weight_bits, "bytes": len(model.SerializeToString())}
    if exact:
        return name, lambda x: exact_results(model, x), figures
    return name, lambda x: run_in_batches(model, x), figures
