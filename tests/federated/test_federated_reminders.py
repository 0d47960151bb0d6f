"""A node that is silent is sent its message once more, and of two replies one counts."""

import httpx
import numpy as np
import pytest
from flwr.app import Error, Message

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated import LocalGrid, RoundSettings, compat, make_server_app, pack
from federated.client import train_round
from federated.exchange import POLL_SECONDS
from federated.lineage import BRANCH, FEDERATION
from federated.message import repeat, repeated
from federated.strategies import FedBuff
from federated.traffic import CLOCKS, MOST_REMINDERS

SIZE = 8
START = np.zeros(SIZE, np.float32)


class Wire(LocalGrid):
    """A grid with a clock, on which messages get lost and replies take their time.

    `lost`: (partition, which of its messages) that never arrive; `seconds`: the same, until its reply is there.
    """

    lossless = False

    def __init__(self, client, nodes, lost=(), seconds=None):
        super().__init__(client, nodes)
        self.lost, self.seconds, self.clock = set(lost), seconds or {}, 0.0
        self.sent, self.there = [], {}

    def now(self):
        return self.clock

    def wait(self, seconds):
        self.clock += seconds

    def push_messages(self, messages):
        messages = list(messages)
        for name, message in zip(names := super().push_messages(messages), messages, strict=True):
            partition = message.metadata.dst_node_id - 100
            which = sum(p == partition for p, _, _ in self.sent)
            self.sent.append((partition, self.clock, message))
            if (partition, which) not in self.lost:
                self.there[name] = self.clock + self.seconds.get((partition, which), 0.0)
        return names

    def pull_messages(self, names):
        there = [name for name in names if self.there.get(name, np.inf) <= self.clock]
        return list(super().pull_messages(there))


def federate(grid, digest, rounds=1, strategy=None, **options):
    records = []
    server = make_server_app(
        START, digest, RoundSettings(rounds, **options), strategy=strategy, on_round=lambda r, t: records.append((r, t))
    )
    with compat.local_identity():
        server(grid, grid._context(0))
    return records


@pytest.fixture
def client(adding_client):
    return adding_client({0: (1.0, 1), 1: (3.0, 1)}, SIZE)


def test_a_lost_message_is_sent_again_and_the_round_is_whole(client, digest):
    grid = Wire(client, 2, lost=[(1, 0)])
    ((record, theta),) = federate(grid, digest, remind_after=30.0)
    assert (record["clients"], record["failures"], record["reminded"]) == (2, {}, 1)
    assert record["seconds"] == pytest.approx(30.0, abs=2 * POLL_SECONDS)
    np.testing.assert_array_equal(theta, START + 2.0)
    (_, _, first), (_, at, second) = (sent for sent in grid.sent if sent[0] == 1)
    assert repeated(second.metadata) == first.metadata.message_id
    assert second.content == first.content
    assert second.metadata.ttl == pytest.approx(600 - at + CLOCKS)
    assert first.metadata.ttl == 600 + CLOCKS


def test_asynchronous_rounds_remind_too(client, digest):
    grid = Wire(client, 1, lost=[(0, 0)])
    ((record, theta),) = federate(grid, digest, strategy=FedBuff(buffer=1), remind_after=30.0, min_nodes=1)
    assert (record["clients"], record["failures"], record["reminded"]) == (1, {}, 1)
    np.testing.assert_array_equal(theta, START + 1.0)


def test_of_two_replies_one_counts(client, digest):
    grid = Wire(client, 2, seconds={(1, 0): 40.0, (1, 1): 10.0})
    records = federate(grid, digest, rounds=2, remind_after=30.0)
    assert [r["clients"] for r, _ in records] == [2, 2]
    assert [r["failures"] for r, _ in records] == [{}, {}]
    assert [r["reminded"] for r, _ in records] == [1, 0]
    np.testing.assert_array_equal(records[-1][1], START + 4.0)


def test_a_node_that_refuses_the_reminder_is_waited_for(client, digest):
    """Flower's own SuperNode does: it answers the first message when it is done with it, and refuses the second."""

    def busy(message, context):
        if repeated(message.metadata):
            raise FederationError("answered before")
        return client(message, context)

    grid = Wire(busy, 2, seconds={(1, 0): 40.0, (1, 1): 10.0})  # both are there when the server looks
    ((record, theta),) = federate(grid, digest, remind_after=30.0)
    assert (record["clients"], record["failures"]) == (2, {})
    np.testing.assert_array_equal(theta, START + 2.0)


def test_a_node_that_has_no_reply_any_more_is_a_failure_at_once(client, digest):
    def forgot(message, context):
        if repeated(message.metadata):
            raise FederationError("no longer here")
        return client(message, context)

    ((record, _),) = federate(Wire(forgot, 2, lost=[(1, 0)]), digest, remind_after=30.0)
    assert "no longer here" in record["failures"]["101"]
    assert record["seconds"] < 40


