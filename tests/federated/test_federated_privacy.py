"""Differential privacy: the noise is what it says, the price is what others compute, and the budget is an end."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from edgessl.errors import FederationError
from federated import compat
from federated.message import Update
from federated.privacy.budget import GaussianPrivacy, Ledger
from federated.privacy.central import CentralPrivacy
from federated.privacy.gaussian import clip, epsilon, noise
from federated.privacy.local import LocalPrivacy
from federated.privacy.options import central_privacy, from_options
from federated.privacy.secure.server import SecureAggregation
from federated.server import make_server_app
from federated.settings import RoundSettings
from federated.simulation import run_local
from federated.strategies import FedAdam, FedBuff, StreamingFedAvg, median

DIGEST = "0a" * 32
PRIVACY = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=2.0, delta=1e-5, max_epsilon=13.0)


class Still:
    """A generator that adds nothing, so that the rest of the mechanism can be seen."""

    def normal(self, mean, deviation, size):
        self.deviation = deviation
        return np.zeros(size)


def updates(*changes, size=4, examples=(1, 5, 100)):
    for i, change in enumerate(changes):
        theta = np.zeros(size, np.float32)
        theta[i % size] = change
        yield Update(theta, 1, {"num-examples": examples[i % 3], "loss": 1.0})


@pytest.mark.parametrize(
    ("releases", "multiplier", "expected"),
    [
        (5, 1.0, 12.30),  # Flower's RdpAccountant over Google's dp-accounting, run on 2026-11-20 (notes/flower.md 1.2)
        (2, 1.0, 7.08),  # the same
        (0, 1.0, 0.0),
    ],
)
def test_epsilon_as_published(releases, multiplier, expected):
    assert epsilon(releases, multiplier, 1e-5) == pytest.approx(expected, abs=0.005)


def test_epsilon_lies_between_the_exact_value_and_the_closed_form():
    """Exact: Balle and Wang, ICML 2018, theorem 8. Closed form: zCDP, Bun and Steinke, TCC 2016, proposition 1.3."""
    from scipy.stats import norm

    for releases, multiplier in [(1, 1.0), (1, 4.0), (20, 3.0), (1000, 30.0)]:
        mu = math.sqrt(releases) / multiplier  # n Gaussians compose into one
        rho = mu**2 / 2
        low, high = 0.0, 100.0
        for _ in range(100):
            e = (low + high) / 2
            spent = norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu)
            low, high = (e, high) if spent > 1e-5 else (low, e)
        found = epsilon(releases, multiplier, 1e-5)
        assert low <= found <= rho + 2 * math.sqrt(rho * math.log(1e5))
        assert found < 1.2 * low


def test_epsilon_is_that_of_flowers_accountant():
    pytest.importorskip("dp_accounting", reason="Flower's accountant needs flwr[dp]")
    from flwr.serverapp import NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod
    from flwr.supercore.privacy_accounting import GaussianPrivacyEvent

    for releases, multiplier, delta in [(1, 0.7, 1e-5), (5, 1.0, 1e-5), (100, 5.0, 1e-6), (3, 50.0, 1e-9)]:
        config = PrivacyConfig(
            target_delta=delta,
            population_size=100,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
        )
        accountant = RdpAccountant(config)
        accountant.compose(GaussianPrivacyEvent(multiplier, 10, 100), releases)
        found, theirs = epsilon(releases, multiplier, delta), accountant.get_epsilon(delta)
        assert 0.97 * theirs < found <= theirs * (1 + 1e-12)  # the same formula at more orders


def test_clipping():
    change = np.array([3.0, 4.0])
    np.testing.assert_array_equal(clip(change, 5.0), change)
    np.testing.assert_allclose(clip(change, 1.0), [0.6, 0.8])
    np.testing.assert_array_equal(clip(np.zeros(2), 1.0), [0, 0])  # where Flower's primitive divides by zero


def test_noise_is_gaussian_of_that_deviation_and_never_the_same():
    from scipy.stats import kstest

    values = noise(20_000, 3.0, np.random.default_rng(0))
    assert kstest(values / 3.0, "norm").pvalue > 0.01
    np.random.seed(0)  # what a user's program may do
    one = noise(8, 1.0)
    np.random.seed(0)
    assert not np.array_equal(one, noise(8, 1.0))


def test_the_released_mean_is_of_clipped_changes_over_a_fixed_cohort():
    rng = Still()
    strategy = CentralPrivacy(StreamingFedAvg(), PRIVACY, cohort=4, rng=rng)
    reference = np.zeros(4, np.float32)
    theta, metrics = strategy.aggregate(1, reference, updates(1.0, -10.0, 0.0))
    np.testing.assert_allclose(theta, [0.25, -0.5, 0, 0])  # -10 clipped to -2; examples have no say; divided by 4
    assert rng.deviation == 2.0
    assert metrics["epsilon"] == pytest.approx(4.73, abs=0.005)
    assert metrics["delta"] == 1e-5
    assert metrics["loss"] == 1.0


def test_the_released_noise_has_the_deviation_of_the_paper():
    size, cohort = 20_000, 10
    privacy = GaussianPrivacy(noise_multiplier=1.5, clipping_norm=0.3, delta=1e-5, max_epsilon=100.0)
    strategy = CentralPrivacy(StreamingFedAvg(), privacy, cohort=cohort, rng=np.random.default_rng(0))
    theta, _ = strategy.aggregate(1, np.ones(size, np.float32), updates(0.0, size=size))
    expected = 1.5 * 0.3 / cohort  # z S / (q W), algorithm 1 of McMahan et al.
    np.testing.assert_allclose((theta - 1 + 1 / size).std(), expected, rtol=0.1)


@pytest.mark.parametrize("one", [0.0, 1e6, -3.0])
def test_one_device_moves_the_release_by_no_more_than_its_share(one):
    def release(*changes):
        strategy = CentralPrivacy(StreamingFedAvg(), PRIVACY, cohort=4, rng=Still())
        return strategy.aggregate(1, np.zeros(4, np.float32), updates(*changes))[0]

    moved = np.linalg.norm(release(1.0, 0.5, one) - release(1.0, 0.5))
    assert moved <= 2.0 / 4 + 1e-6


def test_a_server_optimizer_gets_the_noisy_mean():
    plain, wrapped = FedAdam(lr=0.1), CentralPrivacy(FedAdam(lr=0.1), PRIVACY, cohort=1, rng=Still())
    reference = np.zeros(4, np.float32)
    for number in (1, 2):
        want, _ = plain.aggregate(number, reference, updates(1.0))
        got, _ = wrapped.aggregate(number, reference, updates(1.0))
        np.testing.assert_allclose(got, want)
    state = wrapped.state()
    assert state["spent.releases"] == 2
    again = CentralPrivacy(FedAdam(lr=0.1), PRIVACY, cohort=1, rng=Still())
    again.load_state(state)
    np.testing.assert_allclose(
        again.aggregate(3, reference, updates(1.0))[0], plain.aggregate(3, reference, updates(1.0))[0]
    )
    assert again.ledger.releases == 3


def test_no_device_is_asked_once_the_budget_is_spent():
    class Nobody:
        asked = 0

        def get_node_ids(self):
            Nobody.asked += 1
            return []

    privacy = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=1.0, delta=1e-5, max_epsilon=8.0)
    strategy = CentralPrivacy(StreamingFedAvg(), privacy, cohort=2, rng=Still())
    arrays = ArrayRecord({"theta": Array(np.zeros(4, np.float32))})
    for number in (1, 2):  # 4.73, then 7.08
        strategy.configure_train(number, arrays, ConfigRecord(), Nobody())
        strategy.aggregate(number, np.zeros(4, np.float32), updates(1.0))
    with pytest.raises(
        FederationError, match=r"epsilon 7.077 of 8 is spent .*2 releases\); the next would make it 9.01"
    ):
        strategy.configure_train(3, arrays, ConfigRecord(), Nobody())
    assert Nobody.asked == 2
    with pytest.raises(FederationError, match="is spent"):
        strategy.aggregate(3, np.zeros(4, np.float32), updates(1.0))
    assert strategy.ledger.releases == 2


def test_local_noise_sensitivity_and_budget(tmp_path):
    privacy = GaussianPrivacy(noise_multiplier=4.0, clipping_norm=0.5, delta=1e-5, max_epsilon=1.6)
    reference = np.zeros(20_000, np.float32)
    theta = reference.copy()
    theta[0] = 1e6
    local = LocalPrivacy(privacy, tmp_path, DIGEST, rng=np.random.default_rng(0))
    sent = local.release(theta, reference)
    assert sent.dtype == np.float32
    assert np.abs(sent).max() < 25  # the change is clipped
    np.testing.assert_allclose(sent.std(), 4.0 * 2 * 0.5, rtol=0.02)
    local.release(theta, reference)
    local.close()
    again = LocalPrivacy(privacy, tmp_path, DIGEST)  # a restart gives nothing back
    assert again.ledger.releases == 2
    with pytest.raises(FederationError, match=r"this device's privacy budget: epsilon 1.\d+ of 1.6 is spent"):
        again.release(theta, reference)
    again.close()
    other = GaussianPrivacy(noise_multiplier=5.0, clipping_norm=0.5, delta=1e-5, max_epsilon=1.6)
    with pytest.raises(FederationError, match="noise_multiplier 4 was paid for so far, found 5"):
        LocalPrivacy(other, tmp_path, DIGEST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be positive"),
        ({"clipping_norm": math.inf}, "clipping_norm must be positive and finite"),
        ({"clipping_norm": math.nan}, "clipping_norm must be positive and finite"),
        ({"delta": 1.0}, "delta must lie in"),
        ({"max_epsilon": 0.1}, "one release costs epsilon 4.73 and 0.1 is all there is"),
    ],
)
def test_settings_that_promise_nothing_are_refused(change, words):
    values = {"noise_multiplier": 1.0, "clipping_norm": 1.0, "delta": 1e-5, "max_epsilon": 8.0, **change}
    with pytest.raises(FederationError, match=words):
        GaussianPrivacy(**values)


def test_a_ledger_counts_no_release_that_it_refused():
    ledger = Ledger(PRIVACY, "budget")
    for _ in range(5):
        ledger.spend()
    with pytest.raises(FederationError, match="the next would make it 13"):
        ledger.spend()
    assert ledger.releases == 5
    assert ledger.epsilon <= 13


def test_privacy_from_options():
    options = {"noise_multiplier": 1.0, "clipping_norm": 1.0, "delta": 1e-5, "max_epsilon": 8.0}
    strategy = central_privacy(StreamingFedAvg(), {**options, "cohort": 3})
    assert strategy.clipping_norm == 1.0
    assert from_options(SecureAggregation, {"bound": 2.0}, "secure").bound == 2.0
    with pytest.raises(FederationError, match="cohort: expected how many replies a round has, found None"):
        central_privacy(StreamingFedAvg(), options)
    with pytest.raises(FederationError, match=r"central-privacy: .*unexpected keyword argument 'epsilon'"):
        central_privacy(StreamingFedAvg(), {**options, "cohort": 3, "epsilon": 1.0})
    with pytest.raises(FederationError, match=r"secure: .*'masks'"):
        from_options(SecureAggregation, {"masks": 2}, "secure")
    for strategy in (FedBuff(), median()):
        with pytest.raises(FederationError, match="central privacy needs the mean of the replies"):
            central_privacy(strategy, {**options, "cohort": 3})


def test_flowers_wrapper_runs_in_these_rounds_too_and_gives_the_same_mean(adding_client, digest):
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

    steps = {0: (1.0, 10), 1: (-0.5, 10), 2: (20.0, 10)}
    privacy = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=1.0, delta=1e-5, max_epsilon=8.0)
    released = []
    for strategy in (
        DifferentialPrivacyServerSideFixedClipping(StreamingFedAvg(), 0.0, 1.0, 3),
        CentralPrivacy(StreamingFedAvg(), privacy, cohort=3, rng=Still()),
    ):
        server = make_server_app(
            np.zeros(4, np.float32),
            digest,
            RoundSettings(1, min_nodes=3),
            strategy=strategy,
            on_round=lambda record, theta: released.append(theta),
        )
        with compat.quiet():
            run_local(server, adding_client(steps, 4), 3)
    np.testing.assert_allclose(released[0], released[1], atol=1e-6)
    np.testing.assert_allclose(released[1], (0.5 - 0.5 + 0.5) / 3, atol=1e-6)  # each cut to length 1: 4 x 0.5
