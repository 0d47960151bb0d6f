"""What goes wrong in a fleet, through the whole server: dropouts, liars, replayed messages, kills, bad rounds.

Clients are closed forms: client i pulls the weights towards its own target by a quarter of the way, so that after many
rounds the fleet stands at the mean of the targets.
"""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from edgessl.device import ParameterEntry
from edgessl.errors import FederationError
from federated import FederationResult, LocalGrid, RoundSettings, build_strategy, compat, make_server_app, run_local
from federated import message as wire
from federated.checkpoint import ServerStore
from federated.lineage import BRANCH, FEDERATION, LAYOUT, layout_hash

SIZE, NODES = 24, 12
START = np.zeros(SIZE, np.float32)
TARGETS = np.random.default_rng(0).normal(loc=1.0, scale=0.1, size=(NODES, SIZE))
MEAN = TARGETS.mean(axis=0)
LAYOUT_OF = (ParameterEntry("encoder.w", 0, (SIZE,), "weight"),)


def pull(theta, i):
    return (theta + 0.25 * (TARGETS[i] - theta)).astype(np.float32)


@pytest.fixture
def client(digest):
    """client(lie=None, liars=()): pulls to its target; `lie(start, honest, rng)` is what liars send instead."""

    def make(lie=None, liars=(), heard=None):
        def answer(message, context):
            update = wire.unpack(message.content, bundle_digest=digest, size=SIZE)
            i = int(context.node_config["partition-id"])
            theta = pull(update.theta, i)
            if heard is not None:
                heard.append((i, update.round, dict(update.config)))
            if i in liars:
                theta = lie(update.theta, theta, np.random.default_rng((update.round, i))).astype(np.float32)
            metrics = {"num-examples": 10, "loss": float(np.abs(theta).mean())} if np.isfinite(theta).all() else {}
            content = wire.pack(
                pull(update.theta, i),
                bundle_digest=digest,
                round_number=update.round,
                metrics=metrics or {"num-examples": 10},
            )
            content["arrays"] = ArrayRecord({"theta": Array(theta)})
            return Message(content, reply_to=message)

        return answer

    return make


@pytest.fixture
def serve(digest):
    """serve(client, settings, **options): records, the last theta."""

    def run(client, settings, drop=None, nodes=NODES, start=START, **options):
        records, last = [], [start]

        def on_round(record, theta):
            records.append(record)
            last[0] = theta

        app = make_server_app(start, digest, settings, on_round=on_round, **options)
        run_local(app, client, nodes, drop=drop)
        return records, last[0]

    return run


def distance(theta):
    return float(np.sqrt(np.mean((theta - MEAN) ** 2)))


def test_30_percent_dropouts_slow_nothing_down_but_themselves(client, serve):
    def drop(i, message):
        number = int(message.content["config"]["server-round"])
        return np.random.default_rng((number, i)).random() < 0.3

    records, theta = serve(client(), RoundSettings(30, min_replies=4), drop=drop)
    dropped = sum(len(r["failures"]) for r in records)
    assert 0.2 < dropped / (30 * NODES) < 0.4
    assert all(r["clients"] + len(r["failures"]) == NODES for r in records)
    assert {why for r in records for why in r["failures"].values()} == {"error 5: Node Unavailable"}
    assert distance(theta) < 0.05


