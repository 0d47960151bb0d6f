"""What quantization does to what an encoder knows: pretrained encoders, every method, judged on test data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.bench.objectives.suites import suite_of
from edgessl.bench.objectives.worker import open_suite
from edgessl.evaluate import embed, knn_accuracy, linear_probe, rankme
from edgessl.pretrain import pretrain
from edgessl.recipe import parse_recipe
from export.agreement import compare
from export.quantize import FloatGraph, Settings, float_encoder, quantize_graph
from export.quantize.floating import run_in_batches
from export.quantize.int4 import pack_weights
from export.quantize.members import exact_results
from export.quantize.sensitivity import mixed_precision, weight_bytes

CALIBRATION = 512  # unlabelled training samples
CHOOSING = 256  # other training samples, by which mixed precision is chosen
AWARE_BITS = (8, 6, 4)
BITS = (*AWARE_BITS, 3)  # to which encoders trained in float are rounded
FLOAT = "float"
Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]
Made = tuple[Callable[[Array], Array], dict[str, Any]]  # what embeds, and figures of it
Method = Callable[[FloatGraph, Array, Array], Made]  # of a graph, calibration and choosing samples


@dataclass(frozen=True)
class Case:
    """One encoder on one suite of the objectives bench."""

    suite: str
    encoder: str
    norm: str = "batch"

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.encoder} on {self.suite}" + (", group norm" if self.norm == "group" else "")


CASES = {
    "fashion": Case("fashion", "ds_cnn_s"),
    "fashion_group": Case("fashion", "ds_cnn_s", "group"),
    "har": Case("har", "cnn1d"),
    "digits": Case("digits", "ds_cnn_s"),
    "resnet8": Case("fashion", "resnet8"),
}


def _rounded(settings: Settings, target: str = "ort-cpu", exact: bool = False) -> Method:
    """Quantized as `settings` say; `exact` computes without the saturation of processors without VNNI."""

    def make(graph: FloatGraph, calibration: Array, choosing: Array) -> Made:
        model = quantize_graph(graph, calibration, settings, target).graph.model()
        figures = {"weight_bits": settings.weight_bits, "bytes": len(model.SerializeToString())}
        return (lambda x: exact_results(model, x) if exact else run_in_batches(model, x)), figures

    return make


def _packed(graph: FloatGraph, calibration: Array, choosing: Array) -> Made:
    model = pack_weights(graph).model()
    return (lambda x: exact_results(model, x)), {"weight_bits": 4, "bytes": len(model.SerializeToString())}


def _mixed(graph: FloatGraph, calibration: Array, choosing: Array) -> Made:
    settings, _ = mixed_precision(graph, calibration, choosing, Settings())
    embed_with, figures = _rounded(settings)(graph, calibration, choosing)
    at_4 = len(settings.layer_bits)
    return embed_with, {**figures, "weight_bytes": weight_bytes(graph, settings), "layers_at_4": at_4}


def exact(bits: int) -> str:
    """The method that rounds weights to `bits` and computes without saturation."""
    return f"{bits} bits, exact"


METHODS: dict[str, Method] = {
    "minmax": _rounded(Settings()),
    "percentile": _rounded(Settings("percentile")),
    "entropy": _rounded(Settings("entropy")),
    "mse": _rounded(Settings("mse")),
    "equalized": _rounded(Settings(equalize=True)),
    "bias corrected": _rounded(Settings(correct_bias=True)),
    "8 bits, as this CPU computes": _rounded(Settings(weight_bits=8)),
    "tensorrt": _rounded(Settings(weight_bits=8), "tensorrt", exact=True),
    **{exact(bits): _rounded(Settings(weight_bits=bits), exact=True) for bits in BITS},
    "4 bits, exact, equalized and corrected": _rounded(Settings("minmax", 4, True, True), exact=True),
    "int4 weights only": _packed,
    "mixed 4 and 7 bits": _mixed,
}


def trained_as(bits: int) -> str:
    """What tables call a training that rounds to `bits`; 0 does not round."""
    return f"aware {bits}" if bits else FLOAT


def methods_of(bits: int, wanted: Collection[str] = tuple(METHODS)) -> tuple[str, ...]:
    """How an encoder of that training is judged: in float, and by the METHODS `wanted` or to its own bits."""
    return (FLOAT, exact(bits)) if bits else (FLOAT, *(name for name in METHODS if name in wanted))


def measure(case: Case, seed: int, bits: int, methods: Collection[str], progress: Callable[[str], None]) -> list[Row]:
    """Pretrain with SimCLR, rounding to `bits` (0: in float); a row for each of `methods`, some of `methods_of(bits)`.

    A row: case, suite, encoder, seed, trained ("float" or "aware 4"), method, cosine_mean, cosine_min, neighbor_overlap
    (to the float encoder of the same training), rankme, knn, linear (test accuracy), and of all but the float one
    weight_bits and bytes (of the graph).
    """
    suite = suite_of(case.suite)
    data = open_suite(suite)
    train, test = data.train.samples(), data.test.samples()
    draw = np.random.default_rng([seed, 51]).permutation(len(train))
    calibration, choosing = train[draw[:CALIBRATION]], train[draw[CALIBRATION : CALIBRATION + CHOOSING]]
    recipe = parse_recipe(
        {
            "encoder": {"name": case.encoder, "options": {"norm": case.norm}},
            "objective": {"name": "simclr"},
            "optimizer": "adamw",
            "hyper": {"lr": suite.lr},
            "batch_size": suite.batch_size,
            "epochs": suite.epochs,
            "seed": seed,
            **({"quantization": {"weight_bits": bits}} if bits else {}),
        }
    )
    encoder = pretrain(recipe, data.train.source).encoder()
    graph = float_encoder(encoder)
    bank, queries = embed(encoder, train), embed(encoder, test)
    head = {"case": case.title, "suite": case.suite, "encoder": case.encoder, "seed": seed, "trained": trained_as(bits)}
    rows: list[Row] = []
    for method in methods:
        figures: dict[str, Any] = {}
        z_train, z_test = bank, queries
        if method != FLOAT:
            embed_with, figures = METHODS[method](graph, calibration, choosing)
            z_train, z_test = embed_with(train), embed_with(test)
        judged = {
            **compare(z_test[:1000], queries[:1000]),
            "rankme": rankme(z_test),
            "knn": knn_accuracy(z_train, data.train.labels, z_test, data.test.labels),
            "linear": linear_probe(z_train, data.train.labels, z_test, data.test.labels),
        }
        rows.append({**head, "method": method, **figures, **judged})
        progress(f"{case.title}, seed {seed}, trained {trained_as(bits)}: {method} kNN {rows[-1]['knn']:.3f}")
    return rows
