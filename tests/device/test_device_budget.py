"""Budgets: refused with the minimum when too small, held by onnxruntime itself when not; learning in time."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edgessl.device import Learner
from edgessl.errors import BudgetError

ROOT = Path(__file__).parents[2]


def child(body):
    """The arena's cap is one per process, so each case has its own."""
    code = "import json, sys\nfrom edgessl.device import *\nfrom edgessl.errors import *\n" + textwrap.dedent(body)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_budget_that_the_parts_do_not_fit_in_is_refused_with_the_minimum(bundle, tmp_path):
    with pytest.raises(
        BudgetError, match=r"budget of 5000000 bytes: samples take 4456448, .* at least (\d+) are needed"
    ) as refused:
        Learner.open(bundle, tmp_path, budget_bytes=5_000_000)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    with pytest.raises(BudgetError):
        Learner.open(bundle, tmp_path, budget_bytes=least - 1)
    assert not list(tmp_path.iterdir())


def test_a_budget_is_held_and_learning_starts_in_time(bundle_path, tmp_path):
    found = child(f"""
        import numpy as np
        learner = Learner.open({str(bundle_path)!r}, {str(tmp_path)!r}, budget_bytes=8 << 20)
        seconds = learner.metrics()["step_seconds"]
        theta = learner.theta
        learner.observe(np.random.default_rng(0).random((20, 1, 4, 4), dtype=np.float32))
        late = learner.learn(max_seconds=seconds / 1e6)
        steps = learner.learn(max_steps=3).steps
        print(json.dumps([seconds, late.steps, steps, bool((theta == learner.bundle.state()["theta"]).all())]))
        try:
            Learner.open({str(bundle_path)!r}, {str(tmp_path / "other")!r}, budget_bytes=9 << 20)
        except ConfigError as error:
            assert "capped at" in str(error)
        else:
            sys.exit("two caps in one process")
    """)
    assert found[0] > 0
    assert found[1:] == [0, 3, True]  # no step that would be late; the one that was measured left no trace


def test_what_onnxruntime_may_not_take_is_refused_and_said(kit, tmp_path):
    """A graph that asks for 40 MB of a 1 MB arena: the cap is onnxruntime's own, not an estimate."""
    found = child("""
        import numpy as np, onnx.parser
        from edgessl.device.runtime import _run, _value
        head = '<ir_version: 10, opset_import: ["" : 20]> g (int64[1] n) => (float[M] y) '
        model = onnx.parser.parse_model(head + "{ z = ConstantOfShape (n)\\n y = Neg (z) }")
        session = SessionProfile(arena_bytes=1 << 20).session(model.SerializeToString(), "g")
        small = _run(session, ["y"], {"n": _value(np.array([1000]))})[0].numpy().size
        try:
            _run(session, ["y"], {"n": _value(np.array([10_000_000]))})
        except BudgetError as error:
            print(json.dumps([small, str(error)]))
    """)
    assert found[0] == 1000
    assert "the budget leaves onnxruntime 1048576 bytes" in found[1]
    assert "bytes more" in found[1]


def test_warming_up_changes_nothing(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "a") as one, Learner.open(bundle, tmp_path / "b") as two:
        assert one.warm_up() == one.metrics()["step_seconds"] > 0
        for learner in (one, two):
            learner.observe(kit.samples(40))
            learner.learn(max_steps=4)
        np.testing.assert_array_equal(one.theta, two.theta)
        assert one.metrics()["attempts"] == two.metrics()["attempts"]


def test_the_arena_of_a_steps_parts_lifts_no_cap_and_is_under_none_that_comes_later():
    found = child("""
        import numpy as np, onnx.parser
        from edgessl.device.budget import one_arena
        from edgessl.device.runtime import _run, _value
        head = '<ir_version: 10, opset_import: ["" : 20]> g (int64[1] n) => (float[M] y) '
        model = onnx.parser.parse_model(head + "{ z = ConstantOfShape (n)\\n y = Neg (z) }").SerializeToString()
        with one_arena() as own:
            before = SessionProfile().session(model, "g", shared=own)
        capped = SessionProfile(arena_bytes=1 << 20)
        first = capped.session(model, "g")
        with one_arena() as second:
            after = SessionProfile().session(model, "g", shared=second)
        sessions = before, first, capped.session(model, "g"), after
        held = []
        for session in sessions:
            try:
                _run(session, ["y"], {"n": _value(np.array([10_000_000]))})
            except BudgetError:
                held.append(True)
            else:
                held.append(False)
        print(json.dumps([own, second, held]))
    """)
    assert found == [True, False, [False, True, True, False]]
