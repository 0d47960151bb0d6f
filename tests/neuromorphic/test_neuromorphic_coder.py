from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from edgessl.errors import ConfigError, InputError
from edgessl.objectives.functional import embedding_std
from neuromorphic.coder import SpikingPredictiveCoder, binned, trace
from neuromorphic.objectives import (
    OBJECTIVES,
    SpikingPredictive,
    TemporalContrast,
    build_objective,
    rate_penalty,
    variance_floor,
)


def some_spikes(n: int = 16, steps: int = 20, channels: int = 30, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n, steps, channels, generator=torch.Generator().manual_seed(seed)) < 0.25).float()


@pytest.mark.parametrize("cell", ["lif", "leaky", "liquid"])
def test_activities_have_a_layer_each_and_hear_the_one_below_a_step_late(cell: str) -> None:
    coder = SpikingPredictiveCoder(30, (12, 5), cell=cell)
    x = some_spikes()
    before = coder(x)
    assert [tuple(a.shape) for a in before] == [(16, 20, 12), (16, 20, 5)]
    x[:, 10:] = 1 - x[:, 10:]
    for level, (a, b) in enumerate(zip(before, coder(x), strict=True)):
        assert torch.equal(a[:, : 11 + level], b[:, : 11 + level])
        assert not torch.equal(a[:, 11 + level :], b[:, 11 + level :])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_reaches_its_own_layer_alone(name: str) -> None:
    coder = SpikingPredictiveCoder(30, (12, 5), seed=1)
    x = some_spikes()
    coder.balance(x, 0.2)
    objective = build_objective(name, {})
    heads = objective.heads(30, coder.sizes)
    inputs, activities = x, coder(x)
    top = objective.layer_loss(inputs, activities[0].detach(), activities[1], heads[1], objective.hyper)
    first, second = (layer.weight for layer in coder.cells())
    assert torch.autograd.grad(top, first, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(top, second)[0].abs().sum() > 0
    whole = objective.loss(x, coder(x), heads, objective.hyper)
    assert torch.autograd.grad(whole.value, first)[0].abs().sum() > 0
    assert tuple(whole.embeddings.shape) == (16, 5)


def test_balance_sets_every_layers_rate() -> None:
    coder = SpikingPredictiveCoder(30, (64, 40), seed=2)
    x = some_spikes(64)
    said = coder.balance(x, 0.1)
    found = [float(a.detach().mean()) for a in coder(x)]
    assert found == pytest.approx([0.1, 0.1], abs=0.01)
    assert said == pytest.approx(found)


def test_seeds_make_the_weights() -> None:
    a, b, c = (SpikingPredictiveCoder(30, (12, 5), seed=s) for s in (4, 4, 5))
    assert torch.equal(a.cells()[0].weight, b.cells()[0].weight)
    assert not torch.equal(a.cells()[0].weight, c.cells()[0].weight)
    assert not torch.equal(a.cells()[1].weight[:, :5], a.cells()[0].weight[:5, :5])


def test_features_are_mean_activities_in_parts_of_the_time() -> None:
    activity = torch.arange(12, dtype=torch.float32).reshape(1, 6, 2)
    assert binned(activity, 1).tolist() == [[5, 6]]
    assert binned(activity, 3).tolist() == [[1, 2, 5, 6, 9, 10]]
    coder = SpikingPredictiveCoder(30, (12, 5))
    assert tuple(coder.features(some_spikes(), 4).shape) == (16, 4 * 17)
    with pytest.raises(InputError, match="7 parts of 6 steps"):
        binned(activity, 7)


def test_trace_is_scipys_first_order_filter() -> None:
    x = some_spikes(3, 50, 4)
    expected = lfilter([0.2], [1, -0.8], x.double().numpy(), axis=1)
    np.testing.assert_allclose(trace(x, 0.8).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(trace(x, 0.0), x)


def test_options_out_of_range() -> None:
    for options, message in (
        ({"cell": "gru"}, "expected one of lif, leaky, liquid"),
        ({"cell": "leaky", "bits": 8}, "only 'lif' cells"),
        ({"du": -1}, "du is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            SpikingPredictiveCoder(3, (2,), **options)
    with pytest.raises(ConfigError, match="at least one layer"):
        SpikingPredictiveCoder(3, ())
    with pytest.raises(InputError, match=r"expected \(N, T, 3\)"):
        SpikingPredictiveCoder(3, (2,))(torch.zeros(1, 5, 4))
    with pytest.raises(ConfigError, match="only 'lif' cells"):
        SpikingPredictiveCoder(3, (2,), cell="liquid").quantize(8)


def test_predicting_the_mean_explains_nothing_and_the_target_itself_everything() -> None:
    objective = SpikingPredictive(horizon=0, keep=0.5)
    x = some_spikes()
    head = torch.nn.Linear(30, 30)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(trace(x, 0.5).mean())
    assert float(objective.layer_loss(x, x, x, head, objective.hyper)) == pytest.approx(1.0, abs=0.02)
    with torch.no_grad():
        head.weight.copy_(torch.eye(30))
        head.bias.zero_()
    assert float(objective.layer_loss(x, x, x, head, objective.hyper)) == pytest.approx(0.0, abs=1e-9)


def test_the_horizon_is_counted_in_steps() -> None:
    below = some_spikes(4, 10, 3)
    activity = torch.zeros(4, 10, 3)
    activity[:, :8] = below[:, 2:]  # what the layer says is what comes two steps later
    identity = torch.nn.Linear(3, 3)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(3))
        identity.bias.zero_()
    losses = [
        float(SpikingPredictive(horizon=h, keep=0.0).layer_loss(below, below, activity, identity, {"prediction": 1.0}))
        for h in (1, 2, 3)
    ]
    assert losses[1] == pytest.approx(0, abs=1e-9)
    assert min(losses[0], losses[2]) > 0.5
    with pytest.raises(ConfigError, match="give more steps"):
        SpikingPredictive(horizon=10).layer_loss(below, below, activity, identity, {"prediction": 1.0})


def test_what_every_layer_predicts() -> None:
    assert [(h.in_features, h.out_features) for h in SpikingPredictive().heads(30, (12, 5))] == [(12, 30), (5, 12)]
    for target in ("input", "next"):
        heads = SpikingPredictive(target=target).heads(30, (12, 5))
        assert [(h.in_features, h.out_features) for h in heads] == [(12, 30), (5, 30)]
    with pytest.raises(ConfigError, match="target 'above'"):
        build_objective("spiking_predictive", {"target": "above"})
    with pytest.raises(ConfigError, match="has no option 'labels'"):
        build_objective("temporal_contrast", {"labels": 1})
    with pytest.raises(ConfigError, match="spiking_predictive, temporal_contrast"):
        build_objective("simclr", {})


def test_contrast_of_orthogonal_samples_is_the_closed_form() -> None:
    n, temperature = 6, 0.5
    activity = torch.zeros(n, 8, n)
    for i in range(n):
        activity[i, :, i] = 1.0
    head = torch.nn.Identity()
    hyper = {"contrast": 1.0, "temperature": temperature}
    found = float(TemporalContrast().layer_loss(activity, activity, activity, head, hyper))
    # one positive of cosine 1 and 2N - 2 negatives of cosine 0
    assert found == pytest.approx(np.log(np.e ** (1 / temperature) + 2 * n - 2) - 1 / temperature, rel=1e-5)


def test_blocks_alternate() -> None:
    activity = torch.zeros(4, 12, 4)
    for i in range(4):  # a sample is itself in the even blocks of three steps, and its neighbour in the odd ones
        activity[i, [0, 1, 2, 6, 7, 8], i] = 1.0
        activity[i, [3, 4, 5, 9, 10, 11], (i + 1) % 4] = 1.0
    head, hyper = torch.nn.Identity(), {"contrast": 1.0, "temperature": 0.5}
    thirds, singles = (
        float(TemporalContrast(block=b).layer_loss(activity, activity, activity, head, hyper)) for b in (3, 1)
    )
    # the positive has cosine 0; of the six negatives one has cosine 1
    assert thirds == pytest.approx(np.log(np.e**2 + 6), rel=1e-5)
    assert singles < thirds
    with pytest.raises(ConfigError, match="two blocks of 12"):
        TemporalContrast(block=12).layer_loss(activity, activity, activity, head, hyper)
    with pytest.raises(ConfigError, match="block is -1"):
        TemporalContrast(block=-1)


def test_penalties_have_their_ends() -> None:
    same = some_spikes(1).expand(16, -1, -1)
    assert float(variance_floor(same, 0.05)) == pytest.approx(1.0, abs=0.01)
    halves = torch.cat([torch.zeros(8, 4, 3), torch.ones(8, 4, 3)])
    assert float(variance_floor(halves, 0.05)) == 0
    assert float(rate_penalty(torch.zeros(4, 5, 6), 0.1)) == pytest.approx(1.0)
    assert float(rate_penalty(torch.full((4, 5, 6), 0.1), 0.1)) == pytest.approx(0.0, abs=1e-9)


def test_the_variance_floor_pulls_a_layer_out_of_collapse() -> None:
    """A layer that fires alike for every sample, driven by its biases, learns to tell them apart."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(32, 1, 20, generator=generator) * 0.5
    x = (torch.rand(32, 15, 20, generator=generator) < rates).float()
    coder = SpikingPredictiveCoder(20, (10,), seed=0)
    with torch.no_grad():
        coder.cells()[0].weight.mul_(0.1)
        coder.cells()[0].bias.fill_(0.3)
    before = float(embedding_std(coder(x)[0].detach().mean(1)))
    objective = SpikingPredictive()
    heads = objective.heads(20, coder.sizes)
    hyper = {**objective.hyper, "prediction": 0.0, "rate": 0.0}
    optimizer = torch.optim.Adam(coder.parameters(), 0.02)
    for _ in range(60):
        loss = objective.loss(x, coder(x), heads, hyper)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    after = float(embedding_std(coder(x)[0].detach().mean(1)))
    assert before < 0.3
    assert after > 2 * before, (before, after)
