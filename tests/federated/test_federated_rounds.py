"""Rounds through LocalGrid with clients whose answers are closed forms."""

import gc
import re
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MessageType, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam

from edgessl.errors import FederationError
from federated import FederationResult, LocalGrid, RoundSettings, compat, make_server_app, pack, run_local

SIZE = 64
START = np.linspace(-2, 2, SIZE, dtype=np.float32)


class Log(list):
    """Collects what on_round is given."""

    def __call__(self, record, theta):
        self.append((record, theta.copy()))

    @property
    def records(self):
        return [record for record, _ in self]

    @property
    def theta(self):
        return self[-1][1]


APP_OPTIONS = ("strategy", "save_to")


def federate(client, nodes, digest, rounds=1, drop=None, **options):
    log, own = Log(), {name: options.pop(name) for name in APP_OPTIONS if name in options}
    server = make_server_app(START, digest, RoundSettings(rounds, **options), on_round=log, **own)
    return log, run_local(server, client, nodes, drop=drop)


def test_one_and_three_times_as_many_samples(adding_client, digest):
    log, _ = federate(adding_client({0: (1.0, 100), 1: (5.0, 300)}, SIZE), 2, digest)
    np.testing.assert_allclose(log.theta, START + 4.0, atol=1e-6)  # (1 x 1 + 3 x 5) / 4
    (record,) = log.records
    assert (record["round"], record["clients"], record["examples"], record["failures"]) == (1, 2, 400, {})
    assert record["loss"] == pytest.approx(4.0)


def test_every_round_starts_from_the_last_mean(adding_client, digest):
    log, _ = federate(adding_client({0: (1.0, 1), 1: (2.0, 1)}, SIZE), 2, digest, rounds=4)
    np.testing.assert_allclose(log.theta, START + 6.0, atol=1e-5)
    assert [r["round"] for r in log.records] == [1, 2, 3, 4]


def test_bytes_are_counted_at_both_ends(adding_client, digest):
    log, grid = federate(adding_client({0: (1.0, 1), 1: (2.0, 1), 2: (3.0, 1)}, SIZE), 3, digest, rounds=2)
    down, up = (sum(r[k] for r in log.records) for k in ("bytes_down", "bytes_up"))
    assert (down, up) == (grid.bytes_down, grid.bytes_up)
    for total in (down, up):
        assert 0 < total - 6 * 4 * SIZE < 6 * 512


def spoil(change):
    """A client of which node 1 changes its reply with `change` and the others do not."""

    def wrap(client):
        def spoiled(message, context):
            reply = client(message, context)
            if context.node_config["partition-id"] == 1:
                change(reply.content)
            return reply

        return spoiled

    return wrap


def theta_of(values):
    return lambda content: content.__setitem__("arrays", ArrayRecord({"theta": Array(values)}))


def config_of(**values):
    return lambda content: content["config"].update({k.replace("_", "-"): v for k, v in values.items()})


POISON = {
    "nan": (theta_of(np.full(SIZE, np.nan, np.float32)), "refused: theta: 64 of 64 numbers are NaN"),
    "size": (theta_of(START[1:]), r"refused: theta: expected float32\[64\]"),
    "digest": (config_of(bundle_digest="00" * 32), "refused: weights of another model"),
    "old round": (config_of(server_round=0), "refused: server-round: expected 1, found 0"),
    "loss": (
        lambda content: content.__setitem__("metrics", MetricRecord({"num-examples": 1, "loss": np.inf})),
        "refused: metric 'loss'",
    ),
    "no weight": (lambda content: content.__delitem__("metrics"), "refused: num-examples"),
    "exception": (lambda content: 1 / 0, "error 2: <class 'ZeroDivisionError'>:<'division by zero'>$"),
}


@pytest.mark.parametrize(("change", "words"), POISON.values(), ids=POISON)
def test_a_poisoned_reply_is_left_out_named_and_the_round_goes_on(adding_client, digest, change, words):
    client = adding_client({0: (1.0, 10), 1: (100.0, 1000), 2: (2.0, 10)}, SIZE)
    log, _ = federate(spoil(change)(client), 3, digest)
    np.testing.assert_allclose(log.theta, START + 1.5, atol=1e-6)
    assert log.records[0]["clients"] == 2
    ((node, reason),) = log.records[0]["failures"].items()
    assert node == "101"
    assert re.match(words, reason)


