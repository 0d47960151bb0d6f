"""The numpy simulator against the notes' reference, closed forms, and itself in batches."""

import numpy as np
import pytest

from edgessl.errors import BudgetError, ConfigError, InputError, StateMismatchError
from neuromorphic.network import Connection, IntegerNetwork, choose_sign, quantize_weights
from neuromorphic.populations import LIF, ErrorUnit, Graded, Input, TernaryLIF
from neuromorphic.random_networks import FAMILIES, random_inputs, random_network
from neuromorphic.rules import LearningRule
from neuromorphic.simulator import Simulator, engines, make_simulator
from tests.neuromorphic import lava_reference as reference

IDENTITY = np.array([[1]])


def single(neuron: LIF | Graded | ErrorUnit, weight: int = 1, **given: object) -> IntegerNetwork:
    connection = Connection("c", "i", "p", np.array([[weight]]), **given)  # type: ignore[arg-type]
    return IntegerNetwork([Input("i", 1, 8 if given.get("payload_bits") else 0)], [neuron], [connection])


def pulses(*steps: int, length: int, value: int = 1) -> dict[str, np.ndarray]:
    array = np.zeros((1, length, 1), np.int32)
    array[0, list(steps), 0] = value
    return {"i": array}


@pytest.mark.parametrize("seed", range(12))
def test_chains_are_the_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, steps = [int(n) for n in rng.integers(3, 30, 3)], 80
    graded = bool(seed % 2)
    spikes = (rng.random((sizes[0], steps)) < 0.3) * (rng.integers(-127, 128, (sizes[0], steps)) if graded else 1)
    populations: list[LIF] = []
    connections, layers, pre = [], [], "input"
    for k in range(2):
        raw, bits, exponent = rng.integers(-300, 300, (sizes[k + 1], sizes[k])), int(rng.integers(3, 9)), seed % 7 - 3
        delays = rng.integers(0, 5, raw.shape) if rng.random() < 0.5 else None
        payload = 8 if graded and k == 0 else int(rng.integers(0, 2))
        du, dv, vth = (int(rng.integers(0, top)) for top in (4096, 4096, 3000))
        bias, shift = rng.integers(-4096, 4096, sizes[k + 1]), rng.integers(0, 8, sizes[k + 1])
        name = f"p{k}"
        ternary = bool(rng.integers(0, 2))
        kind = TernaryLIF(name, sizes[k + 1], du, dv, vth, bias, shift, vth_lo=-vth) if ternary else None
        populations.append(kind or LIF(name, sizes[k + 1], du, dv, vth, bias, shift))
        sign = choose_sign(raw)
        kept = quantize_weights(raw, bits, sign)
        connections.append(Connection(f"c{k}", pre, name, kept, exponent, bits, sign, payload, delays))
        layers += [
            reference.Dense(raw, exponent, bits, payload, None, delays),
            reference.LIF(sizes[k + 1], du, dv, vth, bias, shift, -vth if ternary else None),
        ]
        pre = name
    network = IntegerNetwork([Input("input", sizes[0], 7 if graded else 0)], populations, connections)
    expected = reference.run_chain(layers, spikes)
    record = Simulator(network, 2).run({"input": np.stack([spikes.T, spikes.T])}, u=True, v=True)
    for k in range(2):
        for ours, theirs in zip((record.spikes, record.u, record.v), expected[k], strict=True):
            assert np.array_equal(ours[f"p{k}"][1].T, theirs)
    assert record.counts.spikes["p0"][0] == np.count_nonzero(expected[0][0])


def test_a_pulse_arrives_one_step_later_and_decays() -> None:
    # u: 64 w, then times (4096 - (du + 1)) / 4096 toward zero; v adds them up and leaks
    record = Simulator(single(LIF("p", 1, du=1023, dv=2048, vth=1000), 100)).run(pulses(0, length=5), u=True, v=True)
    assert record.u["p"][0, :, 0].tolist() == [0, 6400, 4800, 3600, 2700]
    assert record.v["p"][0, :, 0].tolist() == [0, 6400, 8000, 7600, 6500]
    assert record.counts.synaptic_operations["c"].tolist() == [1]
    assert record.counts.driven_updates["p"].tolist() == [1]
    assert record.counts.idle_updates["p"].tolist() == [4]


def test_decay_rounds_toward_zero_for_both_signs() -> None:
    for weight in (1, -1):
        record = Simulator(single(LIF("p", 1, du=0, vth=100), weight)).run(pulses(0, length=4), u=True)
        assert record.u["p"][0, :, 0].tolist() == [0, 64 * weight, 63 * weight, 62 * weight]


def test_the_threshold_is_strict() -> None:
    for vth, fires in ((10, 0), (9, 1)):
        record = Simulator(single(LIF("p", 1, du=4095, vth=vth), 10)).run(pulses(0, length=2), v=True)
        assert record.spikes["p"].sum() == fires
        assert record.v["p"][0, 1, 0] == (0 if fires else 640)


