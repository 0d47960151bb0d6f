"""Secure aggregation: the sum is the plain sum, dropouts do not matter until they are too many, and nothing leaks."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated import compat, message
from federated.client import Learners, catch_up, make_client_app, train_round
from federated.compat import secrets
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.central import CentralPrivacy
from federated.privacy.secure import masks
from federated.privacy.secure.device import SecureDevice
from federated.privacy.secure.protocol import SECURE, STAGE, Terms, secure_config
from federated.privacy.secure.server import SecureAggregation
from federated.server import make_server_app
from federated.settings import RoundSettings
from federated.simulation import run_local
from federated.strategies import FedAdam, StreamingFedAvg

DIGEST, SIZE = "77" * 32, 500
STAGES = ["keys", "shares", "masked", "unmask"]


class Device:
    """A node without a learner: adds its own vector to the weights."""

    def __init__(self, changes, seen=None):
        self.changes, self.seen = changes, seen if seen is not None else []

    def __call__(self, question: Message, context: Context) -> Message:
        part = SecureDevice(context.state, context.node_id)
        if secure_config(question.content)[STAGE] != "masked":
            return Message(part.answer(question.content), reply_to=question)
        update = message.unpack(question.content, bundle_digest=DIGEST, size=SIZE)
        part.begin(question.content)
        change = self.changes[int(context.node_config["partition-id"])]
        content = part.seal(update.theta + change, update.theta, question.content)
        self.seen.append(content["arrays"]["masked"].numpy())
        return Message(content, reply_to=question)


def changes_of(nodes, seed=0, scale=0.1):
    return (np.random.default_rng(seed).standard_normal((nodes, SIZE)) * scale).astype(np.float32)


def federate(changes, *, drop=None, secure=None, strategy=None, rounds=1, seen=None):
    records, last = [], []
    start = np.zeros(SIZE, np.float32)
    server = make_server_app(
        start,
        DIGEST,
        RoundSettings(rounds, min_nodes=len(changes), round_timeout=5.0),
        secure=secure or SecureAggregation(bound=1.0),
        strategy=strategy,
        on_round=lambda record, theta: (records.append(record), last.append(theta)),
    )
    run_local(server, Device(changes, seen), len(changes), drop=drop)
    return last, records


def dropping(**when):
    """drop(partition, question): node i is gone from stage when[...] on; stage -> partitions."""

    def drop(partition, question):
        stage = secure_config(question.content)[STAGE]
        return any(partition in gone and STAGES.index(stage) >= STAGES.index(since) for since, gone in when.items())

    return drop


def test_the_sum_is_the_plain_sum_to_the_last_step():
    changes, seen = changes_of(5), []
    last, records = federate(changes, seen=seen)
    steps = masks.levels(5)
    exact = np.rint(changes.astype(np.float64) * steps).sum(0) / steps / 5
    np.testing.assert_allclose(last[0], exact, atol=1e-9, rtol=1e-6)
    np.testing.assert_allclose(last[0], changes.mean(0), atol=1e-8, rtol=1e-6)
    assert records[0]["clients"] == 5
    assert records[0]["failures"] == {}
    assert len(seen) == 5


def test_what_one_device_sends_is_noise():
    from scipy.stats import kstest

    seen = []
    federate(np.zeros((3, SIZE), np.float32), seen=seen)
    for words in seen:
        assert words.dtype == np.uint32
        assert kstest(words / 2.0**32, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(seen[0], seen[1])[0, 1]) < 0.2


@pytest.mark.parametrize("since", STAGES)
def test_dropouts_at_every_stage(since):
    changes = changes_of(7)
    last, records = federate(changes, drop=dropping(**{since: {1, 4}}))
    rest = changes if since == "unmask" else np.delete(changes, [1, 4], axis=0)
    np.testing.assert_allclose(last[0], rest.mean(0), atol=1e-8, rtol=1e-6)
    assert set(records[0]["failures"]) == {"101", "104"}
    assert records[0]["clients"] == len(rest)


def test_dropouts_at_several_stages_and_few_neighbours():
    changes = changes_of(15, seed=3)
    secure = SecureAggregation(bound=1.0, neighbours=9, survivors=0.55)
    last, records = federate(changes, secure=secure, drop=dropping(shares={0}, masked={5}, unmask={10}))
    np.testing.assert_allclose(last[0], np.delete(changes, [0, 5], axis=0).mean(0), atol=1e-8, rtol=1e-6)
    assert records[0]["clients"] == 13


@pytest.mark.parametrize("since", STAGES)
def test_too_many_dropouts_end_the_round_with_the_reason(since):
    with pytest.raises(FederationError, match=r"round 1: (2 of 5 devices|2 shares of node)"):
        federate(changes_of(5), drop=dropping(**{since: {0, 1, 2}}))


def test_masks_are_new_in_every_round_and_a_device_that_missed_one_comes_back():
    changes, seen = changes_of(4), []
    gone = dropping(masked={2})
    number = iter(range(100))

    def drop(partition, question):
        return secure_config(question.content).get("number") == 1 and gone(partition, question) and next(number) >= 0

    last, records = federate(changes, drop=drop, rounds=3, seen=seen)
    assert [record["clients"] for record in records] == [3, 4, 4]
    np.testing.assert_allclose(last[2] - last[1], changes.mean(0), atol=1e-6)
    assert len({words.tobytes() for words in seen}) == 11


def test_a_server_optimizer_gets_the_mean():
    changes = changes_of(3)
    last, _ = federate(changes, strategy=FedAdam(lr=0.1))
    want = FedAdam(lr=0.1)
    want.begin(1, np.zeros(SIZE, np.float32))
    want.add(changes.astype(np.float64).mean(0).astype(np.float32), 3)
    np.testing.assert_allclose(last[0], want.finish(), atol=1e-4)


def test_central_privacy_over_sums():
    class Still:
        def normal(self, mean, deviation, size):
            return np.zeros(size)

    changes = changes_of(4)
    changes[0] *= 100
    privacy = GaussianPrivacy(noise_multiplier=1.0, clipping_norm=0.5, delta=1e-5, max_epsilon=5.0)
    strategy = CentralPrivacy(StreamingFedAvg(), privacy, cohort=4, rng=Still())
    last, records = federate(changes, strategy=strategy)
    cut = changes * (0.5 / np.linalg.norm(changes, axis=1, keepdims=True))
    np.testing.assert_allclose(last[0], cut.mean(0), atol=1e-7)
    assert round(records[0]["epsilon"], 2) == 4.73


def test_a_number_beyond_the_bound_is_said_not_cut():
    changes = changes_of(5)
    changes[1, 7] = 1.5
    last, records = federate(changes)
    assert "theta moved by up to 1.5 in one number, and the server's bound is 1" in records[0]["failures"]["101"]
    np.testing.assert_allclose(last[0], np.delete(changes, 1, axis=0).mean(0), atol=1e-8, rtol=1e-6)


@settings(max_examples=50)
@given(st.integers(3, 1 << 14), st.floats(1e-3, 1e3), st.data())
def test_sums_at_the_bound_do_not_overflow(cohort, bound, data):
    count = data.draw(st.integers(1, min(cohort, 50)))
    values = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))) * bound
    total = np.zeros(1, np.uint32)
    for value in values:
        total += masks.to_words(np.array([value]), bound, cohort)
    off = abs(masks.from_words(total, bound, cohort)[0] - values.sum())
    assert off <= count * bound / masks.levels(cohort) * 0.51
    whole = np.uint32((cohort * int(masks.to_words(np.array([bound]), bound, cohort)[0])) % (1 << 32))
    assert masks.from_words(np.array([whole]), bound, cohort)[0] == pytest.approx(cohort * bound)


def test_the_mask_is_chacha20():
    """RFC 8439's cipher, by hand: 20 rounds over the words of the block."""
    import hashlib
    import struct

    def block(key, counter):
        state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
        work = list(state)

        def quarter(a, b, c, d):
            for x, y, z, r in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                work[x] = (work[x] + work[y]) & 0xFFFFFFFF
                v = work[z] ^ work[x]
                work[z] = ((v << r) | (v >> (32 - r))) & 0xFFFFFFFF

        for _ in range(10):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        return [(a + b) & 0xFFFFFFFF for a, b in zip(work, state, strict=True)]

    key = hashlib.sha256(b"edgessl mask" + b"secret").digest()
    np.testing.assert_array_equal(masks.mask(b"secret", 32), block(key, 0) + block(key, 1))


