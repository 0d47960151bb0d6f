"""Data, fine-tuning and the whole suite on a tiny checkpoint and a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.data import PairedSource, array_source
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import build_encoder
from edgessl.errors import ConfigError, DataError, InputError
from edgessl.evaluate import (
    OnlineProbe,
    Result,
    TorchEmbedder,
    class_retrieval,
    embed,
    embed_source,
    knn_accuracy,
    paired_recall,
    zero_shot_predict,
)
from edgessl.evaluate.data import LabelledData, Split, hold_out, labelled, open_labelled
from edgessl.evaluate.finetune import fine_tune
from edgessl.evaluate.measures import MEASURES
from edgessl.evaluate.subject import Subject, open_subject
from edgessl.evaluate.suite import RANDOM, SUPERVISED, Settings, evaluate
from edgessl.recipe import Recipe, build_step

SPEC = InputSpec("image", (1, 8, 8), (0.5,), (0.3,), "intensity")


def stripes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (n, 8, 8) of horizontal (0), vertical (1) and no stripes (2)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = 0.3 * rng.random((n, 8, 8))
    x[y == 0, ::2] += 0.6
    x[y == 1, :, ::2] += 0.6
    return x.astype(np.float32), y


def some_data(groups: bool = True) -> LabelledData:
    parts = []
    for n, seed in ((120, 0), (75, 1)):
        x, y = stripes(n, seed)
        who = {"subject": np.arange(n) % 2, "purity": np.linspace(0, 1, n)} if groups else {}
        parts.append(labelled(array_source(x, labels=y, kind="image", name="stripes"), "stripes", who))
    return LabelledData("stripes", parts[0], parts[1], "by seed", "0" * 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights were nudged away from the initial ones, with an online probe."""
    recipe = Recipe.model_validate({"encoder": {"name": "ds_cnn_s"}, "batch_size": 40, "epochs": 2, "seed": 3})
    state = build_step(recipe, SPEC).initial_state()
    state["theta"] = state["theta"] + 0.01 * torch.randn(
        len(state["theta"]), generator=torch.Generator().manual_seed(0)
    )
    probe = OnlineProbe(128, 3)
    provenance = {"samples": 120, "data": "0" * 64, "energy": {"joules": 7200.0, "co2_g": 1.0, "grade": "estimated"}}
    path = tmp_path_factory.mktemp("evaluate") / "checkpoint.safetensors"
    Checkpoint(recipe, SPEC, 6, state, np.zeros((0, 2)), ("step", "loss"), provenance, probe.state()).save(path)
    return path


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Subject:
    return open_subject(checkpoint)


@pytest.fixture(scope="module")
def full(subject: Subject) -> dict[str, object]:
    outside = array_source(np.random.default_rng(0).random((50, 8, 8)).astype(np.float32), kind="image", name="noise")
    return evaluate(subject, some_data(), Settings(suite="full", k=5, seeds=2, epochs=2), outside=outside)


def test_a_checkpoint_is_a_subject(subject: Subject) -> None:
    assert (subject.kind, subject.objective, subject.epochs, subject.seed) == ("checkpoint", "simclr", 2.0, 3)
    assert subject.weights == "last epoch"
    x = stripes(9, 5)[0][:, None]
    initial = build_encoder("ds_cnn_s", (1, 8, 8), mean=[0.5], std=[0.3], seed=3)
    np.testing.assert_array_equal(embed(subject.initial(), x), embed(initial, x))
    assert np.abs(subject.embedders["simclr"].embed(x) - embed(initial, x)).max() > 1e-3
    first, second = subject.two_views(x) or (x, x)
    assert first.shape == x.shape
    assert np.abs(first - second).max() > 0.1


def test_an_unfinished_run_says_so(checkpoint: Path, tmp_path: Path) -> None:
    saved = Checkpoint.load(checkpoint)
    half = Checkpoint(saved.recipe, saved.input, 3, saved.state, saved.history, saved.columns, saved.provenance)
    half.save(tmp_path / "half.safetensors")
    found = open_subject(tmp_path / "half.safetensors")
    assert (found.epochs, found.weights) == (1.0, "step 3, before the last of 2 epochs")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.safetensors"):
        open_subject(tmp_path / "absent.safetensors")
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(DataError, match="x"):
        open_subject(tmp_path / "x")


def test_every_row_has_the_one_protocol_and_survives_json(full: dict[str, object]) -> None:
    results = [Result.from_json(json.loads(json.dumps(row))) for row in full["results"]]  # type: ignore[attr-defined]
    assert [r.name for r in results] == ["simclr", RANDOM, SUPERVISED]
    assert [r.role for r in results] == ["ours", "baseline", "baseline"]
    assert len({r.protocol.digest for r in results}) == 1
    protocol = results[0].protocol
    assert (protocol.train_size, protocol.test_size, protocol.labels, protocol.epochs) == (120, 75, 120, 2.0)
    assert (protocol.seeds, protocol.weights) == ((3,), "last epoch")
    assert protocol.probes["knn"]["k"] == 5
    assert all(0 <= value <= 1 for r in results for (value,) in r.figures.values())


