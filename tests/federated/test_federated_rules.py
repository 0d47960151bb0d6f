"""What a device does with the fleet's weights: by hand, and with a real learner."""

import numpy as np
import pytest
from flwr.app import Message, MessageType

from edgessl.device import Learner, ParameterEntry
from edgessl.errors import FederationError, StateError
from federated import compat, message, train_round
from federated.lineage import BRANCH, FEDERATION, LAYOUT, layout_hash
from federated.rules import RULES, FedAvgRule, FedEMA, FedU, Memory, parse_rule, rule_config

LAYOUT_OF = (
    ParameterEntry("encoder.conv", 0, (2, 1, 1, 1), "weight"),
    ParameterEntry("predictor.linear", 2, (1, 2), "weight"),
    ParameterEntry("encoder.mean", 4, (1,), "statistic"),
)
OWN, FLEET = np.array([3, 4, 10, 20, 100], np.float32), np.array([0, 0, 0, 0, 7], np.float32)


class TestFedEMA:
    def test_the_autoscaler_makes_mu_tau_at_the_second_participation(self):
        memory = Memory(round=4)
        start = FedEMA(tau=0.7).start(OWN, FLEET, 5, memory, LAYOUT_OF)
        np.testing.assert_allclose(start, [2.1, 2.8, 7, 14, 7], rtol=1e-6)  # statistics are the fleet's
        assert memory.numbers == {"fedema-scale": pytest.approx(0.7 / 5)}  # |(3, 4)| = 5; the predictor does not count

    def test_mu_follows_the_distance_by_the_fixed_scale_and_ends_at_one(self):
        memory = Memory(round=4, numbers={"fedema-scale": 0.1})
        for factor, mu in ((1.0, 0.5), (0.2, 0.1), (3.0, 1.0)):
            start = FedEMA().start(factor * OWN, FLEET, 5, memory, LAYOUT_OF)
            np.testing.assert_allclose(start[:4], mu * factor * OWN[:4], rtol=1e-6)
        assert memory.numbers == {"fedema-scale": 0.1}

    @pytest.mark.parametrize(("last", "number"), [(0, 1), (0, 9), (3, 5)])
    def test_who_missed_the_round_before_takes_the_fleets(self, last, number):
        memory = Memory(round=last)
        np.testing.assert_array_equal(FedEMA().start(OWN, FLEET, number, memory, LAYOUT_OF), FLEET)
        assert memory.numbers == {}

    def test_a_round_that_is_repeated_counts_as_the_next(self):
        np.testing.assert_allclose(FedEMA().start(OWN, FLEET, 4, Memory(round=4), LAYOUT_OF)[0], 2.1, rtol=1e-6)

    def test_a_given_scale_is_used(self):
        memory = Memory(round=1)
        np.testing.assert_allclose(FedEMA(scale=0.1).start(OWN, FLEET, 2, memory, LAYOUT_OF)[0], 1.5, rtol=1e-6)
        assert memory.numbers == {}

    def test_the_same_weights_are_no_division_by_zero(self):
        np.testing.assert_array_equal(FedEMA().start(FLEET, FLEET, 2, Memory(round=1), LAYOUT_OF), FLEET)


class TestFedU:
    def test_the_predictor_is_the_fleets_until_the_encoder_moves_much(self):
        memory, rule = Memory(), FedU(threshold=0.4)
        np.testing.assert_array_equal(rule.start(OWN, FLEET, 1, memory, LAYOUT_OF), FLEET)
        rule.learned(FLEET, FLEET + np.float32([0.18, 0.24, 9, 9, 9]), memory, LAYOUT_OF)
        assert memory.numbers["fedu-moved"] == pytest.approx(0.3)
        np.testing.assert_array_equal(rule.start(OWN, FLEET, 2, memory, LAYOUT_OF), FLEET)
        rule.learned(FLEET, OWN, memory, LAYOUT_OF)
        assert memory.numbers["fedu-moved"] == pytest.approx(5.0)
        np.testing.assert_array_equal(rule.start(OWN, FLEET, 3, memory, LAYOUT_OF), [0, 0, 10, 20, 7])

    def test_it_wants_a_predictor(self):
        with pytest.raises(FederationError, match="an objective with a predictor"):
            FedU().start(OWN[:2], FLEET[:2], 1, Memory(), LAYOUT_OF[:1])


class TestParse:
    def test_a_message_without_a_rule_is_fedavg(self):
        assert parse_rule({"version": "x"}) == FedAvgRule()

    def test_what_the_server_writes_the_device_reads(self):
        assert parse_rule(rule_config("fedema", {"tau": 0.5})) == FedEMA(tau=0.5)
        assert parse_rule(rule_config("fedu")) == FedU()
        assert set(RULES) == {"fedavg", "fedema", "fedu", "fedprox", "fedx", "orchestra"}

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"rule": "evil"}, "unknown rule 'evil'; this device knows fedavg"),
            ({"rule": 3}, "unknown rule '3'"),
            ({"rule": "fedema", "rule-lr": 1.0}, "rule 'fedema' has no number 'lr'; it has scale, tau"),
            ({"rule-tau": 1.0}, "rule 'fedavg' has no number 'tau'; it has none"),
            ({"rule": "fedema", "rule-tau": "0.7"}, "rule-tau: expected a finite number"),
            ({"rule": "fedema", "rule-tau": float("nan")}, "rule-tau: expected a finite number"),
            ({"rule": "fedema", "rule-tau": True}, "rule-tau: expected a finite number"),
            ({"rule": "fedema", "rule-tau": 1.5}, r"fedema: tau must lie in \[0, 1\]"),
            ({"rule": "fedu", "rule-threshold": -1}, "fedu: threshold must be at 0 or above"),
            ({"rule": "fedprox", "rule-weight": -1}, "fedprox: weight must be at 0 or above"),
        ],
    )
    def test_anything_else_is_refused(self, config, words):
        with pytest.raises(FederationError, match=words):
            parse_rule(config)