def test_a_dropped_client_misses_its_round_only(adding_client, digest):
    def drop(partition, message):
        return partition == 0 and message.content["config"]["server-round"] == 1

    log, _ = federate(adding_client({0: (1.0, 10), 1: (3.0, 10)}, SIZE), 2, digest, rounds=2, drop=drop)
    np.testing.assert_allclose(log.theta, START + 3.0 + 2.0, atol=1e-5)
    assert log.records[0]["failures"] == {"100": "error 5: Node Unavailable"}
    assert log.records[1]["failures"] == {}


def test_without_a_usable_reply_the_run_fails_says_why_and_keeps_the_last_round(adding_client, digest, tmp_path):
    client, path = adding_client({0: (1.0, 1), 1: (1.0, 1)}, SIZE), tmp_path / "theta.safetensors"

    def fails_later(message, context):
        if message.content["config"]["server-round"] == 2:
            raise RuntimeError("no power")
        return client(message, context)

    with pytest.raises(
        FederationError, match=r"round 2: 0 of 2 replies can be used, 1 are needed \(node 100.*no power"
    ):
        federate(fails_later, 2, digest, rounds=3, save_to=path)
    saved = FederationResult.load(path, digest)
    np.testing.assert_allclose(saved.theta, START + 1.0, atol=1e-6)
    assert len(saved.rounds) == 1


def test_min_replies_is_held(adding_client, digest):
    client = adding_client({0: (1.0, 1), 1: (1.0, 1)}, SIZE)
    with pytest.raises(FederationError, match="1 of 2 replies can be used, 2 are needed"):
        federate(client, 2, digest, min_replies=2, drop=lambda partition, _: partition == 1)


def test_a_node_that_never_answers_is_given_up_after_the_timeout(adding_client, digest):
    class Silent(LocalGrid):
        def pull_messages(self, message_ids):
            names = [n for n in message_ids if self._sent[n].message.metadata.dst_node_id != 101]
            return super().pull_messages(names)

    log = Log()
    server = make_server_app(START, digest, RoundSettings(1, round_timeout=0.0), on_round=log)
    grid = Silent(adding_client({0: (1.0, 1), 1: (9.0, 1)}, SIZE), 2)
    with compat.local_identity():
        server(grid, grid._context(0))
    np.testing.assert_allclose(log.theta, START + 1.0, atol=1e-6)
    assert log.records[0]["failures"] == {"101": "no reply within 0 s"}


def test_a_clients_metrics_cannot_pass_for_what_the_server_counted(adding_client, digest):
    lies = {"num-examples": 1, "clients": 99, "examples": 99, "bytes_up": 0, "seconds": -1.0, "drift": 2.0}

    def lie(content):
        content["metrics"] = MetricRecord(lies)

    log, grid = federate(spoil(lie)(adding_client({0: (1.0, 1), 1: (1.0, 1)}, SIZE)), 2, digest)
    (record,) = log.records
    assert (record["clients"], record["examples"], record["bytes_up"]) == (2, 2, grid.bytes_up)
    assert record["seconds"] >= 0
    assert record["drift"] == 2.0


@pytest.mark.parametrize(
    ("names", "words"),
    [([], "took 0 of 2 messages"), ([None, None], "0 of 2 replies .*the message could not be sent")],
)
def test_messages_that_the_superlink_does_not_take_are_an_error(adding_client, digest, names, words):
    class Refusing(LocalGrid):
        def push_messages(self, messages):
            return names

    server = make_server_app(START, digest, RoundSettings(1))
    grid = Refusing(adding_client({}, SIZE), 2)
    with compat.local_identity(), pytest.raises(FederationError, match=words):
        server(grid, grid._context(0))


def test_what_a_client_does_to_its_message_reaches_nobody_else(adding_client, digest):
    client = adding_client({0: (1.0, 1), 1: (1.0, 1)}, SIZE)

    def vandal(message, context):
        reply = client(message, context)
        message.content["config"]["bundle-digest"] = "broken"
        del message.content["arrays"]
        return reply

    log, _ = federate(vandal, 2, digest, rounds=2)
    assert [r["clients"] for r in log.records] == [2, 2]


