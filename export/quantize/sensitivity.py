"""Mixed precision: which layers can do with few bits, by what rounding them does to the representation, without labels.

Each layer is rounded alone, the rest left in float, and the embeddings compared with the float ones: cosine similarity,
share of nearest neighbours kept, and effective rank (RankMe, Garrido et al. 2022, https://arxiv.org/abs/2210.02885).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgessl.evaluate import rankme
from export.agreement import compare
from export.quantize.calibration import Array
from export.quantize.encoder import ORT_CPU, quantize_graph
from export.quantize.floating import FloatGraph, run_graph
from export.quantize.layers import layers
from export.quantize.settings import FLOAT, Settings


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one layer alone, to `bits`, does to the representation.

    `cosine`: mean similarity to the float embeddings; `neighbor_overlap`: share of 10 nearest neighbours kept;
    `rankme_ratio`: effective rank, of the float one; `weights`: how many the layer has.
    """

    layer: str
    bits: int
    cosine: float
    neighbor_overlap: float
    rankme_ratio: float
    weights: int

    @property
    def harm(self) -> float:
        """One number to order layers by: 0 for none."""
        rank = abs(float(np.log(max(self.rankme_ratio, 1e-6))))
        return (1 - self.cosine) + (1 - self.neighbor_overlap) + rank


def sensitivities(graph: FloatGraph, calibration: Array, samples: Array, bits: int = 4) -> list[Sensitivity]:
    """One row per layer of `graph`, most harmful first; ranges from `calibration`, embeddings of `samples`."""
    expected = run_graph(graph, samples)[graph.output]
    everything, rank = layers(graph), rankme(expected)
    found = []
    for layer in everything:
        others = {other.name: FLOAT for other in everything if other is not layer}
        made = quantize_graph(graph, calibration, Settings(weight_bits=bits, layer_bits=others), ORT_CPU).graph
        z = run_graph(made, samples)[made.output]
        figures = compare(z, expected)
        cosine, overlap = figures["cosine_mean"], figures["neighbor_overlap"]
        size = graph.constants[layer.weight].size
        found.append(Sensitivity(layer.name, bits, cosine, overlap, rankme(z) / rank, size))
    return sorted(found, key=lambda row: row.harm, reverse=True)


def mixed_precision(
    graph: FloatGraph,
    calibration: Array,
    samples: Array,
    settings: Settings,
    *,
    low: int = 4,
    tolerance: float = 0.02,
) -> tuple[Settings, list[Sensitivity]]:
    """`settings` with as many layers at `low` bits as the representation bears.

    Starts with all layers at `low` bits and gives the most harmful ones, per weight, their full bits back until the
    share of nearest neighbours kept is within `tolerance` of what it is with full bits everywhere.

    Returns:
        The settings, and the rows of `sensitivities` they follow from.
    """
    expected = run_graph(graph, samples)[graph.output]

    def kept(chosen: Settings) -> float:
        made = quantize_graph(graph, calibration, chosen).graph
        return compare(run_graph(made, samples)[made.output], expected)["neighbor_overlap"]

    rows = sensitivities(graph, calibration, samples, low)
    wanted = kept(settings) - tolerance
    bits = {row.layer: low for row in rows}
    for row in sorted(rows, key=lambda r: r.harm / r.weights, reverse=True):
        if kept(replace(settings, layer_bits=bits)) >= wanted:
            break
        bits.pop(row.layer)
    return replace(settings, layer_bits=bits), rows


def weight_bytes(graph: FloatGraph, settings: Settings) -> int:
    """Bytes of all weights at the settings' bits, packed."""
    return sum(-(-graph.constants[layer.weight].size * settings.bits(layer.name) // 8) for layer in layers(graph))
