"""Lost answers: what a node is told twice, it learns once."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_node import THETA, Counting, told
from fake_superlink import NODE, FakeSuperLink, message, records
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated import message as wire
from federated.node import Letters, Node, NodeSettings


def reminder(name: str, **config: Any) -> Message:
    """What a server sends when the reply to the message of that name does not come."""
    again = wire.repeat(message(records(THETA, **config)), name, 600.0)
    outgoing = message(records(THETA, **config))
    outgoing.metadata.group_id = again.metadata.group_id
    return outgoing


class TestReminders:
    def test_a_message_whose_announcement_was_lost_is_answered_when_it_is_repeated(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(sent := message(records(THETA, round=1)))
        server.lose_after = "pull-messages"
        node._turn()
        server.away = False
        node._turn()
        assert (answer.asked, server.replies) == (0, [])
        second = server.post(reminder(first, round=1))
        node._turn()
        (reply,) = server.replies
        assert reply.metadata.reply_to_message_id == second
        server.post(sent)  # it comes after all
        node._turn()
        assert (answer.asked, len(server.replies)) == (1, 1)
        assert told(node, "dropped")[-1]["reason"] == "answered before"

    def test_what_was_answered_is_said_again_and_not_learned_again(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        second = server.post(reminder(first, round=1))
        fetched = server.calls.count("pull-object")
        make(answer)._turn()  # even after a restart
        one, two = server.replies
        assert two.metadata.reply_to_message_id == second
        assert two.content == one.content
        third = server.post(reminder(first, round=1))
        make(answer)._turn()
        assert server.replies[-1].metadata.reply_to_message_id == third
        assert server.replies[-1].content == one.content
        assert (answer.asked, server.calls.count("pull-object")) == (1, fetched)

    def test_an_error_is_said_again_too(self, server, make, identity):
        node = make(answer := Counting(FederationError("no power")))
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        server.post(reminder(first, round=1))
        node._turn()
        assert [reply.error.reason for reply in server.replies] == ["FederationError: no power"] * 2
        assert answer.asked == 1

    def test_a_reply_that_is_no_longer_here_is_an_error(self, server, make, identity):
        node = make(answer := Counting())
        first = server.post(message(records(THETA, round=1)))
        node._turn()
        server.post(message(records(THETA, round=2)))
        node._turn()
        server.post(reminder(first, round=1))
        node._turn()
        assert "was answered before" in server.replies[-1].error.reason
        assert answer.asked == 2


def test_a_reply_that_was_cut_off_goes_on_in_its_session(server, make):
    """A ServerApp that took the announcement waits for its objects; it would be announced a second time in vain."""
    node = make(answer := Counting())
    server.post(message(records(THETA, round=1)))
    server.lose_after, server.taken = "push-object", True
    node._turn()
    assert server.replies == []
    server.away = False
    node._turn()
    assert (answer.asked, len(server.replies), server.calls.count("push-messages")) == (1, 1, 1)
    node._turn()  # announced once more, to know: nothing is wanted any longer
    assert told(node, "delivered")
    assert (len(server.replies), node.letters.reply()) == (1, None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_whichever_answers_are_lost_a_message_is_answered_once(tmp_path_factory, lost):
    """Every answer but that of the pull itself may be lost: the message is there, its reply is taken, once."""
    server, answer = FakeSuperLink(), Counting()
    letters, quick = Letters(tmp_path_factory.mktemp("letters")), NodeSettings(poll=(0.01, 0.04), away=0.04)
    node = Node(server, letters, answer, quick)
    node._turn()
    server.post(message(records(THETA, round=1)))
    assert node._inbox.look(NODE) is not None
    server.lose = lost
    for _ in range(len(lost) + 2):
        node._turn()
    (reply,) = server.replies
    np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 1)
    assert answer.asked == 1
    assert letters.reply() is None