def test_current_wraps_and_voltage_saturates() -> None:
    # 255 << 7 = 32640 per step, << 6 = 2,088,960: the fifth sum, 10,444,800, exceeds 2^23 and loses 2^24
    network = single(LIF("p", 1, du=0, vth=131_071), 255, exponent=7)
    record = Simulator(network).run(pulses(*range(6), length=6), u=True, v=True)
    u = [0]
    for _ in range(5):
        u.append((u[-1] * 4095 >> 12 if u[-1] > 0 else -(-u[-1] * 4095 >> 12)) + 2_088_960)
        if u[-1] > 1 << 23:
            u[-1] -= 1 << 24
    assert record.u["p"][0, :, 0].tolist() == u
    assert u[5] < 0
    assert record.v["p"].max() <= (1 << 23) - 1


def test_the_exponent_shifts_the_sum_and_floors() -> None:
    for weight, exponent, expected in ((-3, -1, -2), (3, -1, 1), (3, 2, 12)):
        network = single(LIF("p", 1, du=4095, vth=1000), weight, exponent=exponent)
        record = Simulator(network).run(pulses(0, length=2), u=True)
        assert record.u["p"][0, 1, 0] == 64 * expected


def test_delays_add_to_the_one_step_of_every_synapse() -> None:
    for delay in (0, 3, 63):
        network = single(LIF("p", 1, du=4095, vth=1000), 5, delays=delay)
        record = Simulator(network).run(pulses(0, length=70), u=True)
        assert np.flatnonzero(record.u["p"][0, :, 0]).tolist() == [1 + delay]


def test_without_payload_bits_a_ternary_minus_counts_as_one() -> None:
    # notes/lava.md 2.1: the payload is cast to bool
    ternary = TernaryLIF("t", 1, du=4095, vth=1, vth_lo=-1)
    for payload, sign in ((0, 1), (1, -1)):
        network = IntegerNetwork(
            [Input("i", 1)],
            [ternary, LIF("p", 1, du=4095, vth=1000)],
            [
                Connection("a", "i", "t", np.array([[-9]])),
                Connection("b", "t", "p", np.array([[7]]), payload_bits=payload),
            ],
        )
        record = Simulator(network).run(pulses(0, length=4), u=True)
        assert record.spikes["t"][0, 1, 0] == -1
        assert record.u["p"][0, 2, 0] == 64 * 7 * sign


def test_graded_neurons_pass_what_exceeds_their_threshold() -> None:
    for relu, expected in ((False, [0, 40, -40, 0]), (True, [0, 40, 0, 0])):
        network = single(Graded("p", 1, 20, relu), 2, payload_bits=8)
        spikes = np.array([20, -20, 10, 0]).reshape(1, 4, 1)
        record = Simulator(network).run({"i": spikes})
        assert record.spikes["p"][0, :, 0].tolist() == expected
        assert record.spikes["p"].dtype == np.int32
        assert "p" not in record.u


def test_error_units_send_target_minus_prediction() -> None:
    network = IntegerNetwork(
        [Input("i", 1), Input("t", 1)],
        [ErrorUnit("p", 1, decay=2048, shift=1)],
        [Connection("a", "i", "p", np.array([[8]])), Connection("b", "t", "p", np.array([[200]]), port="target")],
    )
    inputs = {**pulses(0, length=3), "t": pulses(1, length=3)["i"]}
    record = Simulator(network).run(inputs, u=True, v=True)
    assert record.u["p"][0, :, 0].tolist() == [0, 8, 4]
    assert record.v["p"][0, :, 0].tolist() == [0, 0, 200]
    assert record.spikes["p"][0, :, 0].tolist() == [0, -4, 98]


def test_periodic_reset() -> None:
    network = single(LIF("p", 1, du=0, vth=1000, reset_interval=4, reset_offset=3), 1)
    record = Simulator(network).run(pulses(0, length=8), u=True)
    assert record.u["p"][0, :, 0].tolist() == [0, 64, 0, 0, 0, 0, 0, 0]  # steps count from 1


@pytest.mark.parametrize("family", FAMILIES)
def test_lanes_are_independent_and_runs_go_on(family: str) -> None:
    network = random_network(family, 3)
    one = random_inputs(network, 60, 1)
    other = random_inputs(network, 60, 2)
    both = Simulator(network, 2)
    joined = {name: np.concatenate([one[name], other[name]]) for name in one}
    halves = [both.run({name: array[:, part] for name, array in joined.items()}) for part in (slice(25), slice(25, 60))]
    for lane, inputs in enumerate((one, other)):
        whole = Simulator(network).run(inputs)
        for name, spikes in whole.spikes.items():
            assert np.array_equal(np.concatenate([half.spikes[name][lane] for half in halves]), spikes[0])
        for name, weights in whole.weights.items():
            assert np.array_equal(halves[1].weights[name][lane], weights[0])


