"""NIR: our graphs come back byte for byte, their equations give our spikes, and what has no word is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgessl.errors import ConfigError, FormatError
from neuromorphic.builders import feed_forward
from neuromorphic.local import delta_rule
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.network_file import dump_network
from neuromorphic.populations import LIF, ErrorUnit, Input
from neuromorphic.simulator import Simulator

nir: Any = pytest.importorskip("nir", reason="pip install 'edgessl[neuromorphic]'")

from neuromorphic.nir_export import LOST, export_nir, write_nir  # noqa: E402
from neuromorphic.nir_import import import_nir, read_nir  # noqa: E402

DT = 1e-3


def net(recurrent: bool = True, **lif: Any) -> IntegerNetwork:
    rng = np.random.default_rng(0)
    given = {"du": 1000, "dv": 300, "vth": 900, "bias": rng.integers(-50, 90, 12), "bias_exp": 2, **lif}
    return feed_forward(
        [rng.integers(-200, 200, (12, 20)), rng.integers(0, 200, (5, 12))],
        [given, {"du": 4095, "dv": 4095, "vth": 100}],
        exponents=[1, -2],
        delays=[None, 3],
        recurrent={"layer0": rng.integers(-90, 60, (12, 12))} if recurrent else None,
    )


def test_our_network_comes_back_byte_for_byte(tmp_path: Path) -> None:
    network = net()
    assert write_nir(network, tmp_path / "coder.nir") == LOST
    assert dump_network(read_nir(tmp_path / "coder.nir")) == dump_network(network)


def test_euler_steps_of_the_graphs_own_equations_fire_as_the_integers_do() -> None:
    """An independent float simulation of NIR's CubaLIF equations; only rounding of the decays separates them."""
    network = net(recurrent=False)
    graph, _ = export_nir(network, DT)
    spikes = (np.random.default_rng(1).random((1, 300, 20)) < 0.2).astype(np.int8)
    ours = Simulator(network).run({"input": spikes}).spikes["layer0"][0]
    node, weight = graph.nodes["layer0"], graph.nodes["input_layer0"].weight
    current, voltage, fired = np.zeros(12), np.zeros(12), []
    for t in range(300):
        arriving = weight @ spikes[0, t - 1] if t else np.zeros(12)
        current = current + DT / node.tau_syn * (-current + node.w_in * arriving)
        voltage = voltage + DT / node.tau_mem * (node.v_leak - voltage + node.r * current)
        now = voltage > node.v_threshold
        voltage = np.where(now, node.v_reset, voltage)
        fired.append(now)
    assert ours.sum() > 200
    assert (np.array(fired) != ours).mean() < 0.005
    delay = graph.nodes["layer0_layer1_delay"].delay
    np.testing.assert_allclose(delay, 3 * DT)


def test_a_float_graph_is_scaled_and_says_by_how_much() -> None:
    network = net()
    graph, _ = export_nir(network, DT)
    graph.metadata = {}
    with pytest.raises(ConfigError, match="give dt, its seconds per step"):
        import_nir(graph)
    found = import_nir(graph, bits=8, dt=DT)
    assert np.abs(found.connection("input_layer0").weights).max() == 254
    scale = found.notes["scales"]["layer0"]
    layer = found.population("layer0")
    assert isinstance(layer, LIF)
    assert layer.vth == round(900 * 64 * scale)
    assert (layer.du, layer.dv) == (1000, 300)
    spikes = (np.random.default_rng(1).random((2, 100, 20)) < 0.2).astype(np.int8)
    one, two = (Simulator(n, batch=2).run({"input": spikes}).spikes["layer0"] for n in (network, found))
    assert (one != two).mean() < 0.1  # a recurrent net of 8-bit weights beside one of other 8-bit weights
    coarse = import_nir(graph, bits=4, dt=DT)
    assert (coarse.connection("input_layer0").weights % 32 == 0).all()


def one_layer(**options: Any) -> IntegerNetwork:
    lif = {"du": 10, "dv": 10, **options.pop("lif", {})}
    return IntegerNetwork(
        [Input("in", 2, options.pop("input_bits", 0))],
        [LIF("out", 2, **lif)],
        [Connection("w", "in", "out", np.array([[2, 4], [6, 8]]), **options)],
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (one_layer(input_bits=4, payload_bits=4), "input 'in' has graded spikes of 4 bits"),
        (one_layer(lif={"dv": 0}), "population 'out' does not leak"),
        (one_layer(lif={"reset_interval": 10}), "population 'out' resets every 10 steps"),
        (one_layer(delays=np.array([[0, 1], [2, 3]])), "connection 'w' has a delay per synapse"),
        (one_layer(payload_bits=1), "connection 'w' takes payloads"),
        (
            IntegerNetwork([Input("in", 2)], [ErrorUnit("e", 1)], [Connection("w", "in", "e", np.array([[2, 2]]))]),
            "population 'e' is of kind 'error'",
        ),
        (
            feed_forward([np.ones((2, 2))], [{"kind": "ternary", "vth": 10, "vth_lo": -10}]),
            "population 'layer0' is of kind 'ternary'",
        ),
    ],
)
def test_what_nir_has_no_word_for_is_refused_by_name(network: IntegerNetwork, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_nir(network)


def test_learning_is_refused_and_so_are_foreign_nodes_that_do_not_fit(tmp_path: Path) -> None:
    plastic = one_layer()
    rule = replace(delta_rule(), dw="2^-4*x0*y1", three_factor=False)
    learns = replace(plastic, connections=[replace(plastic.connections[0], sign="mixed", rule=rule)])
    with pytest.raises(ConfigError, match="connection 'w' learns"):
        export_nir(learns)
    vector = np.ones(2)
    wrong = nir.NIRGraph(
        {"in": nir.Input({"input": np.array([2])}), "fc": nir.Linear(np.eye(2)), "n": nir.IF(vector, vector),
         "out": nir.Output({"output": np.array([2])})},
        [("in", "fc"), ("fc", "n"), ("n", "out")],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="NIR node 'n' is a IF"):
        import_nir(wrong, dt=DT)
    graph, _ = export_nir(plastic)
    graph.metadata = {}
    graph.nodes["out"].v_threshold = np.array([1.0, 2.0])
    with pytest.raises(ConfigError, match="v_threshold differs between neurons"):
        import_nir(graph, dt=DT)
    (tmp_path / "no.nir").write_bytes(b"not hdf5")
    with pytest.raises(FormatError, match="not a NIR file"):
        read_nir(tmp_path / "no.nir")
