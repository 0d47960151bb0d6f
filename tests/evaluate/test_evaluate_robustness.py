"""Corruptions, out-of-distribution scores and attacks against what they must be by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError, InputError
from edgessl.evaluate.adversarial import LinearModel, adversarial_accuracy, attack
from edgessl.evaluate.corruptions import CORRUPTIONS, corrupt
from edgessl.evaluate.probes import fit_linear
from edgessl.evaluate.robustness import auroc, corruption_accuracy, knn_distance, mahalanobis, out_of_distribution

SHAPES = {"image": (2, 12, 12), "signal": (3, 64), "spectrogram": (1, 16, 32)}
NAMES = [(kind, function.__name__) for kind, functions in CORRUPTIONS.items() for function in functions]


def some(kind: str, n: int = 16) -> np.ndarray:
    """Smooth samples: a random walk along the last axis, in [0, 1] for images."""
    x = np.random.default_rng(0).standard_normal((n, *SHAPES[kind])).cumsum(-1)
    if kind == "image":
        x = (x - x.min()) / (x.max() - x.min())
    return x.astype(np.float32)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_corruption_is_seeded_keeps_its_range_and_grows_with_severity(kind: str, name: str) -> None:
    x = some(kind)
    std = x.std(axis=(0, *range(2, x.ndim)))
    before = x.copy()
    changed = [corrupt(x, kind, name, severity, std, seed=3) for severity in (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(x, before)
    for y in changed:
        assert (y.shape, y.dtype) == (x.shape, np.float32)
        assert np.isfinite(y).all()
        if kind == "image":
            assert y.min() >= 0
            assert y.max() <= 1
    np.testing.assert_array_equal(changed[2], corrupt(x, kind, name, 3, std, seed=3))
    distance = [float(np.square(y - x).mean()) for y in changed]
    assert 0 < distance[0] < distance[2] < distance[4]


def test_corruptions_do_what_they_say() -> None:
    x = some("signal", 400)
    std = np.array([1.0, 2.0, 3.0])
    noise = corrupt(x, "signal", "gaussian_noise", 3, std) - x
    np.testing.assert_allclose(noise.std(axis=(0, 2)), 0.4 * std, rtol=0.02)
    factors = corrupt(x, "signal", "gain", 4, std) / np.where(x == 0, 1, x)
    assert set(np.round(factors[:, 0, 0], 4).tolist()) <= {2.0, 0.5}
    lost = corrupt(x, "signal", "dropout", 5, std)
    changed = (lost != x).any(axis=1).sum(axis=1)
    assert changed.max() == 32
    assert changed.min() >= 30  # half of 64 in one piece, but where it held the mean already
    impulses = corrupt(x, "signal", "impulse_noise", 5, std)
    assert (impulses != x).mean() == pytest.approx(0.16, abs=0.01)
    image = np.full((4, 1, 10, 10), 0.3, np.float32)
    np.testing.assert_allclose(corrupt(image, "image", "brightness", 2, std[:1]), 0.5, rtol=1e-6)
    ramp = np.tile(np.arange(50, dtype=np.float32), (8, 1, 1))
    moved = corrupt(ramp, "signal", "time_shift", 5, std[:1])
    inner = moved[:, 0, 20:30] - ramp[:, 0, 20:30]
    assert (inner == inner[:, :1]).all()
    assert (np.abs(inner[:, 0]) <= 10).all()
    assert (np.abs(inner[:, 0]) >= 1).all()


def test_unknown_corruptions_are_refused() -> None:
    with pytest.raises(ConfigError, match="signal has no corruption 'fog' of severity 1"):
        corrupt(some("signal"), "signal", "fog", 1, np.ones(3))
    with pytest.raises(ConfigError, match="severity 6"):
        corrupt(some("signal"), "signal", "gain", 6, np.ones(3))
    with pytest.raises(ConfigError, match="kinds are image, signal, spectrogram"):
        corrupt(some("signal"), "tokens", "gain", 1, np.ones(3))


def test_corruption_accuracy_is_the_mean_of_its_grid() -> None:
    x = some("image", 60)
    truth = (x.mean(axis=(1, 2, 3)) > np.median(x.mean(axis=(1, 2, 3)))).astype(int)
    threshold = np.median(x.mean(axis=(1, 2, 3)))

    def predict(samples: np.ndarray) -> np.ndarray:
        return (samples.mean(axis=(1, 2, 3)) > threshold).astype(int)

    found = corruption_accuracy(predict, x, truth, "image", np.ones(2))
    assert found["clean"] == 1.0
    grid = np.array(list(found["corruptions"].values()))
    assert grid.shape == (7, 5)
    assert found["mean"] == pytest.approx(grid.mean())
    assert found["by_severity"] == pytest.approx(grid.mean(0).tolist())
    assert found["corruptions"]["brightness"][-1] < 0.7  # everything is above the threshold
    assert found["corruptions"]["contrast"] == [1.0] * 5  # a mean survives a loss of contrast


def test_auroc_is_the_chance_that_outside_scores_higher() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.standard_normal(50).round(1), (rng.standard_normal(40) + 0.7).round(1)
    pairs = outside[:, None] - inside[None]
    assert auroc(inside, outside) == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    assert auroc([0.0, 1.0], [2.0, 3.0]) == 1.0
    with pytest.raises(InputError, match="both sides"):
        auroc([], [1.0])


def test_out_of_distribution_scores_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    bank, labels = rng.standard_normal((60, 4)) @ np.diag([1, 2, 3, 0.5]), rng.integers(0, 2, 60)
    bank[labels == 1] += 4
    queries = rng.standard_normal((9, 4)) * 5
    u, v = (z / np.linalg.norm(z, axis=1)[:, None] for z in (queries, bank))
    distances = np.sort(np.linalg.norm(u[:, None] - v[None], axis=2), axis=1)
    np.testing.assert_allclose(knn_distance(bank, queries, k=7), distances[:, 6], atol=1e-7)
    centred = bank - np.stack([bank[labels == c].mean(0) for c in (0, 1)])[labels]
    shared = EmpiricalCovariance(assume_centered=True).fit(centred)
    expected = np.min([shared.mahalanobis(queries - bank[labels == c].mean(0)) for c in (0, 1)], axis=0)
    np.testing.assert_allclose(mahalanobis(bank, labels, queries), expected, rtol=1e-4)
    far = out_of_distribution(bank, labels, bank[:20], bank[:20] @ np.diag([-1, 1, 1, 1]) - [30, 0, 0, 0], k=3)
    assert far["knn"] > 0.95
    assert far["mahalanobis"] > 0.95


SPEC = InputSpec("image", (1, 4, 4), (0.5,), (0.25,), "intensity")


class Flat(nn.Module):
    """A tiny smooth encoder: normalise, flatten, one layer, tanh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer((x.flatten(1) - 0.5) / 0.25))


