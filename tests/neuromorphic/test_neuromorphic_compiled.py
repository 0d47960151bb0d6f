"""The compiled simulator computes what the numpy one computes, number for number."""

import subprocess
import sys

import numpy as np
import pytest

from edgessl.errors import StateMismatchError
from neuromorphic.conformance import simulate
from neuromorphic.network import Connection, IntegerNetwork, quantize_weights
from neuromorphic.populations import LIF, Input
from neuromorphic.random_networks import FAMILIES, random_inputs, random_network
from neuromorphic.simulator import Simulator

pytest.importorskip("numba", reason="the extra `compiled` is not installed")
from neuromorphic.compiled import CompiledSimulator


def two_lanes(network: IntegerNetwork, steps: int, seed: int) -> dict[str, np.ndarray]:
    one, other = random_inputs(network, steps, seed), random_inputs(network, steps, seed + 1)
    return {name: np.concatenate([one[name], other[name]]) for name in one}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees(family: str, seed: int) -> None:
    network = random_network(family, seed)
    inputs = two_lanes(network, 60, seed)
    plain, plain_tags = simulate(network, inputs, "numpy")
    fast, fast_tags = simulate(network, inputs, "compiled")
    for kind in ("spikes", "u", "v", "weights", "weight_history"):
        ours, theirs = getattr(fast, kind), getattr(plain, kind)
        assert list(ours) == list(theirs)
        for name, array in theirs.items():
            assert np.array_equal(ours[name], array), (kind, name)
            assert ours[name].dtype == array.dtype
    for name, tags in plain_tags.items():
        assert np.array_equal(fast_tags[name], tags)
    for kind in ("spikes", "synaptic_operations", "driven_updates", "idle_updates", "weight_changes"):
        for name, counts in getattr(plain.counts, kind).items():
            assert getattr(fast.counts, kind)[name].tolist() == counts.tolist(), (kind, name)


@pytest.mark.parametrize("family", ["delayed", "learning", "three-factor"])
def test_states_pass_between_the_simulators(family: str) -> None:
    network = random_network(family, 11)
    inputs = two_lanes(network, 47, 11)  # not a multiple of any epoch or delay
    plain, fast = Simulator(network, 2), CompiledSimulator(network, 2)
    plain.run(inputs)
    fast.restore(plain.state())
    for simulator in (fast, plain):
        simulator.run(inputs)
    one, other = plain.state(), fast.state()
    assert set(one) == set(other)
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name
    plain.restore(fast.state())
    first, second = plain.run(inputs), fast.run(inputs)
    for name, spikes in first.spikes.items():
        assert np.array_equal(spikes, second.spikes[name])
    with pytest.raises(StateMismatchError):
        fast.restore(Simulator(network, 3).state())


def test_threads_change_nothing_and_reset_starts_anew() -> None:
    network = random_network("learning", 4)
    inputs = {name: np.repeat(array, 5, 0) for name, array in random_inputs(network, 30, 4).items()}
    inputs[network.inputs[0].name][2] = 0
    one, four = CompiledSimulator(network, 5, threads=1), CompiledSimulator(network, 5, threads=4)
    first, second = one.run(inputs), four.run(inputs)
    one.reset()
    third = one.run(inputs)
    for name, spikes in first.spikes.items():
        assert np.array_equal(spikes, second.spikes[name])
        assert np.array_equal(spikes, third.spikes[name])
    learned = one.weights("in_a")
    one.reset(keep_weights=True)
    assert np.array_equal(one.weights("in_a"), learned)
    one.reset()
    assert np.array_equal(one.weights("in_a")[0], network.connection("in_a").weights)


@pytest.mark.parametrize("share", [0.05, 0.9])
def test_sparse_and_dense_weights_are_read_alike(share: float) -> None:
    rng = np.random.default_rng(1)
    weights = quantize_weights(rng.integers(-99, 120, (20, 30)) * (rng.random((20, 30)) < share), 8, "mixed")
    network = IntegerNetwork(
        [Input("i", 30, 9)],
        [LIF("p", 20, 400, 200, 900)],
        [Connection("c", "i", "p", weights, -2, sign="mixed", payload_bits=9)],
    )
    inputs = {"i": rng.integers(-511, 512, (3, 40, 30))}
    plain, fast = Simulator(network, 3).run(inputs, v=True), CompiledSimulator(network, 3).run(inputs, v=True)
    assert np.array_equal(plain.v["p"], fast.v["p"])
    assert plain.spikes["p"].any()


def test_without_numba_the_numpy_simulator_remains() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from neuromorphic.simulator import engines, make_simulator\n"
        "from neuromorphic.random_networks import random_network\n"
        "from edgessl.errors import MissingDependencyError\n"
        "network = random_network('ternary', 0)\n"
        "assert engines() == ('numpy',), engines()\n"
        "assert type(make_simulator(network)).__name__ == 'Simulator'\n"
        "try: make_simulator(network, engine='compiled')\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "edgessl[compiled]" in done.stdout