def test_flowers_own_strategies_work_and_their_float64_goes_no_further(adding_client, digest):
    seen = []
    inner = adding_client({0: (0.1, 10), 1: (0.1, 30)}, SIZE)

    def client(message, context):
        seen.append(message.content["arrays"]["theta"].dtype)
        return inner(message, context)

    strategy = FedAdam(fraction_evaluate=0.0, eta=0.1, tau=1e-3)
    log, _ = federate(client, 2, digest, rounds=3, strategy=strategy)
    assert log.theta.dtype == np.float32
    assert set(seen) == {"float32"}
    assert (log.theta > START).all()


def test_the_client_sampling_reaches_the_record(adding_client, digest):
    client = adding_client({i: (1.0, 1) for i in range(10)}, SIZE)
    log, grid = federate(client, 10, digest, rounds=3, fraction_train=0.4, seed=3)
    assert [r["clients"] for r in log.records] == [4, 4, 4]
    assert grid.bytes_up == sum(r["bytes_up"] for r in log.records)


def test_memory_does_not_grow_with_the_clients(digest, adding_client):
    size = 50_000

    def peak(clients):
        server = make_server_app(np.zeros(size, np.float32), digest, RoundSettings(1))
        client = adding_client(dict.fromkeys(range(clients), (1.0, 1)), size)
        gc.disable()  # what only a garbage collection would free counts as held
        tracemalloc.start()
        try:
            run_local(server, client, clients)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.enable()

    few, many = peak(4), peak(44)
    assert many - few < 2 * 4 * size  # 40 replies held would be 40 vectors


def test_no_rounds_are_refused(digest):
    with pytest.raises(FederationError, match="rounds must be at least 1, found 0"):
        make_server_app(START, digest, RoundSettings(0))


@pytest.mark.parametrize("theta", [START * np.nan, START.astype(np.float16), START.reshape(8, 8)])
def test_a_bad_start_is_refused_before_anything_is_sent(digest, theta):
    with pytest.raises(FederationError, match="theta"):
        make_server_app(theta, digest, RoundSettings(1))


class TestResult:
    result = FederationResult(START, [{"round": 1, "loss": 0.5}], 1.25)

    def test_round_trip(self, digest, tmp_path):
        self.result.save(path := tmp_path / "r.safetensors", digest)
        back = FederationResult.load(path, digest)
        np.testing.assert_array_equal(back.theta, START)
        assert (back.rounds, back.seconds) == (self.result.rounds, 1.25)
        assert [p.name for p in tmp_path.iterdir()] == ["r.safetensors"]

    def test_another_bundles_result_is_refused(self, digest, tmp_path):
        self.result.save(path := tmp_path / "r.safetensors", digest)
        with pytest.raises(FederationError, match="weights of bundle abababababab, expected 000000000000"):
            FederationResult.load(path, "00" * 32)

    def test_a_damaged_file_is_refused(self, digest, tmp_path):
        self.result.save(path := tmp_path / "r.safetensors", digest)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FederationError, match="not the result of a federation"):
            FederationResult.load(path, digest)

    def test_a_missing_file_is_named(self, digest, tmp_path):
        with pytest.raises(FederationError, match=r"none.safetensors: cannot be read"):
            FederationResult.load(tmp_path / "none.safetensors", digest)

    def test_a_folder_that_is_not_there_is_named(self, digest, tmp_path):
        with pytest.raises(FederationError, match="cannot be written"):
            self.result.save(tmp_path / "no" / "r.safetensors", digest)


def test_a_client_app_without_a_train_handler_is_an_error_reply(digest):
    with pytest.raises(FederationError, match=r"error 2: .*No train function registered"):
        federate(ClientApp(), 2, digest)


@pytest.mark.usefixtures("identity")
def test_the_rest_of_flowers_grid_interface(adding_client, digest):
    grid = LocalGrid(adding_client({0: (1.0, 1), 1: (2.0, 1)}, SIZE), 2)
    content = pack(START, bundle_digest=digest, round_number=1)
    messages = [grid.create_message(content, MessageType.TRAIN, node, "1") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages)
    assert [r.content["metrics"]["loss"] for r in replies] == [1.0, 2.0]
    assert [n.node_id for n in grid.get_nodes()] == [100, 101]
    assert list(grid.pull_messages(["unknown"])) == []
    grid.set_run(run := compat.empty_run())
    assert grid.run is run
