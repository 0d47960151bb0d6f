"""ESPP: it learns from which windows follow one another and from nothing else; no label can reach it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from edgessl.errors import ConfigError, InputError
from neuromorphic import espp
from neuromorphic.espp import EchoLearner, adjacency, echo_network, windows
from neuromorphic.local import predictive_coding
from neuromorphic.plastic import embed, relearned

Array = np.ndarray[Any, np.dtype[Any]]


def stream(recordings: int = 30, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Recordings (N, 24, 20), each of a rate pattern of its own, and classes that a teacher might have given them."""
    rng = np.random.default_rng(seed)
    rates = (rng.random((recordings, 20)) < 0.3) * 0.45 + 0.03
    spikes = (rng.random((recordings, 24, 20)) < rates[:, None]).astype(np.int8)
    return spikes, rng.integers(0, classes, recordings)


def learned(spikes: Array, ids: Array, engine: str = "numpy") -> EchoLearner:
    learner = EchoLearner(echo_network(spikes.shape[2], 12, vth=800), engine=engine)
    for window, goes_on in zip(spikes, adjacency(ids), strict=True):
        learner.present(window, bool(goes_on))
    return learner


def test_adjacency_is_the_recording_going_on() -> None:
    assert adjacency(np.array([4, 4, 4, 7, 7, 4])).tolist() == [False, True, True, False, True, False]
    assert adjacency(np.array([], np.int64)).tolist() == []
    cut, ids = windows(np.arange(2 * 7 * 3).reshape(2, 7, 3), 3)
    assert cut.shape == (6, 2, 3)
    assert ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert cut[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    with pytest.raises(InputError, match="whole numbers, found float64"):
        adjacency(np.array([0.5]))
    with pytest.raises(InputError, match="T >= parts = 8"):
        windows(np.zeros((2, 7, 3)), 8)


def test_no_class_label_can_reach_the_rule() -> None:
    """Nothing takes one, two recordings of one class are apart, and the weights do not know the classes."""
    for _, thing in inspect.getmembers(espp, lambda m: inspect.isfunction(m) or inspect.isclass(m)):
        if thing.__module__ == espp.__name__:
            taken = set(inspect.signature(thing).parameters)
            taken |= {
                p for _, f in inspect.getmembers(thing, inspect.isfunction) for p in inspect.signature(f).parameters
            }
            assert not taken & {"label", "labels", "y", "target", "targets", "classes", "source"}, thing
    spikes, classes = stream(8, classes=2)
    cut, ids = windows(spikes, 3)
    same_class_next = classes[1:] == classes[:-1]
    assert same_class_next.any()  # neighbours of one class there are, and the bit at their border is a cut all the same
    borders = adjacency(ids)[3::3]
    assert not borders.any()
    # the bit is a function of the place in the recording: it has no information about the class
    np.testing.assert_array_equal(adjacency(ids), np.arange(len(ids)) % 3 != 0)
    one = learned(cut, ids).weights()["encode"]
    # the classes are swapped and the recordings numbered otherwise: the same weights, bit for bit
    other = learned(cut, 100 - ids).weights()["encode"]
    np.testing.assert_array_equal(one, other)


def test_windows_of_a_recording_grow_alike_and_those_across_a_cut_apart() -> None:
    spikes, _ = stream(70)
    cut, ids = windows(spikes, 3)
    goes_on = adjacency(ids)
    learner = EchoLearner(echo_network(20, 12, vth=800), engine="numpy")
    found = np.array([learner.present(w, bool(g)).similarity for w, g in zip(cut, goes_on, strict=True)])
    place = np.arange(len(found))
    early, late = (place > 0) & (place < 60), place >= 150
    contrast = [found[part & goes_on].mean() - found[part & ~goes_on].mean() for part in (early, late)]
    assert contrast[1] > contrast[0] + 0.05
    assert embed(relearned(learner.network, learner.weights()), cut[:4], "hidden", engine="numpy").any()


def test_the_first_window_and_a_satisfied_loss_teach_nothing() -> None:
    spikes, _ = stream(2)
    network = echo_network(20, 12, vth=800)
    learner = EchoLearner(network, engine="numpy")
    assert learner.present(spikes[0], False).updates == 0
    np.testing.assert_array_equal(learner.weights()["encode"], network.connection("encode").weights)
    content = EchoLearner(network, fixate=0.0, saccade=0.0, engine="numpy")
    content.present(spikes[0], False)
    assert content.present(spikes[1], True).updates == 0
    np.testing.assert_array_equal(content.weights()["encode"], network.connection("encode").weights)


def test_a_restored_learner_goes_on_with_the_same_bits() -> None:
    spikes, _ = stream(6)
    cut, ids = windows(spikes, 2)
    one = learned(cut[:6], ids[:6])
    two = EchoLearner(one.network, engine="numpy")
    two.restore(one.state())
    for learner in (one, two):
        learner.present(cut[6], False)
        learner.present(cut[7], True)
    np.testing.assert_array_equal(one.weights()["encode"], two.weights()["encode"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 <= saccade <= fixate <= 1"):
        EchoLearner(echo_network(4, 3), fixate=0.1, saccade=0.2)
    with pytest.raises(ConfigError, match=r"expected a network of espp\.echo_network"):
        EchoLearner(predictive_coding(4, 3))
    with pytest.raises(InputError, match=r"must be \(steps, 4\)"):
        EchoLearner(echo_network(4, 3), engine="numpy").present(np.zeros((5, 3)), True)
