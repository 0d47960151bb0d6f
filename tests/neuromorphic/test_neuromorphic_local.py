"""Local rules: the delta rule by hand, error that falls, feedback that becomes the transpose, STDP's two directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgessl.errors import ConfigError, InputError
from neuromorphic.local import competitive, delta_rule, feedback_alignment, predictive_coding, stdp_rule
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.plastic import balance, embed, frozen, learn_from, plastic_names, relearned
from neuromorphic.populations import LIF, ErrorUnit, Input, Population
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import Simulator, engines, make_simulator

Array = np.ndarray[Any, np.dtype[Any]]


def patterns(steps: int, n: int = 16, seed: int = 0) -> Array:
    """Four Poisson patterns that take turns, 20 steps each; (1, steps, n)."""
    rng = np.random.default_rng(seed)
    rates = rng.random((4, n)) * 0.5
    which = np.repeat(rng.integers(0, 4, -(-steps // 20)), 20)[:steps]
    return (rng.random((steps, n)) < rates[which]).astype(np.int8)[None]


def leak(x: int, by: int) -> int:
    return int(x * (4096 - by) / 4096)  # toward zero


def test_the_delta_rule_moves_weights_by_the_error_of_this_step_where_the_presynaptic_neuron_fires() -> None:
    """Against the rule in plain integers, step by step; Lava's y traces lose one in a thousand steps (tau 65535)."""
    pre = np.random.default_rng(1).random((1, 80, 2)) < 0.4
    aim = np.random.default_rng(2).random((1, 80, 1)) < 0.3
    network = IntegerNetwork(
        [Input("pre", 2), Input("aim", 1)],
        [ErrorUnit("error", 1, decay=512, shift=3)],
        [
            Connection("predict", "pre", "error", np.array([[20, -10]]), rule=delta_rule(0)),
            Connection("target", "aim", "error", np.array([[200]]), port="target"),
        ],
    )
    found = Simulator(network).run({"pre": pre, "aim": aim}, weight_history=True).weight_history["predict"][0, :, 0]
    weights, p, t, sent_p, sent_t = [20, -10], 0, 0, 0, 0
    exact = 0
    for step in range(80):
        p, t = leak(p, 512) + sent_p, leak(t, 512) + sent_t
        error = max(-127, min(127, (t - p) >> 3))
        sent_p = sum(w for w, fires in zip(weights, pre[0, step], strict=True) if fires)
        sent_t = 200 * int(aim[0, step, 0])
        weights = [
            max(-256, min(255, w + error)) if fires else w for w, fires in zip(weights, pre[0, step], strict=True)
        ]
        assert np.abs(found[step] - weights).max() <= 1
        exact += found[step].tolist() == weights
        weights = found[step].tolist()
    assert exact > 70


def test_prediction_error_falls_below_what_no_prediction_has() -> None:
    spikes = patterns(1200)
    record = Simulator(predictive_coding(16, 24, vth=1200)).run({"input": spikes}, u=["error"], v=["error"])
    error = np.abs(record.v["error"] - record.u["error"])[0].mean(1)
    nothing = np.abs(record.v["error"])[0].mean(1)
    assert error[-300:].mean() < 0.75 * nothing[-300:].mean()
    assert error[-300:].mean() < 0.9 * error[20:220].mean()


def test_kolen_pollack_feedback_becomes_the_transpose_and_fixed_feedback_does_not() -> None:
    spikes = patterns(500)
    network = predictive_coding(16, 16, feedback="kolen_pollack", vth=1200)
    first = {name: network.connection(name).weights for name in ("predict", "back_up", "back_down")}
    assert abs(feedback_alignment(first)) < 0.3
    learned = Simulator(network).run({"input": spikes}, spikes=False).weights
    assert feedback_alignment(learned) > 0.9
    stronger = balance(predictive_coding(16, 16, feedback="kolen_pollack", exponent=3), spikes, 0.1, engine="numpy")
    first = balance(network, spikes, 0.1, engine="numpy")
    shares = [n.population("hidden").vth for n in (stronger, first)]  # the feedback's weights are as they were
    assert shares[0] == pytest.approx(8 * shares[1], rel=0.2)
    still = predictive_coding(16, 16, feedback="fixed", vth=1200)
    assert plastic_names(still) == ["predict"]
    moved = Simulator(still).run({"input": spikes}, spikes=False).weights["predict"]
    back = {name: still.connection(name).weights for name in ("back_up", "back_down")}
    assert abs(feedback_alignment({"predict": moved, **back})) < 0.5


