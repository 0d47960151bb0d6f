"""The ledger against counts made by hand, prices against the publications' own numbers, refusal of what is unknown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgessl.errors import ConfigError
from neuromorphic.energy import Ledger, dense_twin, is_graded, ledger, memory_bytes, neurobench
from neuromorphic.local import delta_rule
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.plastic import frozen
from neuromorphic.populations import LIF, ErrorUnit, Graded, Input
from neuromorphic.prices import TABLES, price, sensitivity, table
from neuromorphic.record import Record
from neuromorphic.simulator import Simulator

HOST = ("host_write", "host_read")


def small() -> tuple[IntegerNetwork, Record]:
    """Three channels, two neurons that fire at once, four synapses that are not 0; two lanes of four steps."""
    network = IntegerNetwork(
        [Input("in", 3)],
        [LIF("out", 2, du=4095, dv=4095, vth=10)],
        [Connection("w", "in", "out", np.array([[20, 0, 30], [0, 40, 2]]))],
    )
    spikes = np.zeros((2, 4, 3), np.int8)
    spikes[0, 0] = [1, 0, 1]  # operations 1 + 2; at step 1 "out" 0 gets 50 and fires, 1 gets 2 and does not
    spikes[0, 1] = [0, 1, 0]  # operation 1; at step 2 "out" 1 fires
    spikes[1, 0] = [0, 0, 1]  # operations 2; at step 1 "out" 0 fires
    return network, Simulator(network, batch=2).run({"in": spikes}, v=True)


def test_the_ledger_counts_what_one_counts_by_hand() -> None:
    network, record = small()
    found = ledger(network, record)
    assert (found.samples, found.steps) == (2, 4)
    assert dict(found.counts) == {
        "synaptic_operation": 6,
        "driven_update": 5,  # lane 0: both at step 1, one at step 2; lane 1: both at step 1
        "idle_update": 11,  # 2 lanes x 4 steps x 2 neurons - 5
        "spike": 3,
        "host_write": 4,
        "host_read": 3,
        "weight_byte": 6,
        "state_byte": 16 * 12,
    }
    assert found.parts["spike"] == {"out": 3}
    assert found.per_sample("synaptic_operation") == 3
    assert "spike_hop" in ledger(network, record, hops=2).counts
    assert "host_read" not in ledger(network, record, read_out=()).counts
    assert json.loads(json.dumps(found.to_json()))["counts"]["spike"] == 3
    with pytest.raises(ConfigError, match="cannot read out 'in'"):
        ledger(network, record, read_out=("in",))
    with pytest.raises(ConfigError, match="ledger term 'joules'"):
        Ledger("x", 1, 1, {"joules": 1})


def test_learning_and_graded_spikes_are_counted_apart() -> None:
    network = IntegerNetwork(
        [Input("in", 2), Input("aim", 1)],
        [ErrorUnit("error", 1, shift=0), Graded("sum", 1, vth=0)],
        [
            Connection("predict", "in", "error", np.array([[2, 2]]), rule=delta_rule(0)),
            Connection("target", "aim", "error", np.array([[50]]), port="target"),
            Connection("carry", "error", "sum", np.array([[3]]), payload_bits=8),
        ],
    )
    spikes = np.ones((1, 5, 2), np.int8)
    record = Simulator(network).run({"in": spikes, "aim": spikes[:, :, :1]})
    found = ledger(network, record)
    assert not is_graded(network, "predict")
    assert is_graded(network, "carry")
    assert found.parts["weight_update"] == {"predict": 10}  # two synapses, every step
    assert found.parts["synaptic_operation"] == {"predict": 10, "target": 5}
    assert found.counts["graded_operation"] == int((record.spikes["error"] != 0).sum()) == 4
    operations = neurobench(network, record)["SynapticOperations"]
    assert operations == {"Effective_MACs": 4.0, "Effective_ACs": 15.0, "Dense": 20.0}
    still = frozen(network, record.weights)
    at_rest = ledger(still, Simulator(still).run({"in": spikes, "aim": spikes[:, :, :1]}))
    assert "weight_update" not in at_rest.counts  # what no longer learns costs no learning
    assert at_rest.parts["synaptic_operation"] == {"predict": 10, "target": 5}


def test_loihi_1_prices_are_the_papers() -> None:
    """Davies et al. 2018, Table 2: 23.6, 81, 52 and 1.7 pJ."""
    found = ledger(*small())
    priced = price(found, table("loihi1-2018-presilicon"), HOST)
    expected = (6 * 23.6 + 5 * 81 + 11 * 52 + 3 * 1.7) * 1e-12 / 2
    assert priced.total == pytest.approx(expected)
    assert priced.band == pytest.approx((expected, expected))
    assert priced.left_out == HOST
    learning = Ledger("learning", 1, 1, {"weight_update": 10})
    assert price(learning, table("loihi1-2018-presilicon")).total == pytest.approx(10 * 120e-12)
    hops = price(Ledger("hops", 1, 1, {"spike_hop": 10}), table("loihi1-2018-presilicon"))
    assert hops.band == pytest.approx((30e-12, 40e-12))


def test_horowitz_prices_are_the_papers() -> None:
    """A float32 MAC 4.6 pJ, an accumulation 0.9; int8 product 0.2 and 32-bit sum 0.1; 64 bits of 8 KB SRAM 10 pJ."""
    counted = Ledger("papers", 1, 1, {"multiply_accumulate": 100, "weight_byte": 7})
    papers = price(counted, table("horowitz-45nm-fp32"), ("weight_byte",))
    assert papers.total == pytest.approx(460e-12)
    byte = Ledger("bytes", 1, 1, {"weight_byte": 8, "multiply_accumulate": 1}, memory_bytes=8000)
    assert price(byte, table("horowitz-45nm-int8", 8000)).total == pytest.approx((10 + 0.3) * 1e-12)
    assert price(byte, table("horowitz-45nm-int8", 30_000)).total == pytest.approx((20 + 0.3) * 1e-12)
    assert price(byte, table("horowitz-45nm-int8", 1_000_000)).total == pytest.approx((100 + 0.3) * 1e-12)
    low, high = price(byte, table("horowitz-45nm-int8", 2_000_000)).band
    assert (low, high) == pytest.approx(((1300 + 0.23) * 1e-12, (2600 + 0.3) * 1e-12))


def test_what_a_table_does_not_know_is_refused_and_not_zero() -> None:
    found = ledger(*small())
    priced = price(found, table("loihi1-2018-presilicon"))
    assert priced.unknown == HOST
    with pytest.raises(ConfigError, match=r"no price for host_write, host_read, which occurred \(4, 3 times\)"):
        _ = priced.total
    assert priced.to_json()["joules_per_sample"] is None
    fp32 = price(found, table("horowitz-45nm-fp32"), HOST)
    assert set(fp32.unknown) == {"driven_update", "idle_update", "spike", "weight_byte", "state_byte"}
    with pytest.raises(ConfigError, match="cannot leave out 'weight_update'"):
        price(found, table("loihi1-2018-presilicon"), ("weight_update",))
    with pytest.raises(ConfigError, match="price table 'loihi2'; there are"):
        table("loihi2")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_says_where_it_comes_from_and_none_is_loihi_2s(name: str) -> None:
    found = table(name, 1000)
    assert found.source
    assert found.node
    assert found.grade in ("measured", "simulated", "derived")
    assert found.says.startswith("estimate")
    assert "loihi2" not in name.lower().replace(" ", "").replace("-", "")
    for term in found.prices.values():
        assert term.low <= term.nominal <= term.high
    assert not set(found.prices) & set(found.ignores)


def test_sensitivity_moves_one_price_at_a_time() -> None:
    counted = Ledger("x", 2, 1, {"synaptic_operation": 100, "idle_update": 10})
    found = sensitivity(counted, table("loihi1-2018-presilicon"), factor=3)
    total = (2360 + 520) / 2 * 1e-12
    assert list(found) == ["synaptic_operation", "idle_update"]
    assert found["idle_update"] == pytest.approx((total - 260e-12 * 2 / 3, total + 260e-12 * 2))
    with pytest.raises(ConfigError, match="factor must be 1 or more"):
        sensitivity(counted, table("loihi1-2018-presilicon"), factor=0.5)


def test_the_dense_twin_reads_every_weight_once_per_pass() -> None:
    network, _ = small()
    once, thrice = dense_twin(network, 5), dense_twin(network, 5, passes=3)
    assert dict(once.counts) == {
        "multiply_accumulate": 30,
        "weight_byte": 30,
        "state_byte": 25,
        "host_write": 15,
        "host_read": 10,
    }
    assert thrice.counts["multiply_accumulate"] == 90
    assert once.memory_bytes == 6 + 3 + 2
    with pytest.raises(ConfigError, match="passes must be at least 1"):
        dense_twin(network, 5, passes=0)


def test_neurobench_metrics_by_hand() -> None:
    network, record = small()
    found = neurobench(network, record)
    assert found["Footprint"] == memory_bytes(network) == 6 + 6 * 2 + 12
    assert found["ParameterCount"] == 6
    assert found["ConnectionSparsity"] == round(2 / 6, 4)
    assert found["ActivationSparsity"] == 1 - 3 / 16
    assert found["SynapticOperations"] == {"Effective_MACs": 0.0, "Effective_ACs": 3.0, "Dense": 24.0}
    voltages = record.v["out"]
    changed = voltages[:, 0].size + int((np.diff(voltages, axis=1) != 0).sum())
    assert found["MembraneUpdates"] == changed / 2
    silent = Simulator(network).run({"in": np.zeros((1, 2, 3), np.int8)})
    assert neurobench(network, silent)["MembraneUpdates"] is None


@pytest.mark.slow
def test_neurobench_the_package_counts_the_same() -> None:
    """Opt-in: pip install --no-deps neurobench (its full install pulls a CUDA torchaudio)."""
    pytest.importorskip("neurobench", reason="pip install --no-deps neurobench")
    torch, snn = pytest.importorskip("torch"), pytest.importorskip("snntorch")
    from neurobench.metrics.static import ConnectionSparsity, ParameterCount
    from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
    from neurobench.models import SNNTorchModel

    rng = np.random.default_rng(0)
    weights = rng.integers(-20, 20, (7, 12)) * 2 * (rng.random((7, 12)) < 0.7)
    spikes = (rng.random((5, 9, 12)) < 0.3).astype(np.int8)
    still = np.zeros((5, 1, 12), np.int8)
    # current without memory, voltage without leak: integers that floats hold exactly
    out = LIF("out", 7, du=4095, dv=0, vth=60)
    network = IntegerNetwork([Input("in", 12)], [out], [Connection("w", "in", "out", weights)])
    # a synapse takes a step here and none there, so the silent step comes last here and first there
    record = Simulator(network, batch=5).run({"in": np.concatenate([spikes, still], 1)}, v=True)
    ours = neurobench(network, record)
    linear = torch.nn.Linear(12, 7, bias=False)
    linear.weight.data = torch.from_numpy(weights).float()
    cell = snn.Leaky(
        1.0, threshold=60.0, init_hidden=True, output=True, reset_mechanism="zero", reset_delay=False
    )  # fmt: skip
    model = SNNTorchModel(torch.nn.Sequential(linear, cell))
    model.register_hooks()
    data = torch.from_numpy(np.concatenate([still, spikes], 1)).float(), torch.zeros(5)
    predictions = model(data[0])
    assert int(predictions.sum()) == record.counts.spikes["out"].sum() > 0
    assert SynapticOperations()(model, predictions, data) == ours["SynapticOperations"]
    assert ActivationSparsity()(model, predictions, data) == pytest.approx(ours["ActivationSparsity"])
    assert MembraneUpdates()(model, predictions, data) == ours["MembraneUpdates"]
    assert ConnectionSparsity()(model) == pytest.approx(ours["ConnectionSparsity"])
    assert ParameterCount()(model) >= ours["ParameterCount"]
