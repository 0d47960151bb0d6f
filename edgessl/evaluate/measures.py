"""The suite's measures: each looks at every row that it applies to, and writes down its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgessl.evaluate import contamination as duplicates
from edgessl.evaluate import probes
from edgessl.evaluate.adversarial import PGD_STEPS, RADII, LinearModel, adversarial_accuracy
from edgessl.evaluate.collapse import diagnose
from edgessl.evaluate.corruptions import CORRUPTIONS
from edgessl.evaluate.embedder import TorchEmbedder, embed_source
from edgessl.evaluate.finetune import fine_tune, supervised_settings
from edgessl.evaluate.neighbours import class_retrieval, knn_predict, paired_recall, zero_shot_predict
from edgessl.evaluate.online import OnlineProbe
from edgessl.evaluate.robustness import corruption_accuracy, out_of_distribution
from edgessl.evaluate.subgroups import subgroups as accuracy_by_group

if TYPE_CHECKING:
    from edgessl.evaluate.suite import Row, Run

Array = np.ndarray[Any, np.dtype[Any]]
SHOTS, FRACTIONS = (1, 5, 10), (0.01, 0.1)
RANDOM, SUPERVISED = "random weights", "supervised"
FEW = 1000  # test samples for what embeds them many times over, evenly spaced
PAIRS = 4096  # samples whose two views give the alignment
OOD_K = 10


def knn(run: Run) -> None:
    """Weighted nearest neighbours."""
    labels, truth, s = run.data.train.labels, run.data.test.labels, run.settings
    run.probes["knn"] = {"k": s.k, "temperature": s.temperature, "metric": "cosine"}
    for row in run.rows:
        row.figures["knn"] = _share(knn_predict(row.bank, labels, row.queries, s.k, s.temperature), truth)


def linear(run: Run) -> None:
    """The linear probe, offline and online; the offline one serves the adversarial and the subgroup measures too."""
    labels, truth = run.data.train.labels, run.data.test.labels
    run.probes["linear"] = {"classifier": "logistic regression, L2, C = 1", "iterations": 1000}
    for row in run.rows:
        row.probe = probes.fit_linear(row.bank, labels)
        row.figures["linear"] = _share(row.probe.predict(row.queries), truth)
    # in every protocol, so that a run without an online probe can stand beside one with
    run.probes["linear, online"] = {"learned": "on detached embeddings of augmented views while pretraining ran"}
    if not run.subject.online:
        run.skipped["linear, online"] = "no probe learned while pretraining ran"
    elif run.subject.provenance.get("data") != run.data.whole_hash:
        run.skipped["linear, online"] = "the probe learned the labels of other data"
    else:
        probe = OnlineProbe.of(run.subject.online)
        predicted = probe.predict(torch.from_numpy(run.pretrained.queries)).numpy()
        run.pretrained.figures["linear, online"] = _share(predicted, truth)


def collapse(run: Run) -> None:
    """Diagnostics of the test embeddings; the alignment of two of pretraining's own views."""
    views = run.subject.two_views(run.data.test.limited(PAIRS).samples())
    if views is None:
        run.skipped["alignment"] = "pretraining had no random views of a sample"
    for row in run.rows:
        pair = None if views is None else (row.embedder.embed(views[0]), row.embedder.embed(views[1]))
        row.details["collapse"] = diagnose(row.queries, pair)


def few_shot(run: Run) -> None:
    """1, 5 and 10 labels per class, over seeded draws."""
    train, test, draws = run.data.train, run.data.test, max(2, run.settings.seeds)
    least = int(np.unique(train.labels, return_counts=True)[1].min())
    shots = [n for n in SHOTS if n <= least]
    if len(shots) < len(SHOTS):
        run.skipped[f"few_shot {SHOTS[len(shots)]}+"] = f"the smallest class has {least} labelled samples"
    for n in shots:
        for name, probe in (("mean", "nearest class mean, cosine"), ("logistic", "linear")):
            run.probes[f"{n}-shot {name}"] = {"probe": probe, "labels_per_class": n, "draws": draws, "seed": 0}
    for row in run.rows:
        found = probes.few_shot(row.bank, train.labels, row.queries, test.labels, shots, draws)
        row.details["few_shot"] = {str(n): {k: v.to_json() for k, v in by.items()} for n, by in found.items()}
        for n, by in found.items():
            row.figures |= {f"{n}-shot {name.removeprefix('nearest_')}": v.mean for name, v in by.items()}