def pair(order: str) -> int:
    """The change of one synapse after ten pairs of a pre and a forced post spike, three steps apart."""
    times = np.arange(10) * 60 + 5
    pre, post = np.zeros((1, 620, 1), np.int8), np.zeros((1, 620, 1), np.int8)
    pre[0, times + (0 if order == "pre first" else 3)] = 1
    post[0, times + (3 if order == "pre first" else 0) - 1] = 1  # its synapse takes a step
    populations: list[Population] = [LIF("out", 1, du=4095, dv=4095, vth=100)]
    network = IntegerNetwork(
        [Input("pre", 1), Input("force", 1)],
        populations,
        [
            Connection("plastic", "pre", "out", np.array([[40]]), rule=stdp_rule(-4, -4, impulse=64, tau=10)),
            Connection("force", "force", "out", np.array([[250]])),
        ],
    )
    record = Simulator(network).run({"pre": pre, "force": post})
    assert record.spikes["out"].sum() == 10
    return int(record.weights["plastic"][0, 0, 0]) - 40


def test_stdp_strengthens_what_came_before_and_weakens_what_came_after() -> None:
    """Ten times 64 e^(-3/10) / 16 = 29.6, to within the rounding of traces and weights."""
    assert pair("pre first") == pytest.approx(29.6, abs=6)
    assert pair("post first") == pytest.approx(-29.6, abs=6)


def test_soft_stdp_settles_at_the_trace_its_neuron_fires_at() -> None:
    """w = 2^(potentiation - depression) E[x1 at a post spike]; silent inputs fall to 0."""
    rng = np.random.default_rng(0)
    spikes = np.zeros((1, 1500, 6), np.int8)
    spikes[0, :, :3] = rng.random((1500, 1)) < 0.25  # together; the others never
    record = Simulator(competitive(6, 1, vth=300)).run({"input": spikes})
    weights = record.weights["encode"][0, 0]
    assert record.spikes["hidden"].sum() > 100
    assert weights[:3].min() > 100
    assert weights[3:].max() < 10


def test_a_frozen_network_keeps_odd_weights_and_fires_as_they_say() -> None:
    spikes = patterns(60)
    network = predictive_coding(16, 12, vth=1200)
    learned = Simulator(network).run({"input": spikes}).weights
    assert (learned["predict"] % 2 != 0).any()
    fixed = frozen(network, learned)
    assert plastic_names(network) == ["predict"]
    assert plastic_names(fixed) == []
    assert plastic_names(relearned(network, learned)) == ["predict"]
    record = Simulator(fixed).run({"input": spikes}, u=True)
    np.testing.assert_array_equal(record.weights["predict"], learned["predict"])
    hidden = record.spikes["hidden"][0].astype(np.int64)
    p = np.zeros(16, np.int64)
    for t in range(1, 60):
        p = np.trunc(p * (4096 - 512) / 4096).astype(np.int64) + learned["predict"][0].astype(np.int64) @ hidden[t - 1]
        np.testing.assert_array_equal(record.u["error"][0, t], p)


