"""The attacks: what a stream is, and that a guarded learner is judged like an unguarded one."""

import numpy as np
import pytest

from edgessl.bench import load_bench
from edgessl.bench.faults.attacks import ATTACK, _Blind, _streams
from edgessl.device.guard.collapse import Verdict


def test_streams():
    train = np.random.default_rng(0).random((50, 1, 16, 16), dtype=np.float32)
    streams = _streams(train, np.random.default_rng(1))
    assert all(x.shape == (ATTACK, 1, 16, 16) and x.dtype == np.float32 for x in streams.values())
    assert len(np.unique(streams["constant"])) == 1
    assert len(np.unique(streams["saturated"])) == 2
    assert np.isnan(streams["NaN"]).all()
    assert streams["tiny variance"].std() < 1e-3
    assert len(np.unique(streams["one image"].reshape(ATTACK, -1), axis=0)) == 1


def test_without_a_guard_everything_is_kept():
    assert _Blind().judge({"loss": float("nan")}) == (Verdict.KEEP, "")


@pytest.mark.slow
def test_an_attack_with_and_without_the_guard():
    result = load_bench("attacks")([0], epochs=2, attacks=["NaN", "constant"])
    rows = {(row["attack"], row["guarded"]): row for row in result["rows"]}
    assert rows["NaN", True]["refused"] == ATTACK
    assert len(rows) == 5
    assert all(0 <= row["after"] <= 1 for row in rows.values())