class Round:
    """Three devices by hand, up to any stage."""

    def __init__(self):
        self.memories = {node: RecordDict() for node in (1, 2, 3)}
        self.terms = Terms(5, 3, 3, 2, 1.0, 0.0)

    def device(self, node):
        return SecureDevice(self.memories[node], node)

    def ask(self, node, stage, **entries):
        content = RecordDict({SECURE: ConfigRecord({STAGE: stage, "number": 5, **entries})})
        return secure_config(self.device(node).answer(content))

    def keys(self):
        found = [self.ask(node, "keys", **self.terms.config()) for node in (1, 2, 3)]
        return [k["mask-key"] for k in found], [k["letter-key"] for k in found]

    def shares(self):
        mask_keys, letter_keys = self.keys()
        public = {"nodes": [1, 2, 3], "mask-keys": mask_keys, "letter-keys": letter_keys}
        return {node: self.ask(node, "shares", **public) for node in (1, 2, 3)}

    def masked(self):
        written = self.shares()
        for node in (1, 2, 3):
            others = [other for other in (1, 2, 3) if other != node]
            letters = [written[other]["letters"][written[other]["to"].index(node)] for other in others]
            self.seal(node, others, letters)

    def seal(self, node, others, letters):
        entries = {STAGE: "masked", "number": 5, "from": others, "letters": letters}
        content = RecordDict({SECURE: ConfigRecord(entries)})
        device = self.device(node)
        device.begin(content)
        return device.seal(np.ones(4, np.float32), np.zeros(4, np.float32), content)


