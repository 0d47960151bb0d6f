"""Federations of real learners on a real bundle, run by onnxruntime."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from edgessl.device import Learner
from edgessl.device.storage.state import decode
from edgessl.errors import FederationError
from federated import (
    Learners,
    RoundSettings,
    catch_up,
    compat,
    federate_in_process,
    make_client_app,
    make_server_app,
    run_local,
)
from federated.checkpoint import PER_NODE, ServerStore
from federated.dashboard import summary
from federated.message import version_of
from federated.rules import Memory, rule_config

ROUNDS, STEPS, MEMORY = 3, 12, 16_384  # 256 samples of 64 bytes


@pytest.fixture
def streams(samples):
    return [samples(100, seed=1), samples(300, seed=2)]


@pytest.fixture
def federate(bundle, streams, tmp_path):
    def run(name="w", **options):
        options = {"rounds": ROUNDS, "local_steps": STEPS, "memory_bytes": MEMORY} | options
        return federate_in_process(bundle, streams, workdir=tmp_path / name, **options)

    return run


def learner_of(bundle, path, seed):
    return Learner.open(bundle, path, memory_bytes=MEMORY, seed=seed)


def test_rounds_are_what_learners_do_by_hand_and_numpy_averages(bundle, streams, federate, tmp_path):
    theta = bundle.state()["theta"]
    by_hand = [learner_of(bundle, tmp_path / f"hand-{i}", seed=i) for i in range(2)]
    for learner, stream in zip(by_hand, streams, strict=True):
        learner.observe(stream)
    for _ in range(ROUNDS):
        for learner in by_hand:
            learner.adopt(theta)
            assert learner.learn(max_steps=STEPS).steps == STEPS
        thetas = [learner.theta.astype(np.float64) for learner in by_hand]
        theta = np.average(thetas, axis=0, weights=[100, 300]).astype(np.float32)
    for learner in by_hand:
        learner.close()
    result = federate()
    np.testing.assert_allclose(result.theta, theta, atol=1e-6, rtol=0)
    assert [r["examples"] for r in result.rounds] == [400] * ROUNDS
    assert np.abs(result.theta - bundle.state()["theta"]).max() > 1e-2


def test_the_same_seeds_give_the_same_bits_and_others_do_not(federate):
    first, second, other = federate("a", seed=5), federate("b", seed=5), federate("c", seed=6)
    assert first.theta.tobytes() == second.theta.tobytes()
    assert first.theta.tobytes() != other.theta.tobytes()
    assert [r["loss"] for r in first.rounds] == [r["loss"] for r in second.rounds]


def test_a_simulation_writes_a_round_log_and_goes_on_where_it_was(federate, tmp_path):
    whole = federate("whole", rounds=4)
    federate("cut", rounds=1)
    result = federate("cut", rounds=4)
    assert result.theta.tobytes() == whole.theta.tobytes()
    assert [r["round"] for r in result.rounds] == [1, 2, 3, 4]
    again = federate("cut", rounds=4)  # nothing is left to do
    assert (again.theta.tobytes(), again.rounds) == (result.theta.tobytes(), result.rounds)
    found = summary.read(summary.log_of(tmp_path / "cut"))
    assert [r["clients"] for r in found.rounds] == [2] * 4
    assert sorted(found.devices) == ["100", "101"]
    assert found.version == version_of(result.theta)


def test_the_loss_falls_and_rounds_are_reported(federate):
    told = []
    result = federate(rounds=6, on_round=lambda record, theta: told.append((record, theta.copy())))
    assert result.rounds[-1]["loss"] < 0.5 * result.rounds[0]["loss"]
    assert [{k: v for k, v in record.items() if k != PER_NODE} for record, _ in told] == result.rounds
    np.testing.assert_array_equal(told[-1][1], result.theta)
    assert all(r["clients"] == 2 and r["bytes_up"] > 4 * 2 * len(result.theta) for r in result.rounds)


def test_learners_are_saved_and_go_on_where_they_were(bundle, federate, tmp_path):
    federate()
    with learner_of(bundle, tmp_path / "w" / "client-1", seed=1) as learner:
        assert learner.metrics()["steps"] == ROUNDS * STEPS
        assert learner.metrics()["observed"] == 300
    federate(rounds=ROUNDS + 1)
    with learner_of(bundle, tmp_path / "w" / "client-1", seed=1) as learner:
        assert learner.metrics()["steps"] == (ROUNDS + 1) * STEPS
        assert learner.metrics()["observed"] == 300


@pytest.fixture
def parts(bundle, streams, tmp_path):
    """A server app factory and a client app over learners that have observed their streams."""

    def open_learner(context):
        i = int(context.node_config["partition-id"])
        learner = learner_of(bundle, tmp_path / f"client-{i}", seed=i)
        catch_up(learner, streams[i])
        return learner

    def server(**options):
        records = []
        settings = RoundSettings(**{"rounds": 2} | options)
        app = make_server_app(
            bundle.state()["theta"], bundle.digest, settings, on_round=lambda record, theta: records.append(record)
        )
        return app, records

    with Learners(open_learner) as learners:
        yield server, make_client_app(learners, local_steps=STEPS)


def test_no_message_holds_a_sample_of_anybodys_memory(bundle, streams, parts):
    server, client = parts
    traffic = []

    def tap(message, context):
        traffic.append(compat.encode(message.content))
        reply = client(message, context)
        traffic.append(compat.encode(reply.content))
        return reply

    run_local(server()[0], tap, 2)
    assert len(traffic) == 8
    everything = b"".join(traffic)
    assert bundle.state()["theta"].tobytes() in everything  # the search can find what is there
    rows = np.concatenate(streams).reshape(400, -1)
    scaled = (rows - 0.25) / 0.5
    for values in (rows, scaled, rows.astype(np.float64), rows.astype(np.float16)):
        assert not any(row[:4].tobytes() in everything for row in np.ascontiguousarray(values))
    assert all(len(part) < 4 * len(bundle.state()["theta"]) + 512 for part in traffic)


def test_a_dropped_client_comes_back_with_its_own_state(parts):
    server, client = parts
    app, records = server(rounds=3)
    run_local(app, client, 2, drop=lambda i, message: i == 1 and message.content["config"]["server-round"] == 2)
    assert [r["clients"] for r in records] == [2, 1, 2]
    assert records[1]["failures"] == {"101": "error 5: Node Unavailable"}
    assert [r["examples"] for r in records] == [400, 100, 400]


def test_a_client_with_too_few_samples_does_not_enter_the_mean(streams, parts):
    streams[1] = streams[1][:5]
    server, client = parts
    app, records = server(rounds=1)
    run_local(app, client, 2)
    assert records[0]["examples"] == 100
    assert "nothing to contribute: 0 steps kept; 5 samples remembered" in records[0]["failures"]["101"]


def test_a_client_whose_guard_rolled_back_does_not_enter_the_mean(bundle, streams, tmp_path):
    def open_learner(context):
        i = int(context.node_config["partition-id"])
        learner = learner_of(bundle, tmp_path / f"client-{i}", seed=i)
        learner.observe(streams[i])
        if i == 0:
            learner.hyper["lr"] = 1e38
        return learner

    records = []
    settings = RoundSettings(rounds=1)
    server = make_server_app(
        bundle.state()["theta"], bundle.digest, settings, on_round=lambda record, theta: records.append(record)
    )
    with Learners(open_learner) as learners:
        run_local(server, make_client_app(learners, local_steps=STEPS), 2)
    assert records[0]["examples"] == 300
    assert "nothing to contribute" in records[0]["failures"]["100"]
    assert "rolled back" in records[0]["failures"]["100"]


def test_a_client_with_another_bundle_says_so(bundle, parts):
    _, client = parts
    app = make_server_app(bundle.state()["theta"], "12" * 32, RoundSettings(rounds=1))
    with pytest.raises(FederationError, match="weights of another model: expected bundle"):
        run_local(app, client, 2)


def test_slots_other_than_theta_stay_with_the_client(bundle, parts, tmp_path):
    server, client = parts
    run_local(server()[0], client, 2)
    velocity = []
    for i in range(2):
        files = [(tmp_path / f"client-{i}" / slot).read_bytes() for slot in ("state.0", "state.1")]
        newest = max((decode(data)[0] for data in files), key=lambda saved: saved.generation)
        velocity.append(newest.part("slot")["velocity"])
    assert all(np.abs(v).max() > 0 for v in velocity)
    assert not np.array_equal(*velocity)


def context(node):
    return Context(1, node, {}, RecordDict(), {})


def test_learners_open_each_node_once_and_close_all(bundle, tmp_path):
    opened = []

    def open_learner(context):
        opened.append(context.node_id)
        return learner_of(bundle, tmp_path / str(context.node_id), seed=0)

    with Learners(open_learner) as learners:
        first = learners(context(1))
        assert learners(context(1)) is first
        assert learners(context(2)) is not first
        assert opened == [1, 2]
    learner_of(bundle, tmp_path / "1", seed=0).close()  # the directory is free again
    assert learners(context(1)) is not first
    learners.close()


def test_catch_up_observes_only_what_is_new(bundle, samples, tmp_path):
    stream = samples(600)
    with learner_of(bundle, tmp_path / "a", seed=0) as learner:
        assert catch_up(learner, stream[:400]) == 400
        learner.save()
    with learner_of(bundle, tmp_path / "a", seed=0) as learner:
        assert catch_up(learner, stream) == 200
        assert catch_up(learner, stream) == 0
        assert catch_up(learner, stream[:10]) == 0
        assert learner.metrics()["observed"] == 600


class PowerCut(BaseException):
    """Server and devices lose power at once, after a round."""


@pytest.fixture
def persistent(bundle, streams, tmp_path):
    """persistent(folder, rounds, cut=0): a federation with state on both sides; theta at the end, the learners' too."""

    def run(folder, rounds, cut=0, **options):
        thetas = []

        def open_learner(context):
            i = int(context.node_config["partition-id"])
            learner = learner_of(bundle, tmp_path / folder / f"client-{i}", seed=i)
            catch_up(learner, streams[i])
            return learner

        def on_round(record, theta):
            thetas.append(theta)
            if record["round"] == cut:
                raise PowerCut

        app = make_server_app(
            bundle.state()["theta"],
            bundle.digest,
            RoundSettings(rounds, seed=1),
            layout=bundle.manifest.parameters,
            client_config=rule_config("fedema"),
            on_round=on_round,
            state_dir=tmp_path / folder / "server",
            **options,
        )
        with Learners(open_learner) as learners:
            try:
                run_local(app, make_client_app(learners, local_steps=STEPS), 2)
            except PowerCut:
                return thetas, []
            return thetas, [learner.theta for learner in learners._open.values()]

    return run


def test_after_a_power_cut_everything_goes_on_to_the_same_bits(persistent):
    whole, devices = persistent("whole", 4)
    before, _ = persistent("cut", 4, cut=2)
    after, again = persistent("cut", 4)
    for found, expected in zip([*before, *after, *again], [*whole, *devices], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.abs(devices[0] - whole[-1]).max() > 0


def test_after_a_rollback_devices_meet_the_fleet_anew(bundle, persistent, tmp_path):
    persistent("w", 3)
    memories = [Memory.load(tmp_path / "w" / f"client-{i}") for i in range(2)]
    assert all(m.round == 3 and m.branch == 0 and m.numbers for m in memories)
    with ServerStore(tmp_path / "w" / "server", bundle.digest) as store:
        store.roll_back(1, "poisoned")
    persistent("w", 4)
    for i, old in enumerate(memories):
        new = Memory.load(tmp_path / "w" / f"client-{i}")
        assert (new.federation, new.branch, new.round, new.numbers) == (old.federation, 1, 4, {})
