"""Behind a cut a learner does on latents what any other does on samples, and stores them without loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import latent_bundle
import linear_bundle
import numpy as np
import pytest

from edgessl.device import Bundle, Learner, SessionProfile, pack
from edgessl.device.bundle.manifest import Manifest
from edgessl.device.bundle.specs import InputSpec, LatentSpec, MemberSpec
from edgessl.device.memory.codec import ByteCodec
from edgessl.device.runtime import BackboneRunner
from edgessl.errors import BundleError, ConfigError, InputError

MEMORY = 2048


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("cut") / "cut.edgessl"
    pack(path, latent_bundle.build_manifest(), latent_bundle.build_members())
    return Bundle.open(path)


@pytest.fixture(scope="module")
def document() -> dict:
    manifest = latent_bundle.build_manifest()
    members = {name: MemberSpec(len(data), "0" * 64) for name, data in latent_bundle.build_members().items()}
    return json.loads(dataclasses.replace(manifest, members=members).to_bytes())


def read(document: dict) -> Manifest:
    return Manifest.from_bytes(json.dumps(document).encode())


def test_backbone_follows_its_reference_in_batches_of_any_size(cut: Bundle) -> None:
    x = latent_bundle.make_samples(37)
    x[0] = 99.0  # beyond the grid: its end
    runner = BackboneRunner(cut)
    found = runner.latents(x)
    np.testing.assert_array_equal(found, latent_bundle.reference_latents(x))
    np.testing.assert_array_equal(np.concatenate([runner.latents(x[:1]), runner.latents(x[1:20])]), found[:20])
    assert found[0].max() == np.float32(latent_bundle.SCALE * (255 - latent_bundle.ZERO_POINT))


def test_it_learns_what_a_learner_of_the_latents_themselves_learns(cut: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    x = latent_bundle.make_samples(300, seed=3)
    codec = ByteCodec(latent_bundle.SCALE, latent_bundle.ZERO_POINT)
    with (
        Learner.open(cut, tmp_path / "cut", memory_bytes=MEMORY) as learner,
        Learner.open(bundle, tmp_path / "plain", memory_bytes=MEMORY, codec=codec) as plain,
    ):
        latents = latent_bundle.reference_latents(x)
        for i in range(0, 300, 50):
            np.testing.assert_array_equal(learner.observe(x[i : i + 50]), plain.observe(latents[i : i + 50]))
            assert learner.learn(max_steps=5).metrics == plain.learn(max_steps=5).metrics
        np.testing.assert_array_equal(learner.theta, plain.theta)
        assert not np.array_equal(learner.theta, cut.state()["theta"])
        learner.enroll(x[0], "a")
        learner.enroll(x[1:3], "b")
        plain.enroll(latents[0], "a")
        plain.enroll(latents[1:3], "b")
        assert learner.classify(x[:4]) == plain.classify(latents[:4])
        assert learner.classify(x[0]) == plain.classify(latents[0])
        np.testing.assert_array_equal(learner.novelty(x[:4]), plain.novelty(latents[:4]))
        assert learner.embed(x[0]).shape == (linear_bundle.DIM,)


def test_four_latents_fit_where_one_float_fitted_and_a_restart_changes_nothing(
    cut: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    x = latent_bundle.make_samples(400)
    with Learner.open(bundle, tmp_path / "raw", memory_bytes=MEMORY) as raw:
        raw.observe(linear_bundle.make_samples(400))
        held = raw.metrics()["remembered"]
    with Learner.open(cut, tmp_path / "cut", memory_bytes=MEMORY) as learner:
        learner.observe(x)
        assert learner.metrics()["remembered"] == 4 * held
        learner.learn(max_steps=6)
        learner.save()
        learner.learn(max_steps=6)
        expected = learner.theta
    with Learner.open(cut, tmp_path / "cut", memory_bytes=MEMORY) as learner:
        learner.learn(max_steps=6)
        np.testing.assert_array_equal(learner.theta, expected)


def test_samples_are_checked_before_the_backbone_sees_them(cut: Bundle, tmp_path: Path) -> None:
    with Learner.open(cut, tmp_path / "s", memory_bytes=MEMORY) as learner:
        for wrong, says in (
            (np.zeros((3, *latent_bundle.LATENT), np.float32), r"\[2, 4, 4\]"),
            (np.full((1, *latent_bundle.SHAPE), np.nan, np.float32), "NaN"),
        ):
            with pytest.raises(InputError, match=says):
                learner.observe(wrong)
        assert learner.metrics()["observed"] == 0


def test_a_bundle_without_a_cut_has_no_backbone(cut: Bundle, bundle: Bundle) -> None:
    assert bundle.backbone(SessionProfile()) is None
    assert cut.manifest.cut == "mean"
    assert cut.manifest.learned == cut.manifest.latent.spec
    assert bundle.manifest.learned == bundle.manifest.input
    with pytest.raises(BundleError, match="'backbone' is not in this bundle"):
        BackboneRunner(bundle)


def test_manifest_round_trip(document: dict) -> None:
    manifest = read(document)
    assert manifest.latent == LatentSpec(
        "mean", InputSpec("latent", (1, 4, 4), (0.25,), (0.5,), "activation"), latent_bundle.SCALE, 100
    )
    assert json.loads(manifest.to_bytes()) == document
    assert document["latent"]["scale"] == latent_bundle.SCALE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "image"}, r"latent\.kind: expected one of latent"),
        ({"shape": [2, 4, 4], "mean": [0, 0], "std": [1, 1]}, r"latent\.shape: \[2, 4, 4\] is the shape of a sample"),
        ({"shape": [1, 2, 2, 2]}, "latent takes 1 or 2 or 3 dimensions"),
        ({"shape": [1, 4, 5]}, r"graphs\.encoder\.inputs: expected .*x float32\['N', 1, 4, 5\]"),
        ({"scale": 0}, "latent scale 0.0"),
        ({"scale": -1.5}, "latent scale -1.5"),
        ({"zero_point": 256}, r"latent\.zero_point: expected an integer in \[0, 255\]"),
        ({"zero_point": 1.0}, r"latent\.zero_point"),
        ({"cut": ""}, r"latent\.cut"),
        ({"more": 1}, "latent: unknown key 'more'"),
        ({"std": [0]}, "latent: input std"),
    ],
)
def test_manifest_refuses(document: dict, change: dict, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        read({**document, "latent": {**document["latent"], **change}})


def test_manifest_refuses_what_does_not_fit_together(document: dict) -> None:
    graphs = {name: graph for name, graph in document["graphs"].items() if name != "backbone"}
    with pytest.raises(BundleError, match="graphs: 'backbone' is missing"):
        read({**document, "graphs": graphs})
    with pytest.raises(BundleError, match=r"graphs\.encoder\.inputs"):  # what a reader that ignores `latent` says
        read({name: value for name, value in document.items() if name != "latent"})
    wrong = {**document["graphs"]["backbone"], "outputs": document["graphs"]["encoder"]["outputs"]}
    with pytest.raises(BundleError, match=r"graphs\.backbone\.outputs: expected latent"):
        read({**document, "graphs": {**document["graphs"], "backbone": wrong}})
    with pytest.raises(BundleError, match=r"input\.kind: samples are not latents"):
        read({**document, "input": {**document["input"], "kind": "latent"}})
    for key in document["latent"]:
        latent = {name: value for name, value in document["latent"].items() if name != key}
        with pytest.raises(BundleError, match=f"latent: key '{key}' is missing|latent.{key}"):
            read({**document, "latent": latent})


def test_latent_specs_that_cannot_be() -> None:
    spec = InputSpec("latent", (4,), (0.0,) * 4, (1.0,) * 4, "activation")
    image = InputSpec("image", (1, 4, 4), (0.0,), (1.0,), "u")
    for arguments, says in (
        (("a", image, 0.1, 0), "latent kind"),
        (("a", spec, float("nan"), 0), "latent scale"),
        (("a", spec, 0.1, -1), "latent zero_point"),
    ):
        with pytest.raises(ConfigError, match=says):
            LatentSpec(*arguments)