def test_a_node_that_says_nothing_at_all_is_given_up_after_the_timeout(client, digest):
    grid = Wire(client, 2, lost=[(1, i) for i in range(9)])
    ((record, theta),) = federate(grid, digest, remind_after=30.0, round_timeout=300.0)
    assert record["failures"] == {"101": "no reply within 300 s"}
    assert record["seconds"] == pytest.approx(300.0, abs=2 * POLL_SECONDS)
    assert sum(partition == 1 for partition, _, _ in grid.sent) == 1 + MOST_REMINDERS
    np.testing.assert_array_equal(theta, START + 1.0)


def test_nobody_is_reminded_where_nothing_is_lost_or_nobody_wants_it(client, digest):
    silent = Wire(client, 2, lost=[(1, 0)])
    ((record, _),) = federate(silent, digest, remind_after=0.0, round_timeout=90.0)
    assert (record["reminded"], len(silent.sent)) == (0, 2)
    lossless = Wire(client, 2, seconds={(1, 0): 60.0})
    lossless.lossless = True
    ((record, _),) = federate(lossless, digest, remind_after=30.0)
    assert (record["reminded"], record["clients"]) == (0, 2)


@pytest.mark.parametrize("losses", [1, MOST_REMINDERS])
def test_a_reply_that_the_superlink_lost_is_asked_for_again_at_once(client, digest, losses):
    class Losing(Wire):
        """As a SuperLink that was too busy to hand over what it had already taken from its store."""

        def pull_messages(self, names):
            replies = super().pull_messages(names)
            for reply in replies:
                if len(self.sent) < 2 + losses and reply.metadata.src_node_id == 101:
                    reply.content = None
                    reply.error = Error(compat.LOST[0], "gone")
            return replies

    ((record, theta),) = federate(Losing(client, 2), digest, remind_after=30.0)
    assert (record["clients"], record["failures"], record["reminded"]) == (2, {}, losses)
    assert record["seconds"] < 4
    np.testing.assert_array_equal(theta, START + 2.0)
    ((record, _),) = federate(Losing(client, 2), digest, remind_after=0.0)
    assert record["failures"] == {"101": "error 3: gone"}


def busy(status=500):
    request = httpx.Request("POST", "http://localhost/v1/runtime/pull-messages")
    return httpx.HTTPStatusError("database is locked", request=request, response=httpx.Response(status))


def test_a_superlink_that_is_too_busy_for_a_moment_is_asked_again(client, digest):
    class Busy(Wire):
        def __init__(self, *args):
            super().__init__(*args)
            self.calls = {}

        def fail(self, call):
            self.calls[call] = self.calls.get(call, 0) + 1
            if self.calls[call] == 1:
                raise busy()

        def get_node_ids(self):
            self.fail("nodes")
            return super().get_node_ids()

        def push_messages(self, messages):
            names = super().push_messages(messages)
            self.fail("push")  # too late: it has taken them
            return names

        def pull_messages(self, names):
            self.fail("pull")
            return super().pull_messages(names)

    grid = Busy(client, 2)
    ((record, theta),) = federate(grid, digest, remind_after=30.0)
    assert (record["clients"], record["failures"], record["reminded"]) == (2, {}, 0)
    assert {message.metadata.message_id for _, _, message in grid.sent[:2]}.isdisjoint(
        message.metadata.message_id for _, _, message in grid.sent[2:]
    )
    np.testing.assert_array_equal(theta, START + 2.0)


@pytest.mark.parametrize("error", [busy(401), ZeroDivisionError()], ids=["refused", "a bug"])
def test_any_other_error_of_a_grid_ends_the_run(client, digest, error):
    class Broken(Wire):
        def pull_messages(self, names):
            raise error

    with pytest.raises(type(error)):
        federate(Broken(client, 2), digest)


def test_replies_beyond_the_goal_are_late_and_their_nodes_free(adding_client, digest):
    """A list of replies is handed over once: what is not looked at in this round is not asked for again."""
    grid = Wire(adding_client({i: (1.0, 1) for i in range(4)}, SIZE), 4)
    records = federate(grid, digest, rounds=3, fraction_train=0.5, over_selection=2.0)
    assert [r["clients"] for r, _ in records] == [2, 2, 2]
    assert [r["asked"] for r, _ in records] == [4, 4, 4]
    assert [r["failures"] for r, _ in records] == [{}, {}, {}]
    assert [r["late"] for r, _ in records] == [0, 2, 2]


def test_a_learner_answers_a_round_once(bundle, samples, identity, tmp_path):
    config = {FEDERATION: "f", BRANCH: 0}
    content = pack(bundle.state()["theta"], bundle_digest=bundle.digest, round_number=1, config=config)
    first = Message(content, 100, "train")
    again = repeat(first, compat.stamp(first), 600.0)
    compat.stamp(again)
    with Learner.open(bundle, tmp_path / "state", memory_bytes=4096) as learner:
        learner.observe(samples(64))
        train_round(first, learner, 2)
        theta = learner.theta
        with pytest.raises(FederationError, match="round 1 was answered before"):
            train_round(again, learner, 2)
        np.testing.assert_array_equal(learner.theta, theta)
    with Learner.open(bundle, tmp_path / "other", memory_bytes=4096) as learner:
        learner.observe(samples(64))
        assert train_round(again, learner, 2).has_content()  # the first never came
