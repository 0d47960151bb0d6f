"""Classes that move, and normalisation that does not chase them: closed forms, references, and no look ahead."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.drift.classes import PRIOR, DriftingClasses, moved
from edgessl.device.drift.normalize import RunningNormalization, spread
from edgessl.device.drift.stream import LEAST, DriftingStream
from edgessl.device.heads.softmax_regression import SoftmaxRegression
from edgessl.errors import ConfigError, InputError, StateMismatchError


def session(rng: np.random.Generator, n: int, shift: float = 0.0, shares=(1, 1, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Three classes in 16 dimensions; drift moves all of them alike."""
    centres = 6 * np.eye(3, 16)
    labels = np.sort(rng.choice(3, n, p=np.array(shares) / sum(shares)))
    direction = np.where(np.arange(16) % 2, 1.0, -1.0)
    return centres[labels] + shift * direction + rng.normal(size=(n, 16)), labels


@pytest.fixture
def first() -> tuple[np.ndarray, np.ndarray]:
    return session(np.random.default_rng(0), 150)


# --- normalisation


def test_plain_running_mean_is_the_weighted_mean(first):
    x, _ = first
    normalize = RunningNormalization(x, prior_count=20)
    more = np.random.default_rng(1).normal(3, 1, (50, 16))
    for row in more:
        normalize.update(row)
    np.testing.assert_allclose(normalize.mean, (20 * x.mean(0) + more.sum(0)) / 70, rtol=1e-12)


def test_knowing_the_classes_sorted_samples_move_nothing(first):
    x, labels = first
    plain, corrected = RunningNormalization(x, labels, 50), RunningNormalization(x, labels, 50)
    for row, label in zip(x[labels == 2], labels[labels == 2], strict=True):
        plain.update(row)
        corrected.update(row, np.eye(3)[label])
    assert np.abs(plain.mean - x.mean(0)).max() > 1  # chases the class
    np.testing.assert_allclose(corrected.mean, x.mean(0), atol=0.15)


def test_a_shared_shift_is_found_from_one_class(first):
    x, labels = first
    normalize = RunningNormalization(x, labels, 1)
    shifted = x[labels == 0] + 2.5
    for row in np.tile(shifted, (40, 1)):
        normalize.update(row, np.array([1.0, 0, 0]))
    np.testing.assert_allclose(normalize.mean, x.mean(0) + 2.5, atol=0.05)


def test_settling_takes_the_common_shift(first):
    x, labels = first
    normalize = RunningNormalization(x, labels)
    means = np.stack([x[labels == k].mean(0) for k in range(3)]) + 4
    normalize.settle(means)
    np.testing.assert_allclose(normalize.mean, x.mean(0) + 4, rtol=1e-12)


def test_normalisation_refuses_and_comes_back(first):
    x, labels = first
    with pytest.raises(ConfigError, match="prior_count is 0"):
        RunningNormalization(x, labels, 0)
    with pytest.raises(InputError, match="0 classes"):
        RunningNormalization(x).update(x[0], np.ones(3) / 3)
    normalize, again = RunningNormalization(x, labels), RunningNormalization(x, labels)
    normalize.update(x[3], np.array([0.2, 0.3, 0.5]))
    again.restore(normalize.tensors())
    np.testing.assert_array_equal(again(x), normalize(x))
    with pytest.raises(StateMismatchError):
        RunningNormalization(x[:, :4]).restore(normalize.tensors())


def test_constant_features_are_only_shifted():
    x = np.full((5, 2), 7.0)
    x[:, 1] = np.arange(5)
    np.testing.assert_allclose(spread(x), [1, np.std(np.arange(5))])


# --- softmax regression


def test_softmax_regression_is_scikit_learns(first):
    linear = pytest.importorskip("sklearn.linear_model")
    x, labels = first
    counts = np.where(labels == 0, 3.0, 1.0)
    ours = SoftmaxRegression.fit(x, labels, 3, 0.1, counts)
    theirs = linear.LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(x, labels, sample_weight=counts)
    np.testing.assert_allclose(ours.weights, theirs.coef_, atol=2e-4)
    np.testing.assert_allclose(ours.probabilities(x), theirs.predict_proba(x), atol=2e-4)


# --- classes that move


def test_moved_is_the_shrunken_mean():
    before, x = np.array([[0.0], [10.0]]), np.array([[1.0], [3.0], [15.0]])
    weight = np.array([[1.0, 0], [1, 0], [0, 1]])
    a, b = 2 / (2 + PRIOR), 1 / (1 + PRIOR)
    s = (a * 2 + b * 5) / (a + b)
    np.testing.assert_allclose(moved(before, x, weight), [[s + a * (2 - s)], [10 + s + b * (5 - s)]])


def test_a_class_not_shown_moves_with_the_others():
    before, shift = np.array([[0.0, 0], [10, 0], [0, 10]]), np.array([3, 1])
    x = np.repeat(before[:2] + shift, 500, 0)
    weight = np.repeat(np.eye(3)[:2], 500, 0)
    np.testing.assert_allclose(moved(before, x, weight), before + shift, atol=1e-6)
    np.testing.assert_array_equal(moved(before, x, np.zeros((1000, 3))), before)


