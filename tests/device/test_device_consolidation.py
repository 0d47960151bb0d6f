"""Consolidation on the device with hand-written graphs, and what a manifest with a strategy may say."""

from dataclasses import replace

import numpy as np
import pytest
from linear_bundle import BATCH, DIM, HYPER, SHAPE, SIZE, build_graph

from edgessl.device import Bundle, Component, GraphSpec, Learner, StepRunner, TensorSpec, pack
from edgessl.device.bundle.manifest import Manifest
from edgessl.device.noise import probe_signs
from edgessl.errors import BundleError, InputError

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
# importance = theta^2 * mean(x)^2 + mean(probe): every input shows in it
IMPORTANCE = f"""{HEADER}
importance (float[{SIZE}] theta, float[1,1,4,4] x, float[1,{DIM}] probe) => (float[{SIZE}] importance) {{
    level = ReduceMean <keepdims = 0> (x)
    level2 = Mul (level, level)
    squares = Mul (theta, theta)
    weighed = Mul (squares, level2)
    sign = ReduceMean <keepdims = 0> (probe)
    importance = Add (weighed, sign)
}}"""
SCALARS = ", ".join(f"float hyper_{name}" for name in HYPER)
CONSOLIDATE = f"""{HEADER}
consolidate (float[{SIZE}] theta, float[{SIZE}] velocity, float[{SIZE}] anchor, float[{SIZE}] importance, {SCALARS})
    => (float[{SIZE}] next_theta, float[{SIZE}] next_velocity, float[{SIZE}] next_anchor) {{
    next_theta = Identity (theta)
    next_velocity = Identity (velocity)
    share = Mul (importance, hyper_momentum)
    next_anchor = Add (theta, share)
}}"""


@pytest.fixture
def settled(kit, tmp_path) -> Bundle:
    """The linear bundle with both graphs."""
    slots, hyper = kit.manifest.slots, tuple(TensorSpec(f"hyper.{k}", ()) for k in HYPER)
    importance = TensorSpec("importance", (SIZE,))
    sample, probe = TensorSpec("x", (1, *SHAPE)), TensorSpec("probe", (1, DIM))
    graphs = {
        **kit.manifest.graphs,
        "importance": GraphSpec("importance.onnx", (slots[0], sample, probe), (importance,)),
        "consolidate": GraphSpec(
            "consolidate.onnx",
            (*slots, importance, *hyper),
            tuple(TensorSpec(f"next.{s.name}", s.shape) for s in slots),
        ),
    }
    members = {
        **kit.members,
        "importance.onnx": build_graph(IMPORTANCE),
        "consolidate.onnx": build_graph(CONSOLIDATE),
    }
    manifest = replace(kit.manifest, graphs=graphs, strategy=Component("by_hand", {"why": "test"}))
    return pack(tmp_path / "settled.edgessl", manifest, members)


def test_the_runner_feeds_the_mean_importance(settled, kit):
    runner = StepRunner(settled)
    x, probes = kit.samples(5), probe_signs(3, 7, (5, DIM))
    before = runner.state()
    runner.consolidate(x, probes, kit.hyper)
    theta = before["theta"].astype(np.float64)
    each = [theta**2 * x[i].mean() ** 2 + probes[i].mean() for i in range(5)]
    after = runner.state()
    np.testing.assert_allclose(after["anchor"], theta + HYPER["momentum"] * np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after["theta"], before["theta"])
    with pytest.raises(InputError, match="no step to take back"):
        runner.undo()


