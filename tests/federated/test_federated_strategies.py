"""Each strategy against its formula in float64."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.device import ParameterEntry
from edgessl.errors import FederationError
from federated import StreamingFedAvg, Update, build_strategy, clustering
from federated.strategies import LDAWA, STRATEGIES, FedAdam

SIZE = 40


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_the_mean_is_numpys_weighted_mean(reply_to, weights, seed):
    rng = np.random.default_rng(seed)
    thetas = rng.normal(scale=10.0, size=(len(weights), SIZE)).astype(np.float32)
    losses = rng.normal(size=len(weights))
    replies = (reply_to(theta, n, loss=loss) for theta, n, loss in zip(thetas, weights, losses, strict=True))
    arrays, metrics = StreamingFedAvg().aggregate_train(1, replies)
    mean = arrays["theta"].numpy()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.average(thetas.astype(np.float64), axis=0, weights=weights), rtol=1e-6)
    assert metrics["loss"] == pytest.approx(np.average(losses, weights=weights))
    assert "num-examples" not in metrics


def test_equal_weights_of_one_model_leave_it_bit_for_bit(reply_to):
    theta = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    arrays, _ = StreamingFedAvg().aggregate_train(1, [reply_to(theta, n) for n in (3, 5, 11)])
    np.testing.assert_array_equal(arrays["theta"].numpy(), theta)


def test_no_replies_give_nothing():
    assert StreamingFedAvg().aggregate_train(1, []) == (None, None)


def test_a_metric_that_not_everybody_sends_is_the_mean_over_who_does(reply_to):
    theta = np.zeros(SIZE, np.float32)
    replies = [reply_to(theta, 10, loss=1.0, drift=4.0), reply_to(theta, 30, loss=3.0)]
    _, metrics = StreamingFedAvg().aggregate_train(1, replies)
    assert dict(metrics) == {"loss": 2.5, "drift": 4.0}


def updates(thetas, examples=None):
    counts = examples or [1] * len(thetas)
    return [Update(t.astype(np.float32), 1, {"num-examples": n}) for t, n in zip(thetas, counts, strict=True)]


def entries(**shapes):
    """A layout of these shapes by name; a name's last letter is its kind's first."""
    kinds, made, offset = {"w": "weight", "v": "vector", "s": "statistic", "f": "fixed"}, [], 0
    for name, shape in shapes.items():
        made.append(ParameterEntry(name, offset, shape, kinds[name[-1]]))
        offset += made[-1].size
    return tuple(made)


def test_fedadam_is_the_papers_formula_in_float64():
    rng, strategy = np.random.default_rng(0), FedAdam(lr=0.1, beta1=0.8, beta2=0.9, tau=0.01)
    theta = rng.normal(size=SIZE).astype(np.float32)
    expected, m, v = theta.astype(np.float64), np.zeros(SIZE), np.full(SIZE, 1e-4)
    for number in range(1, 6):
        clients = theta + rng.normal(scale=0.1, size=(3, SIZE))
        theta, metrics = strategy.aggregate(number, theta, updates(clients, [1, 2, 5]))
        assert theta.dtype == np.float32
        assert metrics == {}
        move = np.average(clients.astype(np.float32).astype(np.float64), axis=0, weights=[1, 2, 5]) - expected
        m, v = 0.8 * m + 0.2 * move, 0.9 * v + 0.1 * move**2
        expected = expected + 0.1 * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(theta, expected, rtol=2e-6, atol=1e-7)
        expected = theta.astype(np.float64)  # float32 goes round after round


def test_fedadam_goes_on_from_its_state():
    rng = np.random.default_rng(1)
    first, second, theta = FedAdam(), FedAdam(), np.zeros(SIZE, np.float32)
    theta, _ = first.aggregate(1, theta, updates(rng.normal(size=(2, SIZE))))
    second.load_state(first.state())
    clients = updates(rng.normal(size=(2, SIZE)))
    np.testing.assert_array_equal(first.aggregate(2, theta, clients)[0], second.aggregate(2, theta, clients)[0])


def test_ldawa_weighs_every_layer_by_its_own_cosine():
    layout = entries(a_w=(2, 2), b_v=(2,), lone_v=(1,), mean_s=(2,), fixed_f=(1,))
    g = np.array([1, 0, 0, 0, 0, 2, 5, 1, 1, 3], np.float32)
    same, turned = g.copy(), g.copy()
    turned[:4] = [3, 4, 0, 0]  # cosine 3 / 5 with (1, 0, 0, 0)
    turned[4:6] = [0, -1]  # cosine -1
    turned[6:] = [7, 3, 3, 3]
    strategy = LDAWA(layout)
    theta, _ = strategy.aggregate(3, g, updates([same, turned], [1, 1000]))
    by_hand = [(1 + 0.6 * 3) / 2, 0.6 * 4 / 2, 0, 0, 0, (2 + 1) / 2, 6, 2, 2, 3]
    np.testing.assert_allclose(theta, by_hand, rtol=1e-6)
    warm, _ = strategy.aggregate(2, g, updates([same, turned], [1, 3]))
    np.testing.assert_allclose(warm, (same + 3 * turned) / 4, rtol=1e-6)


def test_ldawa_wants_a_layout_that_fits():
    with pytest.raises(FederationError, match="ldawa needs the layout of the parameters"):
        build_strategy("ldawa")
    with pytest.raises(FederationError, match="layout of 4 parameters for weights of 40"):
        LDAWA(entries(a_w=(2, 2))).aggregate(1, np.zeros(SIZE, np.float32), updates([np.zeros(SIZE)]))


class TestClustering:
    def test_the_assignment_is_balanced_and_follows_the_scores(self):
        rng = np.random.default_rng(0)
        rows = clustering.unit(rng.normal(size=(64, 8)))
        q = clustering.balanced(rows @ clustering.unit(rng.normal(size=(4, 8))).T, 1000)
        np.testing.assert_allclose(q.sum(axis=1), 1, atol=0.02)
        np.testing.assert_allclose(q.sum(axis=0), 16, atol=0.5)

    def test_the_gradient_is_autograds(self):
        rng = np.random.default_rng(1)
        rows, c = clustering.unit(rng.normal(size=(12, 5))), clustering.unit(rng.normal(size=(7, 5)))
        target = clustering.balanced(rows @ c.T, 100)
        centroids = torch.tensor(c, requires_grad=True)
        q = torch.softmax(torch.tensor(rows) @ centroids.T / 0.1, dim=1)
        (-torch.nn.functional.cosine_similarity(torch.tensor(target), q, dim=1).mean()).backward()
        np.testing.assert_allclose(clustering.disagreement_gradient(rows, c, target, 0.1), centroids.grad, rtol=1e-9)

    def test_local_centroids_find_the_clusters_that_are_there(self):
        rng = np.random.default_rng(2)
        means = clustering.unit(rng.normal(size=(16, 32)))
        projections = np.repeat(means, 8, axis=0) + rng.normal(scale=0.01, size=(128, 32))
        found = clustering.local_centroids(projections, 16, rng)
        nearest = (found @ means.T).max(axis=1)
        assert (nearest > 0.5).all()
        assert np.median(nearest) > 0.999
        assert len(set((found @ means.T).argmax(axis=1))) >= 12


def test_orchestra_averages_the_weights_and_clusters_the_centroids():
    layout = (ParameterEntry("a", 0, (4,), "weight"), ParameterEntry("clusters.centroids", 4, (20, 3), "fixed"))
    rng = np.random.default_rng(3)
    start = np.concatenate([np.zeros(4), clustering.unit(rng.normal(size=(20, 3))).ravel()]).astype(np.float32)
    thetas = [np.concatenate([np.full(4, v), rng.normal(size=60)]) for v in (1.0, 5.0)]
    strategy = build_strategy("orchestra", layout, {"steps": 20})
    theta, _ = strategy.aggregate(1, start, updates(thetas, [1, 3]))
    np.testing.assert_allclose(theta[:4], 4.0)
    pool = np.concatenate([clustering.unit(t.astype(np.float32)[4:].reshape(20, 3)[:16]) for t in thetas])
    before = clustering.unit(start[4:].reshape(20, 3))
    expected = clustering.global_centroids(pool, before, steps=20, lr=0.01, temperature=0.1)
    np.testing.assert_allclose(theta[4:].reshape(20, 3), expected, atol=1e-6)
    assert np.abs(expected - before).max() > 1e-3
    with pytest.raises(FederationError, match="orchestra needs a bundle of objective 'orchestra'"):
        build_strategy("orchestra", layout[:1])


def test_streaming_holds_one_vector_whatever_the_number_of_replies():
    size, strategy = 100_000, StreamingFedAvg()
    theta = np.ones(size, np.float32)

    def peak(count):
        tracemalloc.start()
        try:
            strategy.aggregate(1, theta, (Update(theta.copy(), 1, {"num-examples": 1}) for _ in range(count)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40) < peak(3) + 4 * size


def test_strategies_are_built_by_name_and_say_what_they_do_not_take():
    assert set(STRATEGIES) >= {"fedavg", "fedadam", "fedbuff", "ldawa", "orchestra", "krum", "median", "trimmed_mean"}
    assert build_strategy("fedadam", options={"lr": 0.5}).lr == 0.5
    with pytest.raises(FederationError, match="unknown strategy 'fedsgd'; choose one of fedavg"):
        build_strategy("fedsgd")
    with pytest.raises(FederationError, match=r"strategy 'fedavg': .* no arguments"):
        build_strategy("fedavg", options={"momentum": 1})
    for name, options in (("fedadam", {"lr": 0}), ("fedbuff", {"buffer": 0}), ("fedadam", {"beta2": 1.0})):
        with pytest.raises(FederationError, match=f"{name}: "):
            build_strategy(name, options=options)