@pytest.mark.parametrize("family", ["delayed", "learning", "three-factor"])
def test_state_goes_back(family: str) -> None:
    network = random_network(family, 5)
    inputs = random_inputs(network, 40, 5)
    simulator = Simulator(network)
    simulator.run(inputs)
    state = simulator.state()
    first = simulator.run(inputs)
    simulator.restore(state)
    again = simulator.run(inputs)
    for name, spikes in first.spikes.items():
        assert np.array_equal(spikes, again.spikes[name])
    for name, weights in first.weights.items():
        assert np.array_equal(weights, again.weights[name])
    simulator.reset()
    fresh = Simulator(network).run(inputs)
    after = simulator.run(inputs)
    for name, spikes in fresh.spikes.items():
        assert np.array_equal(spikes, after.spikes[name])
    state["time"] = np.asarray(1)
    with pytest.raises(StateMismatchError, match="belongs to another"):
        simulator.restore({**state, "x": np.zeros(1)})


def test_budgets_and_mistakes() -> None:
    network = single(LIF("p", 1), 3)
    with pytest.raises(BudgetError, match="MiB"):
        Simulator(network, 1000, max_bytes=100)
    with pytest.raises(BudgetError, match="the record needs"):
        Simulator(network, max_bytes=1000).run(pulses(length=10_000))
    with pytest.raises(InputError, match="2 lanes"):
        Simulator(network).run({"i": np.zeros((2, 3, 1), int)})
    with pytest.raises(ConfigError, match="'q'"):
        Simulator(network).run(pulses(length=3), u=["q"])
    with pytest.raises(ConfigError, match="numpy or compiled"):
        make_simulator(network, engine="gpu")
    assert engines()[0] == "numpy"


RULES = [
    ("2^-4*x0*y1 - 2^-1*u0*x1*y2", [("x0", 1, -4, ["y1"]), ("u", -1, -1, ["x1", "y2"])]),
    ("2^-2*x0*y1 - 2^-2*y0*x1 + 2^-3*x0*w", [("x0", 1, -2, ["y1"]), ("y0", -1, -2, ["x1"]), ("x0", 1, -3, ["w"])]),
    ("7*2^-5*x0*x1*y1", [("x0", 7, -5, ["x1", "y1"])]),
]


@pytest.mark.parametrize("seed", range(6))
def test_learning_is_the_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_post, n_pre, steps = 9, 14, 150
    text, products = RULES[seed % 3]
    impulses, taus = rng.uniform(0, 60, 5), rng.uniform(1, 20, 5)
    names = ("x1", "x2", "y1", "y2", "y3")
    traces = {f"{n}_impulse": float(i) for n, i in zip(names, impulses, strict=True)}
    traces |= {f"{n}_tau": float(t) for n, t in zip(names, taus, strict=True)}
    weights = quantize_weights(rng.integers(-60, 120, (n_post, n_pre)), 8, "mixed")
    rule = LearningRule(text, seed=seed + 5, **traces)  # type: ignore[arg-type]
    theirs = reference.LearningDenseReference(
        weights, products, seed + 5, False, impulses[:2], taus[:2], impulses[2:], taus[2:]
    )
    neuron = reference.LIF(n_post, 500, 300, 600)
    network = IntegerNetwork(
        [Input("i", n_pre)], [LIF("p", n_post, 500, 300, 600)], [Connection("c", "i", "p", weights, rule=rule)]
    )
    spikes = (rng.random((steps, n_pre)) < 0.3).astype(int)
    record = Simulator(network).run({"i": spikes[None]}, weight_history=True)
    for t in range(steps):
        fired = neuron.step(theirs.out())
        theirs.take(spikes[t], fired)
        assert np.array_equal(record.spikes["p"][0, t], fired)
        assert np.array_equal(record.weight_history["c"][0, t], theirs.w)
    assert (theirs.w != weights).any()


def test_the_fixed_point_scale_of_the_notes() -> None:
    # notes/lava.md 2.2: 2^-6*y0*x1*y1 with x1 = y1 = 100 moves a weight by +19, not by the float model's +156;
    # the traces keep their 100 while tau is long
    rule = LearningRule("2^-6*y0*x1*y1", three_factor=True, graded="overwrite", x1_tau=65535)
    network = IntegerNetwork(
        [Input("i", 1, 8), Input("y", 1, 7), Input("gate", 1)],
        [LIF("p", 1, vth=1000)],
        [
            Connection("c", "i", "p", np.array([[0]]), payload_bits=8, rule=rule, modulators={"y0": "gate", "y1": "y"}),
        ],
    )
    inputs = {"i": np.full((1, 1, 1), 200), "y": np.full((1, 1, 1), 100), "gate": np.ones((1, 1, 1), int)}
    assert Simulator(network).run(inputs).weights["c"].item() in (19, 20)  # 156.25 / 8 = 19.53, rounded by chance