def test_no_server_gets_shares_of_both_secrets_of_a_neighbour():
    round_ = Round()
    round_.masked()
    with pytest.raises(FederationError, match="none twice"):
        round_.ask(1, "unmask", alive=[1, 2, 3], dropped=[2])
    with pytest.raises(FederationError, match="not what comes next"):
        round_.ask(1, "unmask", alive=[1, 2, 3], dropped=[])
    assert len(round_.ask(2, "unmask", alive=[1, 2, 3], dropped=[])["shares"]) == 3
    with pytest.raises(FederationError, match="not what comes next"):
        round_.ask(2, "unmask", alive=[1, 3], dropped=[2])
    with pytest.raises(FederationError, match="at least 2 survivors"):
        round_.ask(3, "unmask", alive=[1], dropped=[2, 3])


def test_a_device_that_restarted_waits_for_the_next_round():
    round_ = Round()
    written = round_.shares()
    round_.memories[1] = RecordDict()
    with pytest.raises(FederationError, match="stage masked of round 5 is not what comes next on this device"):
        round_.seal(1, [2, 3], [written[2]["letters"][0], written[3]["letters"][0]])


def test_letters_of_others_are_not_taken():
    round_ = Round()
    written = round_.shares()
    to_one = [written[other]["letters"][written[other]["to"].index(1)] for other in (2, 3)]
    with pytest.raises(FederationError, match="a letter is not from node 2"):
        round_.seal(1, [2, 3], to_one[::-1])
    round_ = Round()
    round_.shares()
    with pytest.raises(FederationError, match="a letter is not from node 2"):
        round_.seal(1, [2, 3], to_one)  # of another round
    round_ = Round()
    round_.shares()
    with pytest.raises(FederationError, match="letters of 2 neighbours"):
        round_.seal(1, [2, 9], to_one)


def test_keys_that_the_server_swapped_are_noticed():
    round_ = Round()
    mask_keys, letter_keys = round_.keys()
    with pytest.raises(FederationError, match="this device's key as another one"):
        round_.ask(1, "shares", nodes=[1, 2, 3], **{"mask-keys": mask_keys[::-1], "letter-keys": letter_keys})
    round_ = Round()
    mask_keys, letter_keys = round_.keys()
    same = [mask_keys[0], mask_keys[1], mask_keys[1]]
    with pytest.raises(FederationError, match="not all of them distinct"):
        round_.ask(1, "shares", nodes=[1, 2, 3], **{"mask-keys": same, "letter-keys": letter_keys})


@pytest.mark.parametrize(
    "terms",
    [
        {"cohort": 2},
        {"neighbours": 2, "threshold": 2},
        {"threshold": 1},
        {"neighbours": 9, "cohort": 9, "threshold": 4},
        {"threshold": 4},
        {"bound": 0.0},
        {"bound": float("nan")},
        {"clipping_norm": -1.0},
        {"cohort": 1 << 15},
    ],
)
def test_terms_under_which_single_updates_could_be_learned_are_refused(terms):
    values = {"number": 5, "cohort": 3, "neighbours": 3, "threshold": 2, "bound": 1.0, "clipping_norm": 0.0}
    with pytest.raises(FederationError, match="secure aggregation refused"):
        Round().ask(1, "keys", **{**values, **terms})


