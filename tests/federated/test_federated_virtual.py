"""The virtual clock beside closed forms, brute force and itself."""

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated import Device, Fleet, RoundSettings, VirtualGrid, make_server_app, pack, run_local
from federated.exchange import POLL_SECONDS
from federated.simulation.clock import SharedServer
from federated.strategies import FedBuff

SIZE = 64
START = np.zeros(SIZE, np.float32)


def federate(client, fleet, digest, rounds=1, strategy=None, **options):
    records = []
    server = make_server_app(
        START,
        digest,
        RoundSettings(rounds, **options),
        strategy=strategy,
        on_round=lambda record, theta: records.append((record, theta.copy())),
    )
    grid = run_local(server, client, len(fleet.devices), fleet=fleet)
    return records, grid


def up_to_poll(seconds):
    """When a server that polls sees what happens after `seconds`."""
    return math.ceil(seconds / POLL_SECONDS) * POLL_SECONDS


def test_a_round_takes_what_the_slowest_device_takes(adding_client, digest):
    devices = [Device(latency_s=0.25, up=100.0, down=1000.0, compute_s=float(c)) for c in (3, 40, 7)]
    client = adding_client({i: (1.0, 1) for i in range(3)}, SIZE)
    ((record, theta),), _ = federate(client, Fleet(devices), digest)
    down, up = record["bytes_down"] / 3, record["bytes_up"] / 3
    assert record["seconds"] == pytest.approx(up_to_poll(0.25 + down / 1000 + 40 + 0.25 + up / 100))
    np.testing.assert_array_equal(theta, START + 1)


def test_the_server_needs_its_time_for_each_message_and_reply(adding_client, digest):
    fleet = Fleet([Device() for _ in range(50)], server_s=0.2)
    client = adding_client({i: (1.0, 1) for i in range(50)}, SIZE)
    ((record, _),), _ = federate(client, fleet, digest)
    assert record["seconds"] == pytest.approx(50 * 2 * 0.2, abs=POLL_SECONDS)


def test_messages_share_the_server_so_the_slowest_device_gets_its_own_last(adding_client, digest):
    fleet = Fleet([Device(compute_s=30.0)] + [Device() for _ in range(19)], server_s=0.25)
    ((record, _),), _ = federate(adding_client({i: (1.0, 1) for i in range(20)}, SIZE), fleet, digest)
    assert record["seconds"] == pytest.approx(20 * 0.25 + 30 + 0.25, abs=POLL_SECONDS)


def step_by_step(arrivals, work, dt):
    """When each is done by a server that gives each of those inside dt / n of its time in turn."""
    left, done, time = dict.fromkeys(range(len(arrivals)), work), {}, 0.0
    while left:
        inside = [i for i in left if arrivals[i] <= time]
        for i in inside:
            left[i] -= dt / len(inside)
            if left[i] <= 0:
                done[i] = time + dt
                del left[i]
        time += dt
    return [done[i] for i in range(len(arrivals))]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 10))
def test_a_shared_server_is_done_when_brute_force_is(quarters, work):
    arrivals, events, done, order = [q / 4 for q in sorted(quarters)], [], {}, itertools.count()
    server = SharedServer(work / 8, lambda time, happen: heapq.heappush(events, (time, next(order), happen)))
    for i, time in enumerate(arrivals):
        heapq.heappush(events, (time, next(order), lambda t, i=i: server.take(t, lambda at: done.__setitem__(i, at))))
    while events:
        time, _, happen = heapq.heappop(events)
        happen(time)
    expected = step_by_step(arrivals, work / 8, 1 / 512)
    assert [done[i] for i in range(len(arrivals))] == pytest.approx(expected, abs=0.05)


def test_a_device_that_dies_is_given_up_and_the_others_make_the_round(adding_client, digest):
    devices = [Device(compute_s=5), Device(compute_s=5, dropout=1.0)]
    ((record, theta),), _ = federate(adding_client({0: (1.0, 1), 1: (9.0, 1)}, SIZE), Fleet(devices), digest)
    assert record["failures"] == {"101": "error 5: Node Unavailable"}
    assert record["seconds"] == pytest.approx(up_to_poll(60.0))
    np.testing.assert_array_equal(theta, START + 1)


def test_a_deadline_ends_a_round_and_the_late_reply_is_no_part_of_the_next(adding_client, digest):
    devices = [Device(compute_s=1), Device(compute_s=15)]
    client = adding_client({0: (1.0, 1), 1: (9.0, 1)}, SIZE)
    records, _ = federate(client, Fleet(devices), digest, rounds=2, min_nodes=1, round_timeout=10.0)
    assert records[0][0]["failures"] == {"101": "no reply within 10 s"}
    assert records[0][0]["seconds"] == pytest.approx(10.0, abs=POLL_SECONDS)
    np.testing.assert_array_equal(records[0][1], START + 1)


