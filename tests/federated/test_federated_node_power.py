"""Power cuts: the node's letters against a SuperLink in memory."""

from __future__ import annotations

import numpy as np
import pytest
from fake_node import THETA, Counting, told
from fake_superlink import message, records


class TestPowerCuts:
    def test_while_learning_the_message_is_taken_up_again(self, server, make):
        def dies(found):
            raise KeyboardInterrupt

        name = server.post(message(records(THETA, round=5)))
        with pytest.raises(KeyboardInterrupt):
            make(dies)._turn()
        assert server.replies == []
        node = make(answer := Counting())
        node._turn()
        assert answer.asked == 1
        assert server.replies[0].metadata.reply_to_message_id == name

    def test_a_message_that_is_here_is_answered_while_the_link_is_cut(self, server, make):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=1)))
        server.lose_after = "confirm-message-received"
        node._turn()
        restarted = make(answer)  # not even a join is needed
        restarted._turn()
        restarted._turn()
        assert (answer.asked, server.replies) == (1, [])
        server.away = False
        restarted._turn()
        assert len(server.replies) == 1

    def test_a_message_nobody_waits_for_any_longer_is_dropped(self, server, make, tmp_path):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=1), ttl=50.0, age=100.0))
        node._turn()
        assert answer.asked == 1  # its clock may be wrong: only what was kept is judged
        node.letters.keep_message("f" * 64, {"f" * 64: b"x"}, expires=1.0)
        node._turn()
        assert told(node, "dropped")[-1]["reason"] == "nobody waits for its reply any longer"
        assert node.letters.message() is None

    @pytest.mark.parametrize("after", ["push-messages", "push-object"])
    def test_a_reply_survives_a_cut_and_a_restart(self, server, make, after):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=2)))
        server.lose_after = after
        node._turn()
        assert server.replies == []
        assert told(node, "away")
        server.away = False
        for _ in range(2):
            make(answer)._turn()  # another process: the reply comes from the disk, once
        (reply,) = server.replies
        np.testing.assert_array_equal(reply.content["arrays"]["theta"].numpy(), THETA + 1)
        assert answer.asked == 1

    def test_a_reply_to_a_run_that_ended_is_let_go(self, server, make):
        node = make(answer := Counting())
        server.post(message(records(THETA, round=2)))
        server.lose_after = "push-messages"
        node._turn()
        server.away, server.over = False, True
        node._turn()
        assert "the run is over" in told(node, "undelivered")[0]["reason"]
        assert node.letters.reply() is None
        server.over = False
        server.post(message(records(THETA, round=1)))
        node._turn()
        assert answer.asked == 2

    @pytest.mark.parametrize("after", ["pull-object", "send-node-heartbeat", "confirm-message-received"])
    def test_a_message_cut_off_on_its_way_is_fetched_to_its_end(self, server, make, after):
        node = make(answer := Counting())
        node._turn()
        server.post(message(records(THETA, round=1)))
        server.lose_after = after
        node._turn()
        server.away = False
        node._turn()
        node._turn()
        assert (answer.asked, len(server.replies)) == (1, 1)
        assert server.calls.count("pull-object") == len(server.objects) + (after == "pull-object")

    def test_power_lost_over_a_message_on_its_way_loses_it_without_harm(self, server, make):
        server.post(message(records(THETA, round=1)))
        server.lose_after = "pull-object"
        make()._turn()
        server.away, node = False, make(answer := Counting())
        node._turn()
        assert (answer.asked, server.replies) == (0, [])
        server.post(message(records(THETA, round=2)))
        node._turn()
        assert answer.asked == 1

    def test_a_disk_that_is_full_for_a_while_ends_nothing(self, server, make, monkeypatch):
        def full(path, *parts):
            raise OSError(28, "No space left on device")

        node = make(answer := Counting())
        node._turn()
        with monkeypatch.context() as patch:
            patch.setattr("federated.node.letters.write_atomically", full)
            server.post(message(records(THETA, round=1)))
            node._turn()
        assert "No space left on device" in told(node, "disk")[0]["reason"]
        node._turn()  # the very same message
        assert (answer.asked, len(server.replies)) == (1, 1)
