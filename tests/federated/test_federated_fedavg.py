"""The streaming mean against numpy's, and the choice of clients."""

from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated.fedavg import StreamingFedAvg
from federated.local import LocalGrid

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


def sampled(nodes, round_number, **options):
    grid = LocalGrid(lambda message, context: message, nodes)
    messages = StreamingFedAvg(**options).configure_train(round_number, ArrayRecord(), ConfigRecord(), grid)
    return [m.metadata.dst_node_id for m in messages]


@pytest.mark.usefixtures("identity")
class TestSampling:
    def test_everybody_by_default(self):
        assert sampled(5, 1) == [100, 101, 102, 103, 104]

    def test_a_fraction_without_repeats(self):
        chosen = sampled(20, 1, fraction_train=0.3)
        assert len(chosen) == len(set(chosen)) == 6

    def test_the_same_seed_and_round_choose_the_same_nodes_and_others_do_not(self):
        def choices(seed):
            return [sampled(20, r, fraction_train=0.3, seed=seed) for r in range(1, 6)]

        assert choices(1) == choices(1)
        assert choices(1) != choices(2)
        assert len({tuple(c) for c in choices(1)}) > 1

    def test_no_node_is_preferred(self):
        counts = Counter(n for r in range(300) for n in sampled(10, r, fraction_train=0.3))
        assert len(counts) == 10
        assert max(abs(n - 90) for n in counts.values()) < 4.5 * np.sqrt(300 * 0.3 * 0.7)

    def test_min_nodes_are_asked_even_if_the_fraction_is_less(self):
        assert len(sampled(10, 1, fraction_train=0.1, min_nodes=4)) == 4

    def test_too_few_nodes_end_in_an_error_not_in_waiting(self):
        with pytest.raises(FederationError, match="1 of 2 nodes connected within 0 s"):
            sampled(1, 1, node_timeout=0.0)


@pytest.mark.parametrize("options", [{"fraction_train": 0.0}, {"fraction_train": 1.5}, {"min_nodes": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(FederationError, match="fraction_train must lie in"):
        StreamingFedAvg(**options)