LIES = {
    "sign flip": lambda start, honest, rng: start - 4 * (honest - start) - 1,
    "scaled noise": lambda start, honest, rng: rng.normal(scale=10, size=SIZE),
}
ROBUST = {
    "krum": {"byzantine": 3},
    "multi_krum": {"byzantine": 3, "keep": 6},
    "median": {},
    "trimmed_mean": {"beta": 0.3},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_25_percent_byzantine_devices_break_the_mean_and_no_robust_strategy(client, serve, lie):
    lying = client(lie, liars=(1, 5, 8))
    assert distance(serve(lying, RoundSettings(10))[1]) > 1.0
    for name, options in ROBUST.items():
        theta = serve(lying, RoundSettings(10), strategy=build_strategy(name, options=options))[1]
        assert distance(theta) < 0.15, name


def test_updates_that_are_not_numbers_never_enter(client, serve):
    nans = client(
        lambda start, honest, rng: np.where(np.arange(SIZE) == rng.integers(SIZE), np.nan, honest), liars=(0, 1, 2)
    )
    records, theta = serve(nans, RoundSettings(20))
    assert all("are NaN or infinite" in r["failures"]["100"] for r in records)
    assert np.isfinite(theta).all()
    assert distance(theta) < 0.1


class Replaying(LocalGrid):
    """A network that delivers every round's first reply once more in the next round."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.first, self.old = None, None

    def push_messages(self, messages):
        self.first, self.old = None, self.first
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        if self.old is not None:
            yield self.old
            self.old = None
        for reply in super().pull_messages(message_ids):
            self.first = self.first or reply
            yield reply


def test_a_replayed_reply_is_dropped_and_named(client, digest):
    records, thetas = [], []

    def on_round(record, theta):
        records.append(record)
        thetas.append(theta)

    for kind in (Replaying, LocalGrid):
        app = make_server_app(START, digest, RoundSettings(4), on_round=on_round)
        with compat.local_identity():
            app(grid := kind(client(), 3), grid._context(0))
    assert [r["clients"] for r in records] == [3] * 8
    assert [list(r["failures"].values()) for r in records[1:4]] == [["refused: a reply to nothing that was asked"]] * 3
    np.testing.assert_array_equal(thetas[3], thetas[7])


def test_an_old_reply_in_a_new_ones_place_is_refused(client, digest):
    def stale(message, context):
        reply = client()(message, context)
        if context.node_config["partition-id"] == 1 and message.content["config"]["server-round"] > 1:
            reply.content["config"]["server-round"] -= 1
        return reply

    records = []
    app = make_server_app(START, digest, RoundSettings(3), on_round=lambda record, theta: records.append(record))
    run_local(app, stale, 3)
    assert [r["clients"] for r in records] == [3, 2, 2]
    assert records[2]["failures"] == {"101": "refused: server-round: expected 3, found 2"}


def test_with_over_selection_a_round_ends_at_its_goal_and_late_replies_are_not_in_it(client, serve):
    heard = []
    settings = RoundSettings(6, fraction_train=0.5, over_selection=1.5, seed=1)
    records, _ = serve(client(heard=heard), settings)
    assert (records[0]["asked"], records[0]["goal"], records[0]["clients"]) == (9, 6, 6)
    assert all(r["clients"] == r["goal"] for r in records)
    assert sum(r["late"] for r in records) > 0
    assert all(r["failures"] == {} for r in records)
    assert len(heard) == sum(r["clients"] + r["late"] for r in records)
    assert min(up for r in records for _, up in r["device_bytes"].values()) >= 0
    size = records[0]["bytes_up"] / 6
    assert sum(r["bytes_up"] for r in records) == pytest.approx(len(heard) * size, rel=0.02)  # late ones cost the same


def test_schemas_that_differ_are_refused_at_both_ends(client, serve, digest, tmp_path):
    heard = []
    serve(client(heard=heard), RoundSettings(1), layout=LAYOUT_OF, state_dir=tmp_path)
    assert {config[LAYOUT] for _, _, config in heard} == {layout_hash(LAYOUT_OF)}
    other = (ParameterEntry("encoder.other", 0, (SIZE,), "weight"),)
    with pytest.raises(FederationError, match="weights of another layout"):
        serve(client(), RoundSettings(2), layout=other, state_dir=tmp_path)
    app = make_server_app(START, "00" * 32, RoundSettings(2), layout=LAYOUT_OF, state_dir=tmp_path)
    with pytest.raises(FederationError, match="a federation of bundle abababababab, expected 000000000000"):
        run_local(app, client(), NODES)


class Killed(BaseException):
    """The server's end, in the middle of a round."""


def killing(client, number, count):
    """A client with whose `count`-th answer in that round the server dies; once."""
    left = [count]

    def answer(message, context):
        if message.content["config"]["server-round"] == number:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return client(message, context)

    return answer


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "ldawa"])
def test_a_killed_server_resumes_to_the_same_bits(client, serve, tmp_path, name):
    settings = RoundSettings(8, fraction_train=0.6, cool_down=1, seed=3)

    def drop(i, message):
        return (i + int(message.content["config"]["server-round"])) % 5 == 0

    def options(folder):
        strategy = build_strategy(name, LAYOUT_OF)
        return {"strategy": strategy, "layout": LAYOUT_OF, "state_dir": tmp_path / folder, "drop": drop}

    start = np.random.default_rng(9).normal(size=SIZE).astype(np.float32)
    records, theta = serve(client(), settings, start=start, **options("whole"))
    for number, count in ((1, 2), (4, 1), (7, 5)):
        with pytest.raises(Killed):
            serve(killing(client(), number, count), settings, start=start, **options("cut"))
    save_to = tmp_path / "theta.safetensors"
    rest, again = serve(client(), settings, start=start, save_to=save_to, **options("cut"))
    assert [r["round"] for r in rest] == [7, 8]
    np.testing.assert_array_equal(again, theta)
    result = FederationResult.load(save_to, "ab" * 32)
    same = ("round", "clients", "failures", "version", "parent", "asked", "examples")
    assert [{k: r[k] for k in same} for r in result.rounds] == [{k: r[k] for k in same} for r in records]
    events = [json.loads(line)["event"] for line in (tmp_path / "cut" / "lineage.jsonl").read_text().splitlines()]
    assert events == ["start", "resume", *["round"] * 3, "resume", *["round"] * 3, "resume", "round", "round"]


