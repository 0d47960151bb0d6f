"""Rules that need something of the step: a fleet of small learners on torch, with Orchestra's and FedProx's steps."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from edgessl.continual.torch_runtime import TorchModel
from edgessl.device import InputSpec, Learner
from edgessl.errors import FederationError
from edgessl.recipe import build_step, parse_recipe
from federated import RoundSettings, build_strategy, compat, make_server_app, run_local, train_round
from federated.clustering import LOCAL_CENTROIDS, centroids_of
from federated.rules import rule_config

SPEC = InputSpec("image", (1, 8, 8), (0.5,), (0.3,), "intensity 0..1")


def model(objective, options, strategy=None):
    torch.set_num_threads(1)
    recipe = {"encoder": {"name": "ds_cnn_s"}, "objective": {"name": objective, "options": options}, "optimizer": "sgd"}
    recipe |= {"batch_size": 8, "hyper": {"lr": 0.01}} | ({"strategy": {"name": strategy}} if strategy else {})
    step = build_step(parsed := parse_recipe(recipe), SPEC)
    return TorchModel(parsed, SPEC, step, step.initial_state(), batch_size=8)


@pytest.fixture
def fleet(tmp_path):
    """fleet(model, rounds, strategy, rule): learners, what each replied, the thetas after every round."""
    with ExitStack() as stack:

        def run(opened, rounds, strategy, rule):
            learners, replies, thetas = [], [], []
            for i in range(3):
                learner = Learner.open(opened, tmp_path / str(i), memory_bytes=1 << 16, seed=i)
                learners.append(stack.enter_context(learner))
                x = np.random.default_rng(i).random((40, *SPEC.shape), np.float32)
                learner.observe(np.clip(x + 0.2 * i, 0, 1).astype(np.float32))

            def client(message, context):
                reply = train_round(message, learners[context.node_config["partition-id"]], 3)
                replies.append(reply.content["arrays"]["theta"].numpy())
                return reply

            layout, start = opened.manifest.parameters, opened.state()["theta"]
            app = make_server_app(
                start,
                opened.digest,
                RoundSettings(rounds),
                layout=layout,
                strategy=strategy and build_strategy(strategy, layout),
                client_config=rule,
                on_round=lambda record, theta: thetas.append(theta),
            )
            with compat.quiet():
                run_local(app, client, 3)
            return learners, replies, thetas

        yield run


def test_orchestra_clusters_the_fleets_clusters(fleet):
    opened = model("orchestra", {"hidden": 16, "projection": 8, "clusters": 20, "memory": 40})
    entry = centroids_of(opened.manifest.parameters)

    def centroids(theta):
        return theta[entry.offset : entry.offset + entry.size].reshape(entry.shape)

    learners, replies, thetas = fleet(opened, 2, "orchestra", rule_config("orchestra"))
    start, (first, second) = opened.state()["theta"], thetas
    for theta in thetas:
        np.testing.assert_allclose(np.linalg.norm(centroids(theta), axis=1), 1, rtol=1e-5)
    assert np.abs(centroids(first) - centroids(start)).max() > 1e-3
    sent = centroids(replies[0])
    np.testing.assert_allclose(np.linalg.norm(sent[:LOCAL_CENTROIDS], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(sent[LOCAL_CENTROIDS:], centroids(start)[LOCAL_CENTROIDS:])
    np.testing.assert_array_equal(centroids(learners[0].theta), centroids(first))  # its own it sends, and does not keep
    rest = np.delete(np.arange(len(start)), np.arange(entry.offset, entry.offset + entry.size))
    expected = np.mean([reply[rest] for reply in replies[3:]], axis=0)
    np.testing.assert_allclose(second[rest], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_orchestra_needs_its_objective(fleet):
    with pytest.raises(FederationError, match=r"orchestra needs a bundle of objective 'orchestra'"):
        fleet(model("byol", {"hidden": 16, "projection": 8}), 1, None, rule_config("orchestra"))


@pytest.mark.slow
def test_fedprox_holds_devices_near_the_fleet(fleet, tmp_path):
    def moved(weight, folder):
        opened = model("byol", {"hidden": 16, "projection": 8}, "fedprox")
        learners, replies, _ = fleet(opened, 1, None, rule_config("fedprox", {"weight": weight}))
        np.testing.assert_array_equal(learners[0].slot("fleet"), opened.state()["theta"])
        assert learners[0].hyper["proximal_weight"] == pytest.approx(weight)
        for learner in learners:
            learner.close()
        for i in range(3):
            (tmp_path / str(i)).rename(tmp_path / f"{folder}-{i}")
        return max(np.linalg.norm(reply - opened.state()["theta"]) for reply in replies)

    assert moved(50.0, "tight") < 0.8 * moved(0.0, "free")


@pytest.mark.slow
def test_fedx_teaches_devices_by_the_fleets_weights(fleet, tmp_path):
    opened = model("simclr", {"hidden": 16, "projection": 8}, "fedx")
    sent = {}
    for weight in (0.0, 1.0):
        learners, sent[weight], (_, last) = fleet(opened, 2, None, rule_config("fedx", {"weight": weight}))
        assert learners[0].hyper["fedx_weight"] == weight
        fleets = learners[0].slot("fleet")  # what the second round began with
        for learner in learners:
            learner.close()
        for i in range(3):
            (tmp_path / str(i)).rename(tmp_path / f"{weight}-{i}")
        assert np.linalg.norm(fleets - opened.state()["theta"]) > 0
        assert np.linalg.norm(fleets - last) > 0
    assert np.abs(sent[0.0][0] - sent[1.0][0]).max() > 1e-4