def test_the_suite_runs_every_measure_and_says_what_it_left_out(full: dict[str, object]) -> None:
    ours, random, supervised = full["results"]  # type: ignore[misc]
    figures = set(ours["figures"])
    assert {
        "knn", "linear", "linear, online", "1-shot mean", "10-shot logistic", "1% labels", "10% labels",
        "area over log labels", "mAP", "R@1", "fine-tuned", "corrupted", "OOD knn", "OOD mahalanobis", "PGD",
    } <= figures  # fmt: skip
    assert set(random["figures"]) == figures - {"fine-tuned", "linear, online"}
    assert set(supervised["figures"]) == figures - {"linear, online"}
    assert full["skipped"] == {
        "cross_modal": "the encoder does not embed two sides of pairs in one space",
        "subgroups by purity": "a measurement, not a group",
    }
    assert {row["group"] for row in ours["details"]["subgroups"]["subject"]["rows"]} == {"0", "1"}
    assert full["contamination"]["exact"]["count"] == 0  # type: ignore[index]
    assert full["energy"]["joules"] == 7200.0  # type: ignore[index]
    assert ours["details"]["collapse"]["alignment"] > 0


def test_figures_are_those_of_the_functions(full: dict[str, object], subject: Subject) -> None:
    data = some_data()
    bank, queries = (embed_source(subject.embedders["simclr"], part.source) for part in (data.train, data.test))
    ours = full["results"][0]["figures"]  # type: ignore[index]
    assert ours["knn"] == [knn_accuracy(bank, data.train.labels, queries, data.test.labels, k=5)]
    assert ours["linear, online"] == [pytest.approx(1 / 3)]  # its weights are zero: always the first class


def test_quick_is_a_part_of_full_and_compares_with_it(full: dict[str, object], subject: Subject) -> None:
    quick = evaluate(subject, some_data(groups=False), Settings(k=5, epochs=2))
    a, b = (Result.from_json(found["results"][0]).only("knn", "linear") for found in (quick, full))  # type: ignore[index]
    assert a.figures == b.figures
    assert a.protocol == b.protocol
    assert set(quick["results"][0]["details"]) == {"collapse"}
    alone = evaluate(subject, some_data(groups=False), Settings(k=5, epochs=2), references=False)
    assert alone["results"] == quick["results"][:1]


def test_what_does_not_apply_is_named(subject: Subject) -> None:
    x, y = stripes(24, 0)
    few = labelled(array_source(x, labels=y, kind="image", name="few"), "few")
    data = LabelledData("few", few, few, "the same", "1" * 64)
    found = evaluate(subject, data, Settings(suite="full", k=3, seeds=2, epochs=1))
    assert found["skipped"] == {
        "linear, online": "the probe learned the labels of other data",
        "few_shot 10+": "the smallest class has 8 labelled samples",
        "cross_modal": "the encoder does not embed two sides of pairs in one space",
        "out_of_distribution": "no other data; give some of the same shape: --ood DATA",
        "subgroups": "the data name no groups (shared data do: subject, speaker, device)",
    }
    assert found["contamination"]["exact"]["count"] == 24
    with pytest.raises(ConfigError, match="unknown suite 'all'; choose one of quick, full"):
        Settings(suite="all")
    assert set(MEASURES) >= {"knn", "linear", "collapse"}


def test_data_of_another_shape_are_refused(subject: Subject) -> None:
    x = np.zeros((12, 9, 9), np.float32)
    wrong = labelled(array_source(x, labels=np.arange(12) % 2, kind="image", name="w"), "w")
    with pytest.raises(DataError, match=r"w: samples are image \(1, 9, 9\), .* takes image \(1, 8, 8\)"):
        evaluate(subject, LabelledData("w", wrong, wrong, "", ""))


def test_labels_are_needed_and_unknown_ones_left_out(tmp_path: Path) -> None:
    x, y = stripes(30, 0)
    np.savez(tmp_path / "no.npz", x=x)
    with pytest.raises(DataError, match=r"needs labels and found none; give labels: a \.npz with members x and y"):
        open_labelled(str(tmp_path / "no.npz"), {"kind": "image"})
    y[:6] = -1
    np.savez(tmp_path / "some.npz", x=x, y=y)
    found = open_labelled(str(tmp_path / "some.npz"), {"kind": "image"})
    assert len(found.train) + len(found.test) == 24
    assert np.bincount(found.test.labels).tolist() == [2, 2, 2]  # a fifth of 8, rounded
    assert found.how == "20% of every class held out, seed 0"
    np.savez(tmp_path / "one.npz", x=x, y=np.zeros(30, int))
    with pytest.raises(DataError, match="two classes or more"):
        open_labelled(str(tmp_path / "one.npz"), {"kind": "image"})