def test_follows_a_drift_that_a_static_classifier_loses(first):
    head = DriftingClasses(*first, group=2, restarts=12, kept=4)
    centres = np.stack([first[0][first[1] == k].mean(0) for k in range(3)])
    rng = np.random.default_rng(1)
    for step in (3, 6, 9):
        x, labels = session(rng, 200, step, (5, 3, 2))
        adapted = (head.adapt(x).argmax(1) == labels).mean()
    static = (((x[:, None] - centres) ** 2).sum(2).argmin(1) == labels).mean()
    assert static < 0.7
    assert adapted > 0.95


def test_same_seed_same_votes_and_state_comes_back(first):
    x, _ = session(np.random.default_rng(2), 60, 1.0)
    heads = [DriftingClasses(*first, seed=5, restarts=4, kept=2) for _ in range(3)]
    votes = [head.adapt(x) for head in heads[:2]]
    np.testing.assert_array_equal(*votes)
    np.testing.assert_allclose(votes[0].sum(1), 1)
    heads[2].restore(heads[0].tensors())
    np.testing.assert_array_equal(heads[2].adapt(x), heads[0].adapt(x))
    with pytest.raises(StateMismatchError):
        DriftingClasses(first[0][:, :4], first[1]).restore(heads[0].tensors())


def test_without_trust_the_anchor_labels(first):
    head = DriftingClasses(*first, restarts=4, kept=2)
    z = head.standard(session(np.random.default_rng(3), 60)[0])
    assert len(head.fit(z, 0.5).fits) == 2
    voters = head.fit(z, 1.1)
    assert not voters.fits
    expected = voters.anchor.probabilities((z - z.mean(0)) / spread(z))
    np.testing.assert_array_equal(voters.probabilities(z), expected)


def test_wrong_settings_are_refused(first):
    x, labels = first
    with pytest.raises(ConfigError, match="divisor of 16"):
        DriftingClasses(x, labels, group=5)
    with pytest.raises(ConfigError, match="kept is 9"):
        DriftingClasses(x, labels, restarts=8, kept=9)
    with pytest.raises(InputError, match="two samples"):
        DriftingClasses(x, np.arange(len(x)))
    with pytest.raises(InputError, match="expected \\(N >= 2, 16\\)"):
        DriftingClasses(x, labels).adapt(x[:1])
    with pytest.raises(ConfigError, match="capacity is 8"):
        DriftingStream(x, labels, capacity=8)


# --- streams: nothing looks ahead


@pytest.mark.parametrize("mixed", [False, True])
@given(cut=st.integers(0, 89), seed=st.integers(0, 99))
@settings(max_examples=4, deadline=None)
def test_answers_do_not_depend_on_what_comes_later(mixed, cut, seed):
    x1, y1 = session(np.random.default_rng(0), 90)
    x, _ = session(np.random.default_rng(1), 90, 1.0)
    other = x.copy()
    other[cut:] = np.random.default_rng(seed).normal(0, 5, other[cut:].shape)
    answers = []
    for stream_of in (x, other):
        stream = DriftingStream(x1, y1, mixed=mixed)
        answers.append([stream.observe(row) for row in stream_of[: cut + (stream_of is x)]])
    np.testing.assert_array_equal(answers[0][:cut], answers[1])


def test_a_stream_comes_back(first):
    rng = np.random.default_rng(4)
    stream, again = DriftingStream(*first), DriftingStream(*first)
    x, _ = session(rng, LEAST + 10, 1.0)
    for row in x:
        stream.observe(row)
    again.restore(stream.tensors())
    for side in (stream, again):
        side.end_session()
    np.testing.assert_array_equal(stream.observe(x[0]), again.observe(x[0]))
    with pytest.raises(StateMismatchError):
        DriftingStream(*first, capacity=LEAST).restore(
            {**stream.tensors(), "memory": np.zeros((LEAST + 1, 16)), "seen": np.array([100, 0])}
        )


def example():
    path = Path(__file__).parents[2] / "examples" / "gas_drift.py"
    spec = importlib.util.spec_from_file_location("gas_drift_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_protocols_of_the_example_do_not_read_later_months_or_labels():
    gas = example()
    gas.SENSOR = 2
    rng = np.random.default_rng(5)
    months = {m: session(rng, 80, 0.5 * i) for i, m in enumerate((1, 2, 3))}
    blind = {**months, 2: (months[2][0], np.zeros(80, np.int64)), 3: (rng.normal(size=(70, 16)), months[3][1][:70])}
    for run in (gas.monthly, lambda m, s: gas.online(m, s, True), lambda m, s: gas.online(m, s, False)):
        seen, unseen = run(months, 0), run(blind, 0)
        np.testing.assert_array_equal(seen[2], unseen[2])
        assert (seen[2] == months[2][1]).mean() > 0.9
