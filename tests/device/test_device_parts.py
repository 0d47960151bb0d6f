"""Heads, novelty, guard, hyperparameters, noise: the small parts, each against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device import InputSpec, step_noise
from edgessl.device.guard.collapse import Guard, Verdict
from edgessl.device.heads.few_label import PER_LABEL, FewLabelHead
from edgessl.device.heads.novelty import NeighbourNovelty
from edgessl.device.hyper import HyperParameters
from edgessl.device.samples import as_batch
from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError

GOOD = {"loss": 1.0, "grad_norm": 1.0, "embedding_std": 1.0, "effective_rank": 8.0}


def angle(*degrees):
    a = np.radians(np.array(degrees, np.float32))
    return np.stack([np.cos(a), np.sin(a)], 1)


def test_head_on_the_circle():
    head = FewLabelHead(1000, (2,), lambda x: 7 * x)  # cosine: lengths do not matter
    for degrees, label in ((0, "east"), (20, "east"), (90, "north")):
        head.enroll(angle(degrees)[0], label)
    east, north = head.classify(3 * angle(10, 80))
    assert (east.label, north.label) == ("east", "north")
    assert east.similarity == pytest.approx(1.0)
    assert north.similarity == pytest.approx(np.cos(np.radians(10)))
    other = np.cos(np.radians(70)) / 0.1
    assert north.confidence == pytest.approx(1 / (1 + np.exp(other - np.cos(np.radians(10)) / 0.1)))


def test_head_embeds_exemplars_once_until_told():
    calls = []
    head = FewLabelHead(1000, (2,), lambda x: calls.append(len(x)) or x)
    head.enroll(angle(0)[0], "a")
    head.classify(angle(1))
    head.classify(angle(2))
    assert calls == [1]
    head.invalidate()
    head.classify(angle(3))
    assert calls == [1, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 6), max_size=120))
def test_head_never_exceeds_its_bounds_and_never_loses_a_label(room, labels):
    head = FewLabelHead(room * 8, (2,), lambda x: x)
    for i, label in enumerate(labels):
        try:
            head.enroll(np.array([1, i], np.float32), str(label))
        except BudgetError:
            assert len(head.labels) == room  # every exemplar is some label's only one
        owner = head.tensors()["owner"]
        counts = np.bincount(owner, minlength=len(head.labels))
        assert head.nbytes <= room * 8
        assert len(owner) <= room
        assert counts.min(initial=1) >= 1
        assert counts.max(initial=0) <= PER_LABEL
    again = FewLabelHead(room * 8, (2,), lambda x: x)
    again.restore(head.tensors(), head.labels)
    assert {k: v.tobytes() for k, v in again.tensors().items()} == {k: v.tobytes() for k, v in head.tensors().items()}
    with pytest.raises(StateMismatchError, match="exemplar_bytes"):
        FewLabelHead(room * 8 + 8, (2,), lambda x: x).restore(head.tensors(), head.labels)


def test_head_forgets_the_oldest_of_a_full_label():
    head = FewLabelHead(100_000, (1,), lambda x: x)
    for i in range(PER_LABEL + 3):
        head.enroll(np.array([i + 1], np.float32), "a")
    assert sorted(head.tensors()["samples"].ravel()) == list(range(4, PER_LABEL + 4))


@pytest.mark.parametrize("label", ["", "x" * 65, 3, None, "a\nb"])
def test_head_labels(label):
    head = FewLabelHead(100, (1,), lambda x: x)
    with pytest.raises(InputError, match="label"):
        head.enroll(np.zeros(1, np.float32), label)
    assert head.labels == []


def test_novelty_on_the_circle():
    novelty = NeighbourNovelty(angle(*range(0, 80, 10), 85))
    nearest = 2 * np.sin(np.radians([5.0] * 8 + [7.5]))  # chords: eight have a neighbour at 10 degrees
    expected = (2 * np.sin(np.radians(15.0)) - nearest.mean()) / nearest.std()
    assert novelty.score(5 * angle(115))[0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="found 7"):
        NeighbourNovelty(angle(*range(7)))


def test_guard_keeps_what_is_healthy():
    guard = Guard()
    assert {guard.judge(GOOD)[0] for _ in range(100)} == {Verdict.KEEP}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_guard_rejects_what_is_not_finite_and_then_rolls_back(name, value):
    guard = Guard(patience=3)
    verdicts = [guard.judge(GOOD | {name: value}) for _ in range(3)]
    assert [v for v, _ in verdicts] == [Verdict.REJECT, Verdict.REJECT, Verdict.ROLL_BACK]
    assert name in verdicts[0][1]
    assert guard.judge(GOOD)[0] is Verdict.KEEP


@pytest.mark.parametrize("name", ["embedding_std", "effective_rank"])
def test_guard_sees_collapse_against_its_own_baseline(name):
    guard = Guard(warmup=4, floor=0.25, patience=3)
    for _ in range(4):
        guard.judge(GOOD)
    low, edge = GOOD | {name: 0.24 * GOOD[name]}, GOOD | {name: 0.26 * GOOD[name]}
    assert {guard.judge(edge)[0] for _ in range(9)} == {Verdict.KEEP}
    assert [guard.judge(m)[0] for m in (low, low, GOOD, low, low)] == [Verdict.KEEP] * 5
    copy = Guard(warmup=4, floor=0.25, patience=3)
    copy.restore(guard.tensors())
    for one in (guard, copy):
        verdict, reason = one.judge(low)
        assert verdict is Verdict.ROLL_BACK
        assert f"collapse: {name}" in reason


def test_hyper():
    hyper = HyperParameters({"lr": 1, "tau": 0.5})
    hyper["lr"] = 2
    assert dict(hyper) == {"lr": 2.0, "tau": 0.5}
    assert "rl" not in hyper
    for action in (lambda: hyper["rl"], lambda: hyper.__setitem__("rl", 1.0)):
        with pytest.raises(ConfigError, match="this bundle has lr, tau"):
            action()
    with pytest.raises(ConfigError, match="finite"):
        hyper["lr"] = np.inf


def test_noise_is_pinned():
    a = step_noise(5, 17, (4, 3))
    assert a.dtype == np.float32
    expected = np.random.default_rng([5, 0, 17]).random((4, 3), dtype=np.float32)
    np.testing.assert_array_equal(a, expected)
    assert not np.array_equal(a, step_noise(5, 18, (4, 3)))
    assert not np.array_equal(a, step_noise(6, 17, (4, 3)))
    with pytest.raises(InputError, match="-1"):
        step_noise(-1, 0, (1, 1))


def test_samples_of_tokens_are_ids_of_the_vocabulary():
    spec = InputSpec("tokens", (1, 3), (0.0,), (1.0,), "ids of 5 symbols", 5)
    ids = np.array([[[0, 4, 2]]], np.float32)
    assert as_batch(ids, spec) is ids
    for wrong in (5, -1, 0.5):
        with pytest.raises(InputError, match=rf"whole numbers from 0 to 4, found {wrong}"):
            as_batch(np.array([[0, wrong, 2]], np.float32), spec)