def test_holding_out_divides_and_repeats() -> None:
    x, y = stripes(30, 0)
    whole = labelled(array_source(x, labels=y, kind="image", name="x"), "x", {"row": np.arange(30)})
    train, test = hold_out(whole)
    assert sorted([*train.groups["row"], *test.groups["row"]]) == list(range(30))
    np.testing.assert_array_equal(test.labels, y[test.groups["row"]])
    np.testing.assert_array_equal(test.samples()[:, 0], x[test.groups["row"]])
    assert hold_out(whole)[1].digest() == test.digest()
    with pytest.raises(DataError, match="class 2 has one sample"):
        hold_out(whole.subset(np.array([0, 1, 2, 3, 4])))


def test_the_split_hash_sees_samples_labels_and_limits() -> None:
    x, y = stripes(30, 0)
    whole = labelled(array_source(x, labels=y, kind="image", name="x"), "x")
    turned = labelled(array_source(x, labels=y[::-1], kind="image", name="x"), "x")
    other = labelled(array_source(x[::-1], labels=y, kind="image", name="x"), "x")
    assert len({s.digest() for s in (whole, turned, other, whole.limited(29))}) == 4
    long, many = np.zeros((1000, 1, 4), np.float32), np.arange(1000) % 2
    one = long.copy()
    one[501, 0, 2] = 1e-3  # every sample counts, not some of them
    hashes = {labelled(array_source(v, labels=many, kind="signal", name="z"), "z").digest() for v in (long, one)}
    assert len(hashes) == 2
    assert whole.limited(30) is whole
    assert isinstance(whole.limited(3), Split)
    np.testing.assert_array_equal(whole.limited(3).samples()[:, 0], x[[0, 14, 29]])


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_fine_tuning_learns_repeats_and_leaves_the_encoder_alone(norm: str) -> None:
    x, y = stripes(96, 0)
    queries, truth = stripes(60, 1)
    encoder = build_encoder("ds_cnn_s", (1, 8, 8), mean=[0.5], std=[0.3], norm=norm).eval()
    before = embed(encoder, queries[:, None])
    told: list[int] = []
    tuned = fine_tune(encoder, x[:, None], y + 4, epochs=6, batch_size=16, on_epoch=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert (tuned.predict(queries[:, None]) == truth + 4).mean() > 0.9
    np.testing.assert_array_equal(embed(encoder, queries[:, None]), before)
    again = fine_tune(encoder, x[:, None], y + 4, epochs=6, batch_size=16)
    np.testing.assert_array_equal(TorchEmbedder(again.encoder).embed(x[:, None]), embed(tuned.encoder, x[:, None]))
    if norm == "batch":
        moved = [b for n, b in tuned.encoder.named_buffers() if n.endswith("running_mean")]
        assert all(float(b.abs().max()) > 0 for b in moved)
    with pytest.raises(InputError, match="of 1 classes"):
        fine_tune(encoder, x[:, None], np.zeros(96, int))


def test_pairs_find_each_other_and_classes_by_the_other_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    waves = np.sin(np.arange(16) * (y[:, None] + 1) + rng.random((60, 1)))[:, None].astype(np.float32)
    first = array_source(waves, labels=y, kind="signal", layout="channels_first", name="first")
    second = array_source(-waves[:, :, ::-1], labels=y, kind="signal", layout="channels_first", name="second")
    split = labelled(PairedSource(first, second), "pairs")
    spec = InputSpec("pair", (32,), (0.0,) * 32, (1.0,) * 32, "any")
    options = {"first_shape": [1, 16], "second_shape": [1, 16]}
    recipe = Recipe.model_validate(
        {"encoder": {"name": "pair", "options": options}, "objective": {"name": "clip"}, "batch_size": 20, "epochs": 1}
    )
    step = build_step(recipe, spec)
    Checkpoint(recipe, spec, 3, step.initial_state(), np.zeros((0, 1)), ("step",), {"samples": 60}).save(tmp_path / "c")
    subject = open_subject(tmp_path / "c")
    data = LabelledData("pairs", split, split, "the same", "")
    found = evaluate(subject, data, Settings(suite="full", k=3, seeds=2, epochs=1))
    with torch.no_grad():
        h = step.parts.encoder.eval()(torch.from_numpy(split.samples()))
        a, b = (part.numpy() for part in step.parts.projector(h).split(64, dim=1))
    ours, random, supervised = (row["figures"] for row in found["results"])
    assert ours["pairs 1 to 2 R@5"] == [pytest.approx(paired_recall(a, b)["R@5"])]
    assert ours["pairs 2 to 1 R@1"] == [pytest.approx(paired_recall(b, a)["R@1"])]
    assert ours["pairs 1 to 2 mAP"] == [pytest.approx(class_retrieval(a, y, b, y)["mAP"])]
    assert ours["zero-shot 2 to 1"] == [pytest.approx((zero_shot_predict(b, a, y) == y).mean())]
    assert {name: random[name] for name in ours if name in random} == {n: v for n, v in ours.items() if n in random}
    assert not any("zero-shot" in name for name in supervised)
    assert set(found["skipped"]) >= {"alignment", "corruptions", "adversarial", "out_of_distribution", "subgroups"}