def label_fractions(run: Run) -> None:
    """A linear probe with 1 % and 10 % of the labels."""
    train, test, draws = run.data.train, run.data.test, max(2, run.settings.seeds)
    for row in run.rows:
        found = probes.label_fractions(row.bank, train.labels, row.queries, test.labels, FRACTIONS, draws)
        row.details["label_fractions"] = {}
        for fraction, (count, interval) in found.items():
            name = f"{fraction:.0%} labels"
            run.probes[name] = {"labels": count, "draws": draws, "seed": 0, "probe": "linear"}
            row.figures[name] = interval.mean
            row.details["label_fractions"][name] = {"labels": count, **interval.to_json()}


def label_efficiency(run: Run) -> None:
    """Accuracy per label: a linear probe on 1, 2, 4 ... labels per class, and the area under it."""
    train, test, draws = run.data.train, run.data.test, 3
    run.probes["area over log labels"] = {"probe": "linear", "draws": draws, "seed": 0}
    for i, row in enumerate(run.rows):
        run.progress("label efficiency", i / len(run.rows), row.name)

        def score(chosen: Array, row: Row = row) -> float:
            return probes.linear_probe(row.bank[chosen], train.labels[chosen], row.queries, test.labels)

        curve, area = probes.label_efficiency(train.labels, score, draws)
        row.figures["area over log labels"] = area
        row.details["label_efficiency"] = {"labels": [n for n, _ in curve], "accuracy": [a for _, a in curve]}


def retrieval(run: Run) -> None:
    """Test samples retrieve training samples of their class."""
    train, test = run.data.train, run.data.test
    run.probes |= {name: {"gallery": "train", "metric": "cosine"} for name in ("mAP", "R@1", "R@5", "R@10")}
    for row in run.rows:
        row.figures |= class_retrieval(row.queries, test.labels, row.bank, train.labels)


def cross_modal(run: Run) -> None:
    """One side of a pair finds the other, and classes of one side by prototypes of the other (zero-shot)."""
    if run.subject.projections is None:
        run.skipped["cross_modal"] = "the encoder does not embed two sides of pairs in one space"
        return
    train, test = run.data.train, run.data.test
    for way in ("1 to 2", "2 to 1"):
        run.probes |= {f"pairs {way} R@{k}": {"gallery": "the test split's other side"} for k in (1, 5, 10)}
        run.probes[f"pairs {way} mAP"] = {"gallery": "the test split's other side", "relevant": "of the same class"}
        run.probes[f"zero-shot {way}"] = {"prototypes": "class means of the training split's other side"}
    pretrained, initial = run.subject.projections
    for row in run.rows:
        if row.name == SUPERVISED:
            continue  # trained on classes, it has no space in which the sides could meet
        project = initial if row.name == RANDOM else pretrained
        bank, queries = project(row.bank), project(row.queries)
        for way, a, b in (("1 to 2", 0, 1), ("2 to 1", 1, 0)):
            found = paired_recall(queries[a], queries[b])
            row.figures |= {f"pairs {way} {name}": value for name, value in found.items()}
            by_class = class_retrieval(queries[a], test.labels, queries[b], test.labels)
            row.figures[f"pairs {way} mAP"] = by_class["mAP"]
            predicted = zero_shot_predict(queries[a], bank[b], train.labels)
            row.figures[f"zero-shot {way}"] = _share(predicted, test.labels)


def fine_tuning(run: Run) -> None:
    """Every weight trained with every label; from random weights that is the supervised row."""
    train, test, s = run.data.train, run.data.test, run.settings
    run.probes["fine-tuned"] = supervised_settings(s.epochs)
    if run.subject.encoder is None:
        run.skipped["fine_tune"] = "a bundle has no encoder in torch; evaluate its checkpoint"
    else:
        tuned = fine_tune(
            run.subject.encoder,
            train.samples(),
            train.labels,
            epochs=s.epochs,
            seed=run.subject.seed,
            views=run.subject.views,
            device=s.device,
            on_epoch=lambda epoch: run.progress("fine tune", epoch / s.epochs, f"epoch {epoch}"),
        )
        run.pretrained.figures["fine-tuned"] = _share(tuned.predict(test.samples()), test.labels)
    for row in run.rows:
        if row.tuned is not None:
            row.figures["fine-tuned"] = _share(row.tuned.predict(test.samples()), test.labels)