@pytest.mark.parametrize("engine", engines())
def test_a_frozen_connection_acts_as_a_plastic_one_whose_rule_never_moves_it(engine: str) -> None:
    """Simulators read it as a static one; a rule of another wording that changes nothing is computed in full."""
    spikes = np.concatenate([patterns(40, seed=k) for k in range(3)])
    network = predictive_coding(16, 12, feedback="kolen_pollack", vth=900)
    fixed = frozen(network, Simulator(network).run({"input": spikes[:1]}).weights)
    assert not any(c.learns for c in fixed.connections)
    slow = []
    for c in fixed.connections:
        same = None if c.rule is None else LearningRule("0*x0*x1", three_factor=c.rule.three_factor)
        slow.append(replace(c, rule=same))
    still = replace(fixed, connections=slow)
    assert {c.name for c in still.connections if c.learns} == {"predict", "back_up", "back_down"}
    one = make_simulator(fixed, 3, engine).run({"input": spikes}, u=True, weight_history=True)
    two = make_simulator(still, 3, engine).run({"input": spikes}, u=True, weight_history=True)
    for name in one.spikes:
        np.testing.assert_array_equal(one.spikes[name], two.spikes[name])
    for name in one.u:
        np.testing.assert_array_equal(one.u[name], two.u[name])
    for name, weights in two.weights.items():
        np.testing.assert_array_equal(one.weights[name], weights)
        np.testing.assert_array_equal(one.weight_history[name], two.weight_history[name])


def test_embeddings_are_mean_spikes_of_a_network_that_does_not_learn() -> None:
    spikes = np.concatenate([patterns(30, seed=k) for k in range(5)])
    network = predictive_coding(16, 12, feedback="kolen_pollack", vth=900)
    z = embed(network, spikes, "hidden", bins=2, lanes=3, engine="numpy")
    fixed = frozen(network)
    for k in range(5):
        fired = Simulator(fixed).run({"input": spikes[k : k + 1]}).spikes["hidden"][0]
        np.testing.assert_allclose(z[k], np.concatenate([fired[:15].mean(0), fired[15:].mean(0)]), rtol=1e-6)
    with pytest.raises(InputError, match="bins = 31"):
        embed(network, spikes, "hidden", bins=31)


def test_a_stream_teaches_what_one_long_run_does() -> None:
    spikes = np.concatenate([patterns(25, seed=k) for k in range(6)])
    network = predictive_coding(16, 12, vth=1200)
    whole = Simulator(network).run({"input": spikes.reshape(1, -1, 16)}, spikes=False).weights["predict"][0]
    found = learn_from(network, [spikes[:4], spikes[4:]], engine="numpy")
    np.testing.assert_array_equal(found.connection("predict").weights, whole)
    assert (whole != network.connection("predict").weights).any()
    assert plastic_names(found) == ["predict"]


def test_balance_finds_the_lowest_threshold_that_keeps_the_rate() -> None:
    spikes = np.concatenate([patterns(25, seed=k) for k in range(4)])
    network = balance(predictive_coding(16, 12), spikes, 0.1, engine="numpy")
    assert embed(network, spikes, "hidden", engine="numpy").mean() == pytest.approx(0.1, abs=0.03)
    with pytest.raises(ConfigError, match="expected a LIF population"):
        balance(network, spikes, 0.1, "error", "numpy")
    with pytest.raises(ConfigError, match="silent at every threshold"):
        balance(network, np.zeros_like(spikes), 0.1, engine="numpy")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="feedback must be one of none, fixed, kolen_pollack"):
        predictive_coding(4, 4, feedback="transport")
    with pytest.raises(ConfigError, match=r"encoder must be \(3, 4\)"):
        predictive_coding(4, 3, encoder=np.zeros((4, 3), np.int64))
    with pytest.raises(ConfigError, match="'encode' is not a plastic connection; there are predict"):
        frozen(predictive_coding(4, 4), {"encode": np.zeros((4, 4))})
    with pytest.raises(ConfigError, match=r"weights of 'predict' must be \(4, 4\)"):
        frozen(predictive_coding(4, 4), {"predict": np.zeros((4, 5))})
    assert LearningRule("0*x0").weight_products[0].mantissa == 0
