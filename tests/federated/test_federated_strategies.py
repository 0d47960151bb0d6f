"""Each strategy against its formula in float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federated import StreamingFedAvg

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