class TestMemory:
    def test_round_trip(self, tmp_path):
        assert Memory.load(tmp_path) == Memory()
        memory = Memory("run", 1, 7, {"fedema-scale": 0.25})
        memory.save(tmp_path)
        assert Memory.load(tmp_path) == memory
        assert [p.name for p in tmp_path.iterdir()] == ["fleet.json"]

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"federation": 1, "branch": 0, "round": 0, "numbers": {}}', '{"branch": NaN}']
    )
    def test_a_damaged_file_is_an_error_that_says_what_to_do(self, tmp_path, text):
        (tmp_path / "fleet.json").write_text(text)
        with pytest.raises(StateError, match=r"fleet\.json: damaged: .*delete it"):
            Memory.load(tmp_path)

    def test_old_messages_are_refused_and_new_federations_met(self):
        memory = Memory("run", 1, 7, {"x": 1.0})
        for config, number in (({FEDERATION: "run", BRANCH: 1}, 6), ({FEDERATION: "run", BRANCH: 0}, 9)):
            with pytest.raises(FederationError, match=f"round {number} of branch . is past"):
                memory.meet(config, number)
        memory.meet({FEDERATION: "run", BRANCH: 1}, 7)
        assert memory == Memory("run", 1, 7, {"x": 1.0})
        memory.meet({FEDERATION: "run", BRANCH: 2}, 8)
        assert memory == Memory("run", 2, 0, {})
        memory.meet({FEDERATION: "other", BRANCH: 0}, 1)
        assert memory == Memory("other", 0, 0, {})
        memory.meet({}, 1)
        memory.round = 5
        memory.meet({}, 1)  # a server that gives no name cannot be told apart from another
        assert memory == Memory()

    @pytest.mark.parametrize("config", [{FEDERATION: 5}, {FEDERATION: "x" * 300}, {BRANCH: "1"}, {BRANCH: True}])
    def test_what_is_no_name_is_refused(self, config):
        with pytest.raises(FederationError, match="expected names of a federation and a branch"):
            Memory().meet(config, 1)


@pytest.fixture
def learner(bundle, samples, tmp_path):
    with Learner.open(bundle, tmp_path / "state", memory_bytes=16_384) as learner:
        learner.observe(samples(100, seed=1))
        yield learner


@pytest.fixture
def ask(bundle, learner, identity):
    """ask(theta, round, **config): the weights that the device replies with."""

    def make(theta, number, **config):
        content = message.pack(theta, bundle_digest=bundle.digest, round_number=number, config=config)
        question = Message(content, 100, MessageType.TRAIN)
        compat.stamp(question)
        reply = train_round(question, learner, 4)
        options = {"bundle_digest": bundle.digest, "size": len(theta), "round_number": number, "reply": True}
        return message.unpack(reply.content, **options).theta

    return make


def test_a_real_device_mixes_by_fedema_from_its_second_round_on(bundle, learner, ask):
    theta, config = bundle.state()["theta"], {"federation": "run", "rule": "fedema", "rule-tau": 0.5}
    ask(theta, 1, **config)
    seen, adopt = [], learner.adopt
    learner.adopt = lambda weights, fleet=None: (seen.append(weights), adopt(weights, fleet))[1]
    own, fleet = learner.theta, (theta + np.float32(0.01)).astype(np.float32)
    ask(fleet, 2, **config)
    mask = np.concatenate([np.full(e.size, e.kind in ("weight", "vector")) for e in bundle.manifest.parameters])
    np.testing.assert_allclose(seen[0][mask], ((own + fleet) / 2)[mask], rtol=1e-5, atol=1e-6)
    saved = Memory.load(learner.directory)
    assert (saved.federation, saved.round) == ("run", 2)
    assert saved.numbers["fedema-scale"] > 0
    with pytest.raises(FederationError, match="round 1 of branch 0 is past"):
        ask(theta, 1, **config)


def test_what_a_device_refuses_changes_nothing(bundle, learner, ask):
    theta = bundle.state()["theta"]
    ask(theta, 3, federation="run")
    own, kept = learner.theta, Memory.load(learner.directory)
    for config, words in (
        ({"rule": "evil"}, "unknown rule"),
        ({"rule": "fedprox"}, "fedprox needs a bundle whose step has the term"),
        ({"rule": "fedx"}, "fedx needs a bundle whose step has the term: export it with --strategy fedx"),
        ({LAYOUT: "00" * 32}, "layout-hash: expected .* parameters of another model"),
        ({"federation": "run"}, "round 2 of branch 0 is past"),
    ):
        with pytest.raises(FederationError, match=words):
            ask(theta + np.float32(1), 2, **config)
    np.testing.assert_array_equal(learner.theta, own)
    assert Memory.load(learner.directory) == kept
    ask(theta, 4, **{LAYOUT: layout_hash(bundle.manifest.parameters), "federation": "run"})


def test_the_hash_of_a_layout_is_its_own():
    names = {layout_hash(LAYOUT_OF), layout_hash(LAYOUT_OF[:2]), layout_hash(LAYOUT_OF[::-1])}
    assert len(names) == 3
    assert layout_hash(list(LAYOUT_OF)) in names


def test_a_learner_tells_its_slots_and_where_it_lies(learner, tmp_path):
    np.testing.assert_array_equal(learner.slot("theta"), learner.theta)
    with pytest.raises(ValueError, match="slot 'fleet' is not in this bundle"):
        learner.slot("fleet")
    assert learner.directory == tmp_path / "state"
