"""Rounds with codecs and with noise, end to end: bytes, what is owed, and what happens when an end forgets."""

import shutil

import numpy as np
import pytest
from flwr.app import Context, Message

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated import compat, message, train_round
from federated.client import Learners, catch_up, make_client_app
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.central import CentralPrivacy
from federated.server import make_server_app
from federated.settings import RoundSettings
from federated.simulation import federate_in_process, run_local
from federated.strategies import FedBuff, StreamingFedAvg, build_strategy

NODES = 3


@pytest.fixture
def fleet(bundle, samples, tmp_path):
    """fleet(codec, downlink, ...): records and final theta of a run of real learners."""

    def run(rounds=4, *, codec="whole", downlink="whole", name="run", between=None, drop=None, privacy=None, **own):
        def open_learner(context: Context) -> Learner:
            i = int(context.node_config["partition-id"])
            learner = Learner.open(bundle, tmp_path / name / str(i), memory_bytes=1 << 16, seed=i)
            catch_up(learner, samples(80, seed=i, shift=0.0))
            return learner

        records, last = [], []

        def on_round(record, theta):
            records.append(record)
            last[:] = [theta]
            if between:
                between(record["round"], tmp_path / name)

        options = {"min_nodes": NODES, "codec": codec, "downlink": downlink}
        settings = RoundSettings(rounds, **(options | own.pop("settings", {})))
        server = make_server_app(bundle.state()["theta"], bundle.digest, settings, on_round=on_round, **own)
        with compat.quiet(), Learners(open_learner) as learners:
            app = make_client_app(learners, local_steps=4, privacy=privacy)
            grid = run_local(server, app, NODES, drop=drop)
        return records, last[0], grid

    return run


def test_bytes_are_those_of_the_wire_and_of_each_device(fleet):
    records, _, grid = fleet(codec="int8", downlink="int8")
    for record in records:
        assert set(record["device_bytes"]) == {"100", "101", "102"}
        assert sum(down for down, _ in record["device_bytes"].values()) == record["bytes_down"]
        assert sum(up for _, up in record["device_bytes"].values()) == record["bytes_up"]
    assert sum(record["bytes_up"] for record in records) == grid.bytes_up
    assert sum(record["bytes_down"] for record in records) == grid.bytes_down


def test_a_simulation_takes_codecs(bundle, samples, tmp_path):
    streams = [samples(80, seed=i, shift=0.0) for i in range(NODES)]
    options = {"rounds": 2, "local_steps": 4, "memory_bytes": 1 << 16}
    plain = federate_in_process(bundle, streams, workdir=tmp_path / "a", **options)
    same = federate_in_process(bundle, streams, workdir=tmp_path / "b", codec="delta", downlink="delta", **options)
    np.testing.assert_array_equal(plain.theta, same.theta)
    with pytest.raises(FederationError, match="codec 'zip' is unknown"):
        federate_in_process(bundle, streams, workdir=tmp_path / "c", codec="zip", **options)


def test_lossless_rounds_are_whole_rounds(fleet):
    whole, theta, _ = fleet(name="whole")
    delta, same, _ = fleet(codec="delta", downlink="delta", name="delta")
    np.testing.assert_array_equal(theta, same)
    assert [r["version"] for r in whole] == [r["version"] for r in delta]


@pytest.mark.parametrize(
    "names", [("int8", "whole"), ("whole", "int8"), ("topk:0.2+int8", "topk:0.5"), ("randomk:0.5",) * 2]
)
def test_lossy_rounds_stay_near(fleet, bundle, names):
    start = bundle.state()["theta"]
    _, theta, _ = fleet(name="whole")
    records, lossy, _ = fleet(codec=names[0], downlink=names[1], name="lossy")
    assert records[-1]["version"] == message.version_of(lossy)
    assert not any(record["failures"] for record in records)
    assert np.linalg.norm(lossy - theta) < (0.1 if "int8" in names else 1.0) * np.linalg.norm(theta - start)


def test_a_device_that_lost_its_link_costs_one_reply(fleet):
    def forget(number, folder):
        if number == 2:
            shutil.rmtree(folder / "1" / "link")

    records, _, _ = fleet(codec="int8", downlink="int8", between=forget)
    assert [list(record["failures"]) for record in records] == [[], [], ["101"], []]
    assert "not at hand; send theta whole" in records[2]["failures"]["101"]