def test_the_learner_consolidates_once_after_drift_with_older_samples(settled, kit, tmp_path, monkeypatch):
    calls = []
    consolidate = StepRunner.consolidate
    monkeypatch.setattr(StepRunner, "consolidate", lambda self, *a: (calls.append(a), consolidate(self, *a))[1])
    with Learner.open(settled, tmp_path / "state", memory_bytes=64 * 80, seed=4) as learner:
        learner.observe(kit.samples(200))
        learner.learn(max_steps=1)
        assert not calls
        learner._drifted = True
        learner.learn(max_steps=1)
        learner.learn(max_steps=1)
        assert len(calls) == 1
        samples, probes, hyper = calls[0]
        assert hyper == learner.hyper
        np.testing.assert_array_equal(probes, probe_signs(4, 1, (len(samples), DIM)))
        ring = kit.samples(200)[-len(learner._memory) // 4 :]  # the latest quarter
        assert not any((samples == recent).all((1, 2, 3)).any() for recent in ring)
        assert not np.array_equal(learner._trainer.state()["anchor"], settled.state()["anchor"])


def test_strategy_is_a_record_that_survives(settled):
    again = Manifest.from_bytes(settled.manifest.to_bytes())
    assert again == settled.manifest
    assert again.strategy == Component("by_hand", {"why": "test"})
    assert (again.embed_slot, again.stores) == ("theta", False)


def test_the_encoder_may_take_another_slot(kit, tmp_path):
    """Then a device shows what that slot embeds; the graph is the same but for a name."""
    slow = kit.encoder_text.replace("theta", "anchor")
    encoder = kit.manifest.graphs["encoder"]
    inputs = (TensorSpec("anchor", (SIZE,)), *(s for s in encoder.inputs if s.name == "x"))
    graphs = {**kit.manifest.graphs, "encoder": replace(encoder, inputs=inputs)}
    members = {**kit.members, "encoder.onnx": kit.graph(slow)}
    bundle = pack(tmp_path / "slow.edgessl", replace(kit.manifest, graphs=graphs), members)
    assert bundle.manifest.embed_slot == "anchor"
    x = kit.samples(6)
    with (
        Learner.open(bundle, tmp_path / "a") as learner,
        Learner.open(pack(tmp_path / "plain.edgessl", kit.manifest, kit.members), tmp_path / "b") as plain,
    ):
        for one in (learner, plain):
            one.observe(kit.samples(40))
            one.learn(max_steps=5)
        assert np.array_equal(learner.theta, plain.theta)
        assert not np.allclose(learner.embed(x), plain.embed(x))  # the anchor has not moved
        plain.rollback(to_factory=True)
        np.testing.assert_allclose(learner.embed(x), plain.embed(x), rtol=1e-5, atol=1e-6)


def without(graphs, key, side, name):
    specs = tuple(s for s in getattr(graphs[key], side) if s.name != name)
    return {**graphs, key: replace(graphs[key], **{side: specs})}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: {k: v for k, v in g.items() if k != "consolidate"}, "'consolidate' that would use it is missing"),
        (lambda g: without(g, "consolidate", "inputs", "importance"), "graphs.consolidate.inputs"),
        (lambda g: without(g, "consolidate", "inputs", "hyper.lr"), "graphs.consolidate.inputs"),
        (lambda g: without(g, "consolidate", "outputs", "next.anchor"), "graphs.consolidate.outputs"),
        (lambda g: without(g, "importance", "inputs", "probe"), "graphs.importance.inputs"),
        (lambda g: without(g, "importance", "outputs", "importance"), "graphs.importance.outputs"),
        (lambda g: without(g, "encoder", "inputs", "theta"), "graphs.encoder.inputs"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(settled, change, says):
    bad = replace(settled.manifest, graphs=change(dict(settled.manifest.graphs)))
    with pytest.raises(BundleError, match=says):
        Manifest.from_bytes(bad.to_bytes())


def test_stored_must_have_a_row_per_sample(kit):
    train = kit.manifest.graphs["train"]
    good = replace(train, inputs=(*train.inputs, TensorSpec("stored", (BATCH, DIM))))
    manifest = replace(kit.manifest, graphs={**kit.manifest.graphs, "train": good}, members={})
    for rows, fits in ((BATCH, True), (BATCH + 1, False)):
        graph = replace(train, inputs=(*train.inputs, TensorSpec("stored", (rows, DIM))))
        changed = replace(manifest, graphs={**manifest.graphs, "train": graph})
        assert changed.stores
        if fits:
            changed._check_train(graph)
        else:
            with pytest.raises(BundleError, match="stored"):
                changed._check_train(graph)


def test_stored_embeddings_go_with_steps_that_take_them(bundle, kit):
    runner = StepRunner(bundle)
    batch, noise = kit.samples(BATCH), np.zeros(bundle.manifest.noise_shape, np.float32)
    with pytest.raises(InputError, match="takes no stored"):
        runner.step(batch, noise, kit.hyper, np.zeros((BATCH, DIM), np.float32))


def test_sleep_goes_through_the_past_alone(bundle, kit, tmp_path, monkeypatch):
    seen = []
    step = StepRunner.step
    monkeypatch.setattr(StepRunner, "step", lambda self, batch, *a: (seen.append(batch), step(self, batch, *a))[1])
    with Learner.open(bundle, tmp_path / "state", memory_bytes=64 * 80) as learner:
        learner.observe(kit.samples(20))
        assert "0 older samples remembered" in learner.learn(max_steps=1, sleep=True).stopped
        learner.observe(kit.samples(200, seed=1))
        assert learner.learn(max_steps=4, sleep=True).steps == 4
        latest = kit.samples(200, seed=1)[-20:]  # the ring: a quarter of 80
        batches = np.concatenate(seen)
        assert not any((batches == x).all((1, 2, 3)).any() for x in latest)
        learner.learn(max_steps=2)
        awake = np.concatenate(seen[-2:])
        assert any((awake == x).all((1, 2, 3)).any() for x in latest)