def test_the_fastest_make_a_round_that_asked_more_than_it_needs(adding_client, digest):
    devices = [Device(compute_s=float(i)) for i in range(1, 13)]
    client = adding_client({i: (1.0, 1) for i in range(12)}, SIZE)
    ((record, _),), _ = federate(client, Fleet(devices), digest, fraction_train=0.5, over_selection=2.0)
    assert (record["asked"], record["goal"], record["clients"]) == (12, 6, 6)
    assert record["seconds"] == pytest.approx(6.0, abs=POLL_SECONDS)


def test_fedbuff_does_not_wait_for_the_slow_ones(adding_client, digest):
    devices = [Device(compute_s=1) for _ in range(9)] + [Device(compute_s=500)]
    client = adding_client({i: (1.0, 1) for i in range(10)}, SIZE)
    records, _ = federate(client, Fleet(devices), digest, rounds=5, strategy=FedBuff(buffer=9))
    assert sum(record["seconds"] for record, _ in records) < 50


def test_links_that_go_up_and_down_delay_but_lose_nothing(adding_client, digest):
    devices = [Device(compute_s=2, online_s=30, offline_s=60) for _ in range(20)]
    client = adding_client({i: (1.0, 1) for i in range(20)}, SIZE)
    records, _ = federate(client, Fleet(devices, seed=4), digest, rounds=3, min_nodes=3)
    assert all(record["failures"] == {} for record, _ in records)
    np.testing.assert_array_equal(records[-1][1], START + 3)


def test_a_run_takes_the_same_course_each_time_and_another_seed_another(adding_client, digest):
    median = Device(poll_s=2, latency_s=0.1, up=1e3, down=1e4, compute_s=5, jitter=0.3, dropout=0.2)

    def course(seed):
        fleet = Fleet.spread(15, median, seed=seed)
        client = adding_client({i: (i * 0.5, i + 1) for i in range(15)}, SIZE)
        records, grid = federate(client, fleet, digest, rounds=3)
        return [(r["seconds"], r["failures"], r["clients"]) for r, _ in records], records[-1][1].tobytes(), grid.now()

    assert course(1) == course(1)
    assert course(1)[0] != course(2)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0, 500), min_size=1, max_size=20))
def test_a_link_is_up_where_it_says_so_in_whatever_order_it_is_asked(seed, times):
    device = Device(online_s=20, offline_s=40)
    one, other = Fleet([device], seed=seed), Fleet([device], seed=seed)
    answers = {time: one.reachable(0, time) for time in times}
    assert {time: other.reachable(0, time) for time in sorted(times)} == answers
    for time, up in answers.items():
        assert up >= time
        assert one.reachable(0, up) == up


def test_links_are_up_as_long_as_their_means_say():
    fleet = Fleet([Device(online_s=30, offline_s=60) for _ in range(200)], seed=1)
    asked = [(i, t) for i in range(200) for t in np.linspace(0, 2000, 50)]
    up = np.mean([fleet.reachable(i, t) == t for i, t in asked])
    assert up == pytest.approx(1 / 3, abs=0.03)  # 10,000 looks, correlated over 90 s; std below 0.01


def test_spread_devices_lie_around_the_median():
    fleet = Fleet.spread(2000, Device(compute_s=8, up=1e5), sigma=0.5, seed=3)
    logs = np.log([device.compute_s / 8 for device in fleet.devices])
    assert abs(logs.mean()) < 0.05
    assert logs.std() == pytest.approx(0.5, abs=0.03)
    assert {device.latency_s for device in fleet.devices} == {0.0}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"up": 0}, "up must be above 0"),
        ({"compute_s": -1}, "compute_s must be 0 or more"),
        ({"dropout": 1.5}, "chance"),
    ],
)
def test_impossible_devices_are_refused(values, words):
    with pytest.raises(FederationError, match=words):
        Device(**values)


def test_what_does_not_fit_is_refused(adding_client, digest):
    server = make_server_app(START, digest, RoundSettings(1))
    with pytest.raises(FederationError, match="2 devices for 3 nodes"):
        run_local(server, adding_client({}, SIZE), 3, fleet=Fleet([Device()] * 2))
    with pytest.raises(FederationError, match="at least one device"):
        Fleet([])
    with pytest.raises(FederationError, match="stand still"):
        VirtualGrid(adding_client({}, SIZE), Fleet([Device()])).wait(0.0)


@pytest.mark.usefixtures("identity")
def test_flowers_own_send_and_receive_waits_in_virtual_time(adding_client, digest):
    grid = VirtualGrid(
        adding_client({0: (1.0, 1), 1: (2.0, 1)}, SIZE), Fleet([Device(compute_s=3), Device(compute_s=90)])
    )
    content = pack(START, bundle_digest=digest, round_number=1)
    messages = [grid.create_message(content, "train", node, "1") for node in grid.get_node_ids()]
    assert [r.content["metrics"]["loss"] for r in grid.send_and_receive(messages, timeout=30)] == [1.0]
    assert grid.now() == pytest.approx(30.0)