def corruptions(run: Run) -> None:
    """kNN accuracy on corrupted test samples; the bank stays clean."""
    spec, s, few = run.subject.input, run.settings, run.data.test.limited(FEW)
    if spec.kind not in CORRUPTIONS:
        run.skipped["corruptions"] = f"there are none for {spec.kind}"
        return
    names = [function.__name__ for function in CORRUPTIONS[spec.kind]]
    run.probes["corrupted"] = {"probe": "knn", "samples": len(few), "corruptions": ", ".join(names), "seed": 0}
    samples = few.samples()
    for i, row in enumerate(run.rows):

        def predict(x: Array, row: Row = row) -> Array:
            return knn_predict(row.bank, run.data.train.labels, row.embedder.embed(x), s.k, s.temperature)

        def note(share: float, i: int = i, row: Row = row) -> None:
            run.progress("corruptions", (i + share) / len(run.rows), row.name)

        found = corruption_accuracy(predict, samples, few.labels, spec.kind, np.array(spec.std), on_done=note)
        row.figures["corrupted"] = found["mean"]
        row.details["corruptions"] = found


def other_data(run: Run) -> None:
    """Telling other data from the test split."""
    if run.outside is None:
        run.skipped["out_of_distribution"] = "no other data; give some of the same shape: --ood DATA"
        return
    name = run.extras["outside"] = {"samples": len(run.outside)}
    for score in ("knn", "mahalanobis"):
        run.probes[f"OOD {score}"] = {"figure": "AUROC", "k": OOD_K if score == "knn" else 0, **name}
    for row in run.rows:
        found = out_of_distribution(
            row.bank, run.data.train.labels, row.queries, embed_source(row.embedder, run.outside), OOD_K
        )
        row.figures |= {f"OOD {score}": value for score, value in found.items()}


def adversarial(run: Run) -> None:
    """FGSM and PGD on encoder and linear probe."""
    few = run.data.test.limited(FEW)
    if run.subject.input.kind not in CORRUPTIONS:
        run.skipped["adversarial"] = f"a small change of {run.subject.input.kind} is not defined"
        return
    if run.subject.encoder is None:
        run.skipped["adversarial"] = "a bundle's encoder has no gradients; evaluate its checkpoint"
    run.probes["PGD"] = {
        "norm": "L-infinity", "radius": RADII[-1], "unit": "standard deviations", "steps": PGD_STEPS,
        "samples": len(few), "probe": "linear",
    }  # fmt: skip
    for i, row in enumerate(run.rows):
        run.progress("adversarial", i / len(run.rows), row.name)
        if isinstance(row.embedder, TorchEmbedder):
            model = LinearModel.of(row.embedder.encoder, row.probe)
            found = adversarial_accuracy(model, few.samples(), few.labels, run.subject.input)
            row.figures["PGD"] = found["pgd"][-1]
            row.details["adversarial"] = found


def contamination(run: Run) -> None:
    """Test samples that training has, exactly or nearly."""
    train, test = run.data.train, run.data.test
    embed: Callable[[Array], Array] = run.pretrained.embedder.embed
    run.extras["contamination"] = duplicates.contamination(
        train.samples(), train.labels, test.samples(), test.labels, embed, run.subject.input.kind == "image"
    )


def subgroups(run: Run) -> None:
    """Accuracy of the linear probe by group."""
    test = run.data.test
    if not test.groups:
        run.skipped["subgroups"] = "the data name no groups (shared data do: subject, speaker, device)"
        return
    for row in run.rows:
        found, left_out = accuracy_by_group(test.labels, row.probe.predict(row.queries), test.groups)
        row.details["subgroups"] = found
        run.skipped |= {f"subgroups by {name}": why for name, why in left_out.items()}


# in the order in which they run; the linear probe comes before what uses it
MEASURES: dict[str, Callable[[Run], None]] = {
    "knn": knn,
    "linear": linear,
    "collapse": collapse,
    "few_shot": few_shot,
    "label_fractions": label_fractions,
    "label_efficiency": label_efficiency,
    "retrieval": retrieval,
    "cross_modal": cross_modal,
    "fine_tune": fine_tuning,
    "corruptions": corruptions,
    "out_of_distribution": other_data,
    "adversarial": adversarial,
    "contamination": contamination,
    "subgroups": subgroups,
}


def _share(predicted: Array, truth: Array) -> float:
    return float((predicted == truth).mean())
