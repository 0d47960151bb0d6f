"""FedBuff: weights by staleness, by hand, on a grid whose devices are done when the test says so."""

import numpy as np
import pytest
from flwr.app import Message

from edgessl.errors import FederationError
from federated import LocalGrid, RoundSettings, compat, make_server_app, run_local
from federated import message as wire
from federated.strategies import FedBuff, staleness_weight

SIZE = 8
START = np.zeros(SIZE, np.float32)


class Slow(LocalGrid):
    """Virtual time: node 100 + i takes `seconds[i]` to answer."""

    def __init__(self, client, seconds):
        super().__init__(client, len(seconds))
        self.seconds, self.time, self._due = seconds, 0.0, {}

    def now(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds

    def push_messages(self, messages):
        messages = list(messages)
        names = super().push_messages(messages)
        for name, message in zip(names, messages, strict=True):
            self._due[name] = self.time + self.seconds[message.metadata.dst_node_id - 100]
        return names

    def pull_messages(self, message_ids):
        return list(super().pull_messages([n for n in message_ids if self._due[n] <= self.time]))


@pytest.fixture
def adding(digest):
    """adding(steps, heard): client i adds steps[i]; what it started from is written to `heard`."""

    def make(steps, heard=None):
        def client(message, context):
            update = wire.unpack(message.content, bundle_digest=digest, size=SIZE)
            i = int(context.node_config["partition-id"])
            if heard is not None:
                heard.append((i, update.round, float(update.theta[0])))
            metrics = {"num-examples": 1, "loss": float(steps[i])}
            theta = update.theta + np.float32(steps[i])
            return Message(
                wire.pack(theta, bundle_digest=digest, round_number=update.round, metrics=metrics), reply_to=message
            )

        return client

    return make


def run(grid, digest, settings, strategy, **options):
    records, thetas = [], []

    def on_round(record, theta):
        records.append(record)
        thetas.append(float(theta[0]))

    app = make_server_app(START, digest, settings, strategy=strategy, on_round=on_round, **options)
    with compat.local_identity():
        app(grid, grid._context(0))
    return records, thetas


def test_the_weights():
    assert [staleness_weight(s) for s in (0, 1, 4, 9)] == [1, 1 / 2, 1 / 3, 1 / 4]


def test_two_fast_devices_and_a_slow_one_by_hand(adding, digest):
    heard = []
    # devices 0 and 1 answer after 1 s, device 2 after 2.2 s: from version 0, when versions 1 and 2 are there
    grid = Slow(adding([1.0, 2.0, 8.0], heard), [1.0, 1.0, 2.2])
    records, thetas = run(grid, digest, RoundSettings(4, min_nodes=3), FedBuff(buffer=2, lr=0.5))
    first = 0.5 * (1 + 2) / 2
    second = first + 0.5 * (1 + 2) / 2
    third = second + 0.5 * (8 / (1 + np.sqrt(2)) + 1) / 2
    np.testing.assert_allclose(thetas[:3], [first, second, third], rtol=1e-6)
    assert [r["staleness"] for r in records[:3]] == [0, 0, 1]
    assert [r["clients"] for r in records] == [2, 2, 2, 2]
    started = [begin for i, _, begin in heard if i == 2]
    assert started[0] == 0.0
    assert records[0]["loss"] == 1.5


def test_no_round_waits_for_the_slowest(adding, digest):
    seconds = [1.0] * 5 + [100.0]
    buffered = Slow(adding([1.0] * 6), seconds)
    run(buffered, digest, RoundSettings(10, min_nodes=6), FedBuff(buffer=5))
    synchronous = Slow(adding([1.0] * 6), seconds)
    run(synchronous, digest, RoundSettings(10, min_nodes=6), None)
    assert buffered.time <= 15
    assert synchronous.time >= 1000


def test_an_update_that_is_too_old_is_refused(adding, digest):
    grid = Slow(adding([1.0, 1.0, 1000.0]), [1.0, 1.0, 4.2])
    records, thetas = run(grid, digest, RoundSettings(8, min_nodes=3), FedBuff(buffer=2, max_staleness=2))
    assert sum(r["late"] for r in records) >= 1
    assert max(thetas) < 20


def test_a_version_is_made_of_what_came_when_time_is_up(adding, digest):
    grid = Slow(adding([1.0, 1.0]), [1.0, 500.0])
    records, _ = run(grid, digest, RoundSettings(2, round_timeout=10.0), FedBuff(buffer=100))
    assert all(1 <= r["clients"] < 100 for r in records)
    assert records[0]["failures"] == {"101": "no reply within 10 s"}
    assert grid.time < 30


def test_devices_that_fail_sit_out_and_a_fleet_that_fails_ends_the_run(adding, digest):
    def failing(message, context):
        if context.node_config["partition-id"] != 0:
            raise RuntimeError("no power")
        return adding([1.0])(message, context)

    records, thetas = run(Slow(failing, [1.0] * 4), digest, RoundSettings(3, min_nodes=4), FedBuff(buffer=2))
    assert [set(r["failures"]) for r in records] == [{"101", "102", "103"}] * 3
    assert thetas[-1] == pytest.approx(3.0)

    def broken(message, context):
        raise RuntimeError("no power")

    with pytest.raises(FederationError, match=r"round 1: 0 of 2 replies can be used.*no power"):
        run(Slow(broken, [1.0, 1.0]), digest, RoundSettings(1), FedBuff(buffer=2))


def test_it_resumes_from_its_last_version(adding, digest, tmp_path):
    def steps():
        return LocalGrid(adding([1.0, 1.0]), 2)

    run(steps(), digest, RoundSettings(3), FedBuff(buffer=2), state_dir=tmp_path)
    records, thetas = run(steps(), digest, RoundSettings(5), FedBuff(buffer=2), state_dir=tmp_path)
    assert [r["round"] for r in records] == [4, 5]
    assert thetas == [4.0, 5.0]


def test_a_share_of_the_fleet_trains_at_any_time(adding, digest):
    heard = []
    grid = Slow(adding([1.0] * 10, heard), [1.0] * 10)
    pushed = []
    push = grid.push_messages
    grid.push_messages = lambda messages: pushed.append(len(messages)) or push(messages)
    run(grid, digest, RoundSettings(6, fraction_train=0.3), FedBuff(buffer=3))
    assert max(pushed) == 3
    assert len({i for i, _, _ in heard}) > 5


def test_through_run_local(adding, digest):
    thetas = []
    app = make_server_app(
        START, digest, RoundSettings(2), strategy=FedBuff(buffer=2), on_round=lambda r, theta: thetas.append(theta)
    )
    run_local(app, adding([1.0, 3.0]), 2)
    np.testing.assert_allclose(thetas[-1], 4.0)
