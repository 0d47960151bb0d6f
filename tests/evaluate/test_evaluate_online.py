"""The online probe against torch's own layers and optimizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgessl.errors import InputError
from edgessl.evaluate import OnlineProbe


def test_it_is_batch_norm_linear_and_adam() -> None:
    torch.manual_seed(0)
    probe = OnlineProbe(4, 3, lr=0.01)
    norm = nn.BatchNorm1d(4, eps=1e-6, affine=False)
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    adam = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(25):
        # every class in every batch: Adam turns a gradient that is 0 but for rounding into a whole step
        x, y = torch.randn(8, 4) * 5 + 2, torch.arange(8)[torch.randperm(8)] % 3
        adam.zero_grad()
        loss = nn.functional.cross_entropy(layer(norm(x)), y)
        loss.backward()
        adam.step()
        assert probe.update(x, y) == pytest.approx(loss.item(), rel=1e-4)
    np.testing.assert_allclose(probe.theta[:, :4], layer.weight.detach(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(probe.theta[:, 4], layer.bias.detach(), rtol=1e-3, atol=1e-5)


def test_views_repeat_the_labels_in_their_order() -> None:
    torch.manual_seed(1)
    first, second, y = torch.randn(6, 3), torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    stacked, tiled = OnlineProbe(3, 2), OnlineProbe(3, 2)
    both = torch.cat([first, second])
    assert stacked.update(both, y) == tiled.update(both, torch.cat([y, y]))
    torch.testing.assert_close(stacked.theta, tiled.theta)
    assert stacked.accuracy(both, y) == float((stacked.predict(both) == torch.cat([y, y])).float().mean())


def test_it_learns_what_is_linear_and_nothing_flows_back() -> None:
    torch.manual_seed(2)
    probe = OnlineProbe(5, 2, lr=0.02)
    embeddings = torch.randn(400, 5)
    y = (embeddings[:, 0] - embeddings[:, 3] > 0).long()
    x = (embeddings * torch.tensor([1, 1e-3, 50, 1, 1])).requires_grad_(True)
    for i in range(0, 400, 8):
        probe.update(x[i : i + 8], y[i : i + 8])
    assert x.grad is None
    assert probe.accuracy(x, y) > 0.9


def test_unknown_labels_are_left_out() -> None:
    x, y = torch.randn(6, 2), torch.tensor([0, -1, 1, -1, 0, 1])
    a, b = OnlineProbe(2, 2), OnlineProbe(2, 2)
    assert a.update(x, y) == b.update(x[y >= 0], y[y >= 0])
    torch.testing.assert_close(a.theta, b.theta)
    before = a.theta
    assert np.isnan(a.update(x[:2], torch.tensor([-1, -1])))
    assert a.theta is before


def test_a_resumed_probe_goes_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(3)
    x, y = torch.randn(5, 8, 3), torch.randint(0, 2, (5, 8))
    straight = OnlineProbe(3, 2)
    for i in range(5):
        straight.update(x[i], y[i])
    first = OnlineProbe(3, 2)
    for i in range(2):
        first.update(x[i], y[i])
    second = OnlineProbe.of(first.state())
    for i in range(2, 5):
        second.update(x[i], y[i])
    torch.testing.assert_close(second.theta, straight.theta, rtol=0, atol=0)
    with pytest.raises(InputError, match="saved weights are"):
        OnlineProbe(4, 2).load(first.state())


@pytest.mark.parametrize(
    ("shape", "labels"), [((6, 2), [0, 1, 1]), ((5, 3), [0, 1]), ((4, 3), [0, 7]), ((4, 3), [0, -2])]
)
def test_what_does_not_fit_is_refused(shape: tuple[int, int], labels: list[int]) -> None:
    with pytest.raises(InputError, match="online probe"):
        OnlineProbe(3, 2).update(torch.randn(*shape), torch.tensor(labels))