@pytest.fixture(scope="module")
def attacked() -> tuple[LinearModel, np.ndarray, np.ndarray, object]:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(0.5 + 0.12 * np.repeat(np.eye(3)[y], 6, axis=1)[:, :16] + 0.1 * rng.standard_normal((90, 16)), 0, 1)
    x = x.reshape(90, 1, 4, 4).astype(np.float32)
    encoder = Flat()
    with torch.no_grad():
        probe = fit_linear(encoder(torch.from_numpy(x)).numpy(), y + 5)
    return LinearModel.of(encoder, probe), x, y + 5, probe


def test_the_attacked_layer_is_the_fitted_probe(attacked: tuple[LinearModel, np.ndarray, np.ndarray, object]) -> None:
    model, x, y, probe = attacked
    with torch.no_grad():
        embeddings = model.encoder(torch.from_numpy(x)).numpy()
        logits = model.logits(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, probe.decision_function(embeddings), rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]
    two = fit_linear(embeddings[y < 7], y[y < 7])
    with torch.no_grad():
        pair = LinearModel.of(model.encoder, two).logits(torch.from_numpy(x[y < 7])).numpy()
    np.testing.assert_allclose(pair[:, 1] - pair[:, 0], two.decision_function(embeddings[y < 7]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 10])
def test_an_attack_stays_in_its_ball_and_in_the_image_and_raises_the_loss(
    attacked: tuple[LinearModel, np.ndarray, np.ndarray, object], steps: int
) -> None:
    model, x, y, _ = attacked
    std, targets, clean = torch.full((1, 1, 1), 0.25), torch.from_numpy(y - 5), torch.from_numpy(x)
    found = attack(model, clean, targets, 0.3, steps, std, image=True)
    assert float((found - clean).abs().max()) <= 0.3 * 0.25 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    loss = nn.functional.cross_entropy
    with torch.no_grad():
        assert float(loss(model.logits(found), targets)) > float(loss(model.logits(clean), targets)) + 0.1


def test_accuracy_falls_with_the_radius_from_the_clean_one(
    attacked: tuple[LinearModel, np.ndarray, np.ndarray, object],
) -> None:
    model, x, y, _ = attacked
    radii = (0.0, 0.02, 0.1, 0.3, 1.0)
    found = adversarial_accuracy(model, x, y, SPEC, radii)
    with torch.no_grad():
        clean = (model.classes[model.logits(torch.from_numpy(x)).argmax(1).numpy()] == y).mean()
    for name in ("fgsm", "pgd"):
        assert found[name][0] == pytest.approx(clean)
        assert found[name] == sorted(found[name], reverse=True)
    assert found["pgd"][-1] < 0.2 < found["pgd"][0]
    assert found["largest"][0] == 0
    assert all(0 < large <= radius + 1e-5 for large, radius in zip(found["largest"][1:], radii[1:], strict=True))
    with pytest.raises(InputError, match="rising"):
        adversarial_accuracy(model, x, y, SPEC, (0.1, 0.0))


def test_fgsm_on_a_linear_model_is_the_worst_there_is() -> None:
    """For logits w.x of two classes the loss is worst at x - radius sign(w) (Goodfellow et al. 2015, section 5)."""
    torch.manual_seed(1)
    head = nn.Linear(6, 2, bias=False)
    model = LinearModel(nn.Flatten(), head, np.array([0, 1]))
    x = torch.randn(5, 1, 6)
    w = (head.weight[1] - head.weight[0]).detach()
    found = attack(model, x, torch.ones(5, dtype=torch.int64), 0.2, 1, torch.ones(1, 1), image=False)
    torch.testing.assert_close(found, x - 0.2 * w.sign())
    refined = attack(model, x, torch.ones(5, dtype=torch.int64), 0.2, 10, torch.ones(1, 1), image=False)
    torch.testing.assert_close(refined, found)
