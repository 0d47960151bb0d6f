"""Evaluation of encoders with labels, which are used nowhere else.

    embedder = TorchEmbedder(checkpoint.encoder())
    bank, queries = embed_source(embedder, train), embed_source(embedder, test)
    knn_accuracy(bank, train.labels, queries, test.labels)

`edgessl.evaluate.suite` runs everything that applies, beside random weights and a supervised reference, and writes
its protocol into every result; `edgessl evaluate` is its command.
"""

from edgessl.evaluate.collapse import alignment, rankme, spectrum, uniformity
from edgessl.evaluate.embedder import BundleEmbedder, Embedder, Int8Embedder, TorchEmbedder, embed, embed_source
from edgessl.evaluate.neighbours import class_retrieval, knn_accuracy, knn_predict, paired_recall, zero_shot_predict
from edgessl.evaluate.online import OnlineProbe
from edgessl.evaluate.probes import few_shot, label_efficiency, label_fractions, linear_probe
from edgessl.evaluate.protocol import Protocol, Result, merge, table

__all__ = [
    "BundleEmbedder",
    "Embedder",
    "Int8Embedder",
    "OnlineProbe",
    "Protocol",
    "Result",
    "TorchEmbedder",
    "alignment",
    "class_retrieval",
    "embed",
    "embed_source",
    "few_shot",
    "knn_accuracy",
    "knn_predict",
    "label_efficiency",
    "label_fractions",
    "linear_probe",
    "merge",
    "paired_recall",
    "rankme",
    "spectrum",
    "table",
    "uniformity",
    "zero_shot_predict",
]