def test_devices_that_drop_out_come_back(fleet):
    def drop(partition, question):
        return partition == 2 and message.config_of(question.content)[message.ROUND] in (2, 3)

    records, _, _ = fleet(6, codec="topk:0.3+int8", downlink="int8", drop=drop)
    assert [list(record["failures"]) for record in records] == [[], ["102"], ["102"], [], [], []]


def test_a_refused_version_and_a_restart_leave_no_device_behind(fleet, tmp_path):
    seen = []

    def review(record, theta):
        seen.append(record["round"])
        return "not good" if len(seen) == 2 else ""

    options = {"codec": "topk:0.3", "downlink": "topk:0.5", "state_dir": tmp_path / "server"}
    records, _, _ = fleet(4, review=review, **options)
    assert [bool(record.get("refused")) for record in records] == [False, True, False, False]
    more, theta, _ = fleet(6, **options)
    assert not any(record["failures"] for record in records + more)
    assert more[-1]["round"] == 6
    assert more[-1]["version"] == message.version_of(theta)


def test_asynchronous_rounds_take_codecs_both_ways(fleet):
    records, theta, _ = fleet(6, codec="topk:0.3+int8", downlink="int8", strategy=FedBuff(buffer=2))
    assert [record["failures"] for record in records] == [{}] * 6
    assert records[-1]["version"] == message.version_of(theta)
    assert sum(record["clients"] for record in records) == 12


def test_central_privacy_in_rounds(fleet):
    privacy = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=0.1, delta=1e-5, max_epsilon=8.0)
    strategy = CentralPrivacy(StreamingFedAvg(), privacy, cohort=NODES)
    records = []
    with pytest.raises(FederationError, match=r"epsilon 7\.077 of 8 is spent"):
        fleet(5, strategy=strategy, codec="int8", between=lambda n, _: records.append(n))
    assert records == [1, 2]


def test_central_privacy_is_not_given_back_by_a_restart_or_a_refusal(fleet, tmp_path):
    privacy = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=0.1, delta=1e-5, max_epsilon=13.0)

    def strategy():
        return CentralPrivacy(StreamingFedAvg(), privacy, cohort=NODES)

    def review(record, theta):
        return "not good" if record["round"] == 2 else ""

    first, _, _ = fleet(2, strategy=strategy(), review=review, state_dir=tmp_path / "server")
    assert [round(record["epsilon"], 2) for record in first] == [4.73, 7.08]
    again, _, _ = fleet(3, strategy=strategy(), state_dir=tmp_path / "server")
    assert round(again[-1]["epsilon"], 2) == 9.01


def test_local_privacy_says_nothing_but_the_noisy_change(bundle, samples, tmp_path, identity):
    privacy = GaussianPrivacy(noise_multiplier=2.0, clipping_norm=0.1, delta=1e-5, max_epsilon=2.5)
    theta = bundle.state()["theta"]
    with Learner.open(bundle, tmp_path, memory_bytes=1 << 16) as learner:
        learner.observe(samples(80, seed=1, shift=0.0))
        for number in (1, 2):
            content = message.pack(theta, bundle_digest=bundle.digest, round_number=number)
            question = Message(content, 100, "train")
            compat.stamp(question)
            if number == 1:
                reply = train_round(question, learner, 4, privacy)
                update = message.unpack(reply.content, bundle_digest=bundle.digest, size=len(theta), reply=True)
                assert update.metrics == {"num-examples": 1}
                assert 0.2 < np.std(update.theta - theta) < 0.6  # 2 x 2 x 0.1
            else:
                with pytest.raises(FederationError, match="this device's privacy budget: epsilon"):
                    train_round(question, learner, 4, privacy)


@pytest.mark.parametrize("name", ["topk:0.1", "randomk:0.5+int8"])
@pytest.mark.parametrize("strategy", [("krum", {"byzantine": 1}), ("median", {}), ("trimmed_mean", {})])
def test_what_cannot_go_together_is_refused_before_the_first_round(name, strategy):
    settings = RoundSettings(1, codec=name)
    with pytest.raises(FederationError, match="compares replies number by number, and codec"):
        make_server_app(
            np.zeros(4, np.float32), "ab" * 32, settings, strategy=build_strategy(strategy[0], (), strategy[1])
        )