def test_a_finished_run_is_not_run_again_and_more_rounds_go_on(client, serve, tmp_path):
    serve(client(), RoundSettings(3), state_dir=tmp_path)
    assert serve(client(), RoundSettings(3), state_dir=tmp_path)[0] == []
    assert [r["round"] for r in serve(client(), RoundSettings(5), state_dir=tmp_path)[0]] == [4, 5]


def test_every_version_has_a_parent_and_a_hash(client, serve, tmp_path):
    heard = []
    records, theta = serve(client(heard=heard), RoundSettings(4), layout=LAYOUT_OF, state_dir=tmp_path)
    assert records[0]["parent"] == wire.version_of(START)
    assert [r["parent"] for r in records[1:]] == [r["version"] for r in records[:-1]]
    assert records[-1]["version"] == wire.version_of(theta)
    assert len({config[FEDERATION] for _, _, config in heard}) == 1
    told = {number: config["version"] for _, number, config in heard}
    assert [told[r["round"]] for r in records] == [r["parent"] for r in records]


def test_a_bad_round_is_rolled_back_fleet_wide(client, serve, digest, tmp_path):
    records, _ = serve(client(), RoundSettings(4), strategy=build_strategy("fedadam"), state_dir=tmp_path)
    with ServerStore(tmp_path, digest) as store:
        head = store.roll_back(2, "round 3 was poisoned")
        with pytest.raises(FederationError, match="a server is running with this state; stop it first"):
            serve(client(), RoundSettings(5), state_dir=tmp_path)
    assert (head.version.hash, head.version.branch, head.last) == (records[1]["version"], 1, 4)
    heard = []
    rest, theta = serve(client(heard=heard), RoundSettings(6), strategy=build_strategy("fedadam"), state_dir=tmp_path)
    assert [r["round"] for r in rest] == [5, 6]
    assert rest[0]["parent"] == records[1]["version"]
    assert {config[BRANCH] for _, _, config in heard} == {1}
    _, straight = serve(client(), RoundSettings(4), strategy=build_strategy("fedadam"), state_dir=tmp_path / "b")
    np.testing.assert_array_equal(theta, straight)  # optimizer state went back too: rounds 5 and 6 are 3 and 4
    line = json.loads((tmp_path / "lineage.jsonl").read_text().splitlines()[5])
    assert (line["event"], line["reason"], line["to"]) == ("rollback", "round 3 was poisoned", records[1]["version"])
    assert line["from"] == records[3]["version"]


def roll_back(directory, digest, number):
    with ServerStore(directory, digest) as store:
        store.roll_back(number, "why")


def test_only_versions_that_are_kept_can_be_gone_back_to(client, serve, digest, tmp_path):
    serve(client(), RoundSettings(12), state_dir=tmp_path)
    with pytest.raises(FederationError, match="version 2 is not kept; these are: 5, 6, 7, 8, 9, 10, 11, 12"):
        roll_back(tmp_path, digest, 2)
    with pytest.raises(FederationError, match="version 1 is not kept; these are: none"):
        roll_back(tmp_path / "new", digest, 1)


def test_a_version_that_review_refuses_reaches_no_device(client, serve, tmp_path):
    poison = client(lambda start, honest, rng: honest + 50, liars=(0,))
    heard = []

    def review(record, theta):
        return "weights run away" if record["loss"] > 3 else ""

    def sometimes(message, context):
        bad = message.content["config"]["server-round"] in (2, 3)
        return (poison if bad else client(heard=heard))(message, context)

    records, theta = serve(
        sometimes, RoundSettings(6), strategy=build_strategy("fedadam"), review=review, state_dir=tmp_path
    )
    assert ["refused" in r for r in records] == [False, True, True, False, False, False]
    assert [r["branch"] for r in records] == [0, 0, 1, 2, 2, 2]
    assert records[3]["parent"] == records[0]["version"]
    refused = {r["version"] for r in records[1:3]}
    assert not refused & {config["version"] for _, _, config in heard}
    straight = serve(client(), RoundSettings(4), strategy=build_strategy("fedadam"))[1]
    np.testing.assert_array_equal(theta, straight)
    with pytest.raises(FederationError, match="round 3: 3 versions refused one after the other, last: weights run"):
        serve(poison, RoundSettings(6), review=review)


def test_a_run_that_fails_says_so_in_its_log(client, serve, tmp_path):
    with pytest.raises(FederationError, match="round 1: 0 of 12"):
        serve(client(), RoundSettings(2), drop=lambda i, message: True, state_dir=tmp_path)
    last = json.loads((tmp_path / "lineage.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["number"]) == ("failed", 1)
    assert "Node Unavailable" in last["reason"]
