"""Which nodes a round asks."""

from collections import Counter

import numpy as np
import pytest

from edgessl.errors import FederationError
from federated import RoundSettings
from federated.exchange import Exchange
from federated.selection import Selection
from federated.simulation import LocalGrid
from federated.traffic import Traffic


def chosen(nodes, number, eligible=None, failed=(), **options):
    """The nodes, and how many replies end the round."""
    grid = LocalGrid(lambda message, context: message, nodes)
    selection = Selection(RoundSettings(1, **options), eligible)
    for round_number, node in failed:
        selection.note(round_number, [node])
    return selection.choose(Exchange(Traffic(grid, 0.0), "", 1), number)


def sampled(nodes, number, **options):
    return chosen(nodes, number, **options)[0]


def test_everybody_by_default():
    assert chosen(5, 1) == ([100, 101, 102, 103, 104], 5)


def test_a_fraction_without_repeats():
    nodes = sampled(20, 1, fraction_train=0.3)
    assert len(nodes) == len(set(nodes)) == 6


def test_the_same_seed_and_round_choose_the_same_nodes_and_others_do_not():
    def choices(seed):
        return [sampled(20, r, fraction_train=0.3, seed=seed) for r in range(1, 6)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
    assert len({tuple(c) for c in choices(1)}) > 1


def test_no_node_is_preferred():
    counts = Counter(n for r in range(300) for n in sampled(10, r, fraction_train=0.3))
    assert len(counts) == 10
    assert max(abs(n - 90) for n in counts.values()) < 4.5 * np.sqrt(300 * 0.3 * 0.7)


def test_min_nodes_are_asked_even_if_the_fraction_is_less():
    assert len(sampled(10, 1, fraction_train=0.1, min_nodes=4)) == 4


def test_more_are_asked_than_are_needed():
    nodes, goal = chosen(100, 1, fraction_train=0.2, over_selection=1.3)
    assert (len(nodes), goal) == (26, 20)
    assert chosen(10, 1, over_selection=1.3)[1] == 10  # there are no more to ask


def test_too_few_nodes_end_in_an_error_not_in_waiting():
    with pytest.raises(FederationError, match="1 of 2 nodes eligible within 0 s"):
        sampled(1, 1, node_timeout=0.0)


def test_the_operator_decides_who_may_be_asked():
    assert sampled(6, 3, eligible=lambda node, number: node % 2 == 0 and number == 3) == [100, 102, 104]
    with pytest.raises(FederationError, match="0 of 2 nodes eligible"):
        sampled(6, 4, eligible=lambda node, number: number == 3, node_timeout=0.0)


def test_nodes_that_failed_lately_come_last():
    options = {"fraction_train": 0.5, "cool_down": 2}
    failed = [(3, 100), (3, 101), (4, 102)]
    for number in (4, 5):
        assert not set(sampled(6, number, failed=failed[:2], **options)) & {100, 101}
    everyone = Counter(n for r in range(6, 60) for n in sampled(6, r, failed=failed[:2], **options))
    assert len(everyone) == 6
    assert set(sampled(6, 5, failed=[(4, n) for n in range(100, 105)], **options)) > {105}  # others are too few


def test_what_a_checkpoint_keeps_is_enough():
    selection = Selection(RoundSettings(1, fraction_train=0.5, cool_down=3))
    selection.note(2, [100, 103])
    again = Selection(RoundSettings(1, fraction_train=0.5, cool_down=3))
    again.load_state(selection.state())
    exchange = Exchange(Traffic(LocalGrid(lambda message, context: message, 8), 0.0), "", 1)
    assert again.choose(exchange, 4) == selection.choose(exchange, 4)


BAD = [{"fraction_train": 0.0}, {"fraction_train": 1.5}, {"min_nodes": 0}, {"over_selection": 0.5}, {"cool_down": -1}]


@pytest.mark.parametrize("options", [*BAD, {"min_replies": 0}, {"round_timeout": -1.0}, {"seed": -1}, {"rounds": 0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(FederationError, match=f"{next(iter(options))} must"):
        RoundSettings(**{"rounds": 1} | options)
