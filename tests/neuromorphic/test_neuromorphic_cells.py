"""Cells against closed forms, snnTorch's own neurons and an integer reference written from Lava's equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from snntorch import surrogate

from edgessl.errors import ConfigError
from neuromorphic.cells import LeakyCell, LIFCell, LiquidCell

Array = np.ndarray[Any, np.dtype[Any]]


def one_neuron(cell: type[LeakyCell], weight: float, du: int, dv: int) -> LeakyCell:
    made = cell(1, 1, 0, du, dv, False)
    with torch.no_grad():
        made.weight.fill_(weight)
    return made


@pytest.mark.parametrize(("du", "dv"), [(1023, 511), (0, 4095), (4094, 1), (2047, 2048)])
def test_step_response_of_the_two_integrators(du: int, dv: int) -> None:
    weight, steps = 0.3, 40
    cell = one_neuron(LeakyCell, weight, du, dv)
    found = cell.voltages(torch.ones(1, steps, 1))[0, :, 0].detach().double().numpy()
    alpha, beta = 1 - (du + 1) / 4096, 1 - dv / 4096
    # the input of step t arrives at t + 1, so that k = t inputs have come by step t
    u = [weight * (1 - alpha**t) / (1 - alpha) for t in range(steps)]
    v = [sum(beta ** (t - s) * u[s] for s in range(t + 1)) for t in range(steps)]
    np.testing.assert_allclose(found, v, rtol=1e-5, atol=1e-6)


def test_a_perfect_integrator_fires_at_the_first_step_above_the_threshold() -> None:
    cell = one_neuron(LIFCell, 0.3, du=4095, dv=0)  # the current is the input, the voltage keeps everything
    spikes = cell(torch.ones(1, 21, 1))[0, :, 0]
    assert spikes.nonzero().flatten().tolist() == [4, 8, 12, 16, 20]  # 4 x 0.3 > 1, from rest each time
    quarter = one_neuron(LIFCell, 0.25, du=4095, dv=0)(torch.ones(1, 21, 1))[0, :, 0]
    assert quarter.nonzero().flatten().tolist() == [5, 10, 15, 20]  # 4 x 0.25 is not above 1


def test_a_bias_is_added_to_the_voltage() -> None:
    cell = one_neuron(LIFCell, 0.0, du=0, dv=0)
    with torch.no_grad():
        cell.bias.fill_(0.4)
    spikes, u, v = cell.states(torch.zeros(1, 6, 1))
    assert spikes[0, :, 0].tolist() == [0, 0, 1, 0, 0, 1]
    assert not u.any()
    torch.testing.assert_close(v[0, :2, 0], torch.tensor([0.4, 0.8]))


def test_floats_are_snntorchs_synaptic_states_and_gradients_included() -> None:
    torch.manual_seed(0)
    x = (torch.rand(5, 30, 20) < 0.3).float()
    weigh = torch.rand(5, 29, 8)
    cell = LIFCell(20, 8, 3, 819, 204, False)
    with torch.no_grad():
        cell.weight.mul_(2)
    spikes, u, v = cell.states(x)
    assert 0.05 < float(spikes.detach().mean()) < 0.6
    (spikes[:, 1:] * weigh + v[:, 1:] * weigh).sum().backward()
    linear, neuron = cell.as_snntorch()
    assert isinstance(neuron, snntorch.Synaptic)
    syn = mem = torch.zeros(5, 8)
    total = torch.zeros(())
    for t in range(29):  # snnTorch delivers without a delay
        s, syn, mem = neuron(linear(x[:, t]), syn, mem)
        assert torch.equal(s, spikes[:, t + 1])
        torch.testing.assert_close(syn, u[:, t + 1])
        torch.testing.assert_close(mem, v[:, t + 1])
        total = total + (s * weigh[:, t] + mem * weigh[:, t]).sum()
    total.backward()
    torch.testing.assert_close(cell.weight.grad, linear.weight.grad, rtol=1e-4, atol=1e-5)


def test_a_bias_cannot_go_to_snntorch() -> None:
    cell = LIFCell(3, 2, 0, 100, 100, False)
    with torch.no_grad():
        cell.bias.fill_(0.1)
    with pytest.raises(ConfigError, match="no bias on the voltage"):
        cell.as_snntorch()


def lava_lif(weights: Array, vth: int, du: int, dv: int, bias: Array, x: Array) -> tuple[Array, Array, Array]:
    """Lava 0.10.0's fixed-point Dense and LIF in plain Python integers; x (T, n_in) of 0 and 1."""
    top = 1 << 23
    n = len(weights)
    u, v, held = [0] * n, [0] * n, [0] * n
    out: list[list[list[int]]] = [[], [], []]

    def leak(value: int, by: int) -> int:
        kept = (abs(value) * (4096 - by)) >> 12
        return kept if value > 0 else -kept

    for row in x:
        fired = []
        for i in range(n):
            current = leak(u[i], du + 1) + held[i] * 64
            if current > top:
                current -= 2 * top
            elif current <= -top:
                current += 2 * top
            u[i] = current
            v[i] = min(max(leak(v[i], dv) + u[i] + int(bias[i]), -top + 1), top - 1)
            fired.append(int(v[i] > vth * 64))
            if fired[-1]:
                v[i] = 0
        for kept, values in zip(out, (fired, u, v), strict=True):
            kept.append(list(values))
        held = [int(weights[i] @ row) for i in range(n)]
    s, us, vs = (np.array(values) for values in out)
    return s, us, vs


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize(("du", "dv"), [(1023, 511), (0, 4095), (4095, 0), (7, 3)])
def test_integers_are_lavas(bits: int, du: int, dv: int) -> None:
    rng = np.random.default_rng(bits + du)
    x = (rng.random((60, 40)) < 0.4).astype(np.int64)
    cell = LIFCell(40, 6, 5, du, dv, False)
    with torch.no_grad():
        cell.bias.copy_(torch.linspace(-0.2, 0.3, 6))
    cell.quantize(bits)
    found = cell.integers()
    assert isinstance(found["weights"], torch.Tensor)
    bias = np.asarray(found["bias_mant"]) << found["bias_exp"]
    expected = lava_lif(found["weights"].numpy().astype(np.int64), int(found["vth"]), du, dv, bias, x)
    states = cell.states(torch.from_numpy(x[None]).float())
    assert expected[0].any()
    for ours, theirs in zip(states, expected, strict=True):
        np.testing.assert_array_equal(ours[0].detach().numpy(), theirs)


