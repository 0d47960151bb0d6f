"""What the drivers of local rules sent: played again in one run, it teaches both simulators the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.errors import ConfigError
from neuromorphic.rule_networks import RULES, rule_network
from neuromorphic.simulator import Simulator, make_simulator


@pytest.mark.parametrize("rule", RULES)
def test_inputs_played_again_teach_the_same(rule: str) -> None:
    pytest.importorskip("numba", reason="pip install 'edgessl[compiled]'")
    network, inputs = rule_network(rule, 3, 120)
    assert {array.shape[:2] for array in inputs.values()} == {(1, 120)}
    whole = Simulator(network).run(inputs)
    halves = make_simulator(network, engine="compiled")
    for part in (slice(0, 50), slice(50, 120)):
        played = halves.run({name: array[:, part] for name, array in inputs.items()})
    changed = 0
    for name, weights in whole.weights.items():
        np.testing.assert_array_equal(weights, played.weights[name])
        changed += int((weights[0] != network.connection(name).weights).sum())
    assert changed > 10


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown rule 'hebb'; choose one of predictive coding, Kolen-Pollack"):
        rule_network("hebb", 0, 10)