def test_secrets_that_do_not_fit_what_was_announced_end_the_round():
    changes = changes_of(3)

    class Liar(Device):
        def __call__(self, question, context):
            reply = super().__call__(question, context)
            if secure_config(question.content)[STAGE] == "unmask":
                config = reply.content[SECURE]
                config["shares"] = secrets.create_shares(bytes(32), 2, 3)
            return reply

    server = make_server_app(
        np.zeros(SIZE, np.float32), DIGEST, RoundSettings(1, min_nodes=3), secure=SecureAggregation(bound=1.0)
    )
    with pytest.raises(FederationError, match="secret"):
        run_local(server, Liar(changes), 3)


@pytest.mark.parametrize(
    ("stage", "spoil", "words"),
    [
        ("keys", lambda config: config.pop("mask-key"), "stage keys: no keys"),
        ("shares", lambda config: config.update(to=[1, 2]), "letters, to others than its neighbours"),
        ("shares", lambda config: config.update(letters=[b"x" * 9000] * 4), "a letter of 9000 bytes"),
        ("unmask", lambda config: config.update(nodes=[1]), "shares, of others than its neighbours"),
        ("unmask", lambda config: config.update(stage="keys"), "stage unmask: not what was asked"),
    ],
)
def test_a_device_that_answers_nonsense_has_dropped_out(stage, spoil, words):
    class Odd(Device):
        def __call__(self, question, context):
            reply = super().__call__(question, context)
            if context.node_config["partition-id"] == 2 and secure_config(question.content)[STAGE] == stage:
                config = dict(reply.content[SECURE])
                spoil(config)
                reply.content[SECURE] = ConfigRecord(config)
            return reply

    changes, records, last = changes_of(5), [], []
    server = make_server_app(
        np.zeros(SIZE, np.float32),
        DIGEST,
        RoundSettings(1, min_nodes=5),
        secure=SecureAggregation(bound=1.0),
        on_round=lambda record, theta: (records.append(record), last.append(theta)),
    )
    run_local(server, Odd(changes), 5)
    assert words in records[0]["failures"]["102"]
    rest = changes if stage == "unmask" else np.delete(changes, 2, axis=0)
    np.testing.assert_allclose(last[0], rest.mean(0), atol=1e-8, rtol=1e-6)


def test_learners_in_secure_rounds_are_learners_in_plain_rounds(bundle, samples, tmp_path):
    def run(name, **own):
        def open_learner(context: Context) -> Learner:
            i = int(context.node_config["partition-id"])
            learner = Learner.open(bundle, tmp_path / name / str(i), memory_bytes=1 << 16, seed=i)
            catch_up(learner, samples(80, seed=i, shift=0.0))
            return learner

        last, records = [], []
        server = make_server_app(
            bundle.state()["theta"],
            bundle.digest,
            RoundSettings(2, min_nodes=3, downlink=own.pop("downlink", "whole")),
            on_round=lambda record, theta: (records.append(record), last.append(theta)),
            **own,
        )
        with compat.quiet(), Learners(open_learner) as learners:
            run_local(server, make_client_app(learners, local_steps=4), 3)
        return last[-1], records

    plain, _ = run("plain")
    secure, records = run("secure", secure=SecureAggregation())
    np.testing.assert_allclose(secure, plain, atol=1e-5)
    again, fewer = run("down", secure=SecureAggregation(), downlink="delta")
    np.testing.assert_allclose(again, plain, atol=1e-5)
    assert not any(record["failures"] for record in records + fewer)


def test_who_wants_secure_rounds_only_says_so(bundle, tmp_path, identity):
    content = message.pack(bundle.state()["theta"], bundle_digest=bundle.digest, round_number=1)
    question = Message(content, 100, "train")
    with Learner.open(bundle, tmp_path, memory_bytes=1 << 16) as learner:
        with pytest.raises(FederationError, match="only in rounds with secure aggregation"):
            train_round(question, learner, 1, vault=RecordDict(), secure_only=True)
        content[SECURE] = ConfigRecord({STAGE: "keys"})
        with pytest.raises(FederationError, match="takes no part in secure aggregation"):
            train_round(question, learner, 1)


def test_two_devices_are_too_few():
    with pytest.raises(FederationError, match="secure aggregation needs 3 devices in a round, found 2"):
        federate(changes_of(2))


def test_uplink_of_a_masked_update_is_that_of_a_plain_one():
    changes = changes_of(3)
    _, records = federate(changes)
    secrets_and_keys = records[0]["bytes_up"] - 3 * 4 * SIZE
    assert 0 < secrets_and_keys < 3 * 9000