def test_currents_wrap_and_voltages_saturate_as_lavas_do() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((40, 900)) < 0.9).astype(np.int64)
    cell = LIFCell(900, 4, 0, 20, 0, False)
    with torch.no_grad():
        cell.weight.copy_(torch.tensor([1.0, -1.0, 0.7, 0.5])[:, None].expand(4, 900))
    cell.quantize(8)
    found = cell.integers()
    assert isinstance(found["weights"], torch.Tensor)
    expected = lava_lif(found["weights"].numpy().astype(np.int64), int(found["vth"]), 20, 0, np.zeros(4), x)
    states = cell.states(torch.from_numpy(x[None]).float())
    assert (np.abs(expected[2]) == (1 << 23) - 1).any()  # a voltage at its end
    assert (np.diff(np.sign(expected[1][:, 1])) > 0).any()  # an inhibitory current that came round to be positive
    for ours, theirs in zip(states, expected, strict=True):
        np.testing.assert_array_equal(ours[0].detach().numpy(), theirs)


def test_gradients_pass_straight_through_the_integers() -> None:
    torch.manual_seed(1)
    x = (torch.rand(8, 25, 30) < 0.3).float()
    cell = LIFCell(30, 10, 2, 1023, 511, True)
    weigh = torch.rand(8, 25, 10)
    gradients = []
    for bits in (None, 8):
        cell.quantize(bits)
        (cell(x) * weigh).sum().backward()
        assert cell.weight.grad is not None
        assert cell.decays.grad is not None
        assert cell.decays.grad.abs().min() > 0
        gradients.append(cell.weight.grad.flatten())
        cell.zero_grad()
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > 0.8


def test_decays_are_integers_however_they_are_trained() -> None:
    cell = LIFCell(2, 2, 0, 1023, 511, True)
    assert cell.integer_decays().tolist() == [1023, 511]
    with torch.no_grad():
        cell.decays.add_(torch.tensor([0.0123, -30.0]))
    du, dv = cell.integer_decays().tolist()
    assert du == round(du) != 1023
    assert dv == 0
    for value in range(0, 4096, 273):
        assert LIFCell(1, 1, 0, value, 4095 - value, False).integer_decays().tolist() == [value, 4095 - value]
    with pytest.raises(ConfigError, match="du is 4096"):
        LIFCell(1, 1, 0, 4096, 0, False)


def test_the_spike_is_snntorchs_surrogate() -> None:
    v = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    s = surrogate.atan(alpha=2.0)(v)
    s.sum().backward()
    assert s.tolist() == [0, 0, 1]
    torch.testing.assert_close(v.grad, 1 / (1 + (torch.pi * v.detach()) ** 2))


def test_a_liquid_cell_settles_where_its_equation_says() -> None:
    cell = LiquidCell(2, 3, 0, tau=4.0)
    with torch.no_grad():
        cell.recurrent.zero_()
    y = cell(torch.ones(1, 200, 2))[0, -1].detach().double()
    f = torch.sigmoid(cell.weight.sum(1) + cell.bias).detach().double()
    # y (1 / tau + f) = f A at rest
    torch.testing.assert_close(y, f * cell.reversal.detach().double() / (0.25 + f), rtol=1e-5, atol=1e-6)
