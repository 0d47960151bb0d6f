import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device import InputSpec, Manifest
from edgessl.device.bundle.manifest import MAX_MANIFEST_BYTES
from edgessl.device.bundle.specs import MemberSpec
from edgessl.errors import BundleError, ConfigError


@pytest.fixture(scope="module")
def manifest(kit):
    members = {name: MemberSpec(len(data), "0" * 64) for name, data in kit.members.items()}
    return dataclasses.replace(kit.manifest, members=members)


@pytest.fixture
def document(manifest):
    return json.loads(manifest.to_bytes())


def read(document):
    return Manifest.from_bytes(json.dumps(document).encode())


def test_roundtrip_is_exact(manifest):
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert data.startswith(b'{\n  "embedding_dim": 6,\n  "encoder": {')
    assert data.endswith(b"}\n")


def test_derived(manifest):
    assert manifest.theta_size == 98
    assert manifest.batch_size == 8
    assert manifest.noise_shape == (8, 16)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_versions_say_found_and_supported(document, version):
    document["version"] = version
    with pytest.raises(BundleError, match=f"version: found {version}, this edgessl supports 1"):
        read(document)


def test_unknown_keys_are_ignored_at_the_top_and_refused_below(document, manifest):
    assert read(document | {"signature": {"any": "thing"}}) == manifest
    document["input"]["colour"] = "red"
    with pytest.raises(BundleError, match="input: unknown key 'colour'"):
        read(document)


def test_int8_graph_is_optional(document):
    del document["graphs"]["encoder_int8"]
    assert "encoder_int8" not in read(document).graphs


def test_extra_scalar_metrics_are_allowed(document):
    document["graphs"]["train"]["outputs"].append({"name": "invariance", "shape": [], "dtype": "float32"})
    assert read(document).graphs["train"].outputs[-1].name == "invariance"


WRONG = [
    ("format", "zip", "format: expected one of edgessl-bundle"),
    ("version", "1", "version: expected an integer"),
    ("version", True, "version: expected an integer"),
    ("name", "", "name: expected a string"),
    ("name", "x" * 257, "name: expected a string"),
    ("name", "a\nb", "name: unprintable"),
    ("embedding_dim", 0, "embedding_dim: expected an integer in"),
    ("embedding_dim", 7, "graphs.encoder.outputs: expected embedding"),
    ("input>kind", "video", "input: input kind 'video'"),
    ("input>shape", [1, 4], "input: input shape"),
    ("input>shape", [1, 4, 1 << 40], r"input.shape\[2\]"),
    ("input>shape", [4096, 4096, 4096], "more than"),
    ("input>dtype", "float64", "input.dtype"),
    ("input>mean", [0.1, 0.2], "2 values for 1 channels"),
    ("input>std", [0], "expected numbers > 0"),
    ("input>std", ["a"], r"input.std\[0\]: expected a number"),
    ("input>units", None, "input.units"),
    ("parameters>0>offset", 4, r"parameters\[0\].offset: found 4, expected 0"),
    ("parameters>1>offset", 97, r"parameters\[1\].offset: found 97, expected 96"),
    ("parameters>2>kind", "weight", r"parameters\[2\].kind: 'weight' after 'fixed'"),
    ("parameters>1>kind", "bias", r"parameters\[1\].kind"),
    ("parameters>1>name", "encoder.weight", "appears twice"),
    ("parameters>2>shape", [2], r"slots\[0\]: expected theta"),
    ("parameters", [], r"slots\[0\]: expected theta"),
    ("slots>0>name", "weights", r"slots\[0\]: expected theta"),
    ("slots>0>dtype", "float16", r"slots\[0\]: expected theta"),
    ("slots>1>name", "theta", "slots: a name appears twice"),
    ("slots>1>shape", ["N"], r"slots\[1\].shape\[0\]"),
    ("slots>1>dtype", "complex64", r"slots\[1\].dtype"),
    ("slots", [], r"slots\[0\]: expected theta"),
    ("hyper>lr", "fast", "hyper.lr: expected a number"),
    ("hyper>lr", 10**400, "hyper.lr: expected a finite number"),
    ("hyper>extra", 1.0, "graphs.train.inputs: expected"),
    ("graphs>train", None, "graphs.train"),
    ("graphs>encoder>file", "../encoder.onnx", "not among the members"),
    ("graphs>encoder>file", "gone.onnx", "graphs.encoder.file: 'gone.onnx' is not among"),
    ("graphs>encoder>inputs>1>shape", ["N", 1, 4, 5], "graphs.encoder.inputs: expected theta"),
    ("graphs>train>inputs>3>shape", [9, 1, 4, 4], "graphs.train.inputs: expected"),
    ("graphs>train>inputs>4>shape", ["N", 16], "expected noise of shape"),
    ("graphs>train>inputs>4>shape", [8], "expected noise of shape"),
    ("graphs>train>inputs>4>shape", [1 << 24, 1], "batch float32.16777216, 1, 4, 4."),
    ("graphs>train>inputs>0>name", "velocity", "a name appears twice"),
    ("graphs>train>outputs>0>shape", [99], "graphs.train.outputs: expected"),
    ("graphs>train>outputs>3>name", "cost", "graphs.train.outputs: expected"),
    ("members>train.onnx>bytes", 0, r"members.train.onnx.bytes: expected an integer in \[1,"),
    ("members>train.onnx>bytes", 1 << 31, "members.train.onnx.bytes"),
    ("members>train.onnx>sha256", "f" * 63, "sha256: expected 64 lowercase hex"),
    ("members>train.onnx>sha256", "F" * 64, "sha256: expected 64 lowercase hex"),
    ("members>a/b", {"bytes": 1, "sha256": "0" * 64}, "'a/b' is not a plain file name"),
    ("members>..", {"bytes": 1, "sha256": "0" * 64}, "not a plain file name"),
    ("members>manifest.json", {"bytes": 1, "sha256": "0" * 64}, "not a plain file name"),
    ("opset", 20.0, "opset: expected an integer"),
    ("parity", [], "parity: expected an object"),
    ("views", {}, "views: expected a list"),
    ("views", [{"name": "crop"}], r"views\[0\]: key 'options' is missing"),
    ("parameters", [{}] * 20000, "at most 16384"),
]


@pytest.mark.parametrize(("path", "value", "says"), WRONG)
def test_wrong_values_are_named_by_path(document, path, value, says):
    *before, last = path.split(">")
    target = document
    for key in before:
        target = target[int(key) if isinstance(target, list) else key]
    target[int(last) if isinstance(target, list) else last] = value
    with pytest.raises(BundleError, match=says):
        read(document)


@pytest.mark.parametrize("key", ["format", "version", "input", "parameters", "slots", "hyper", "graphs", "members"])
def test_missing_keys_are_named(document, key):
    del document[key]
    with pytest.raises(BundleError, match=f"key '{key}' is missing"):
        read(document)


@pytest.mark.parametrize("key", ["encoder", "train"])
def test_missing_graphs_are_named(document, key):
    del document["graphs"][key]
    with pytest.raises(BundleError, match=f"graphs: '{key}' is missing"):
        read(document)


def test_missing_state_member(document):
    del document["members"]["state.safetensors"]
    with pytest.raises(BundleError, match=r"state\.safetensors is missing"):
        read(document)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":1,"a":1}', b"[" * 200_000])
def test_not_a_manifest(data):
    with pytest.raises(BundleError):
        Manifest.from_bytes(data)


def test_too_long():
    with pytest.raises(BundleError, match="at most"):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
)


def _paths(value, prefix=()):
    yield prefix
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _paths(inner, (*prefix, key))


@settings(max_examples=300, deadline=None)
@given(st.data(), JSON)
def test_any_json_anywhere_raises_nothing_but_bundle_error(manifest, data, junk):
    document = json.loads(manifest.to_bytes())
    path = data.draw(st.sampled_from([p for p in _paths(document) if p]))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = junk
    with contextlib.suppress(BundleError):
        read(document)


def test_a_manifest_with_nan_cannot_be_written(manifest):
    with pytest.raises(BundleError, match="JSON"):
        dataclasses.replace(manifest, parity={"error": float("nan")}).to_bytes()


def test_input_spec_roundtrip_and_checks():
    spec = InputSpec("signal", (3, 128), (0.0, 1.0, 2.0), (1.0, 1.0, 9.81), "g")
    assert InputSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ConfigError, match="signal takes 2"):
        InputSpec("signal", (3, 1, 128), (0.0,) * 3, (1.0,) * 3, "g")
    with pytest.raises(BundleError, match=r"recipe\.input\.kind: expected a string"):
        InputSpec.from_json(spec.to_json() | {"kind": 3}, "recipe.input")


def test_input_spec_of_tokens_and_pairs():
    tokens = InputSpec("tokens", (1, 64), (0.0,), (1.0,), "ids of 65 symbols", 65)
    assert InputSpec.from_json(tokens.to_json()) == tokens
    assert tokens.to_json()["vocabulary"] == 65
    pair = InputSpec("pair", (5000,), (0.5,) * 5000, (2.0,) * 5000, "g | V")
    assert InputSpec.from_json(pair.to_json()) == pair
    assert "vocabulary" not in pair.to_json()
    for arguments, message in (
        (("tokens", (2, 64), (0.0,) * 2, (1.0,) * 2, "u", 65), r"tokens take \(1, L\)"),
        (("tokens", (1, 64), (0.5,), (1.0,), "u", 65), "ids are not normalised"),
        (("tokens", (1, 64), (0.0,), (1.0,), "u"), "vocabulary 0: expected 2 to 16777216"),
        (("pair", (2,), (0.0,) * 2, (1.0,) * 2, "u", 65), "only tokens have one, this is pair"),
        (("pair", (2, 2), (0.0,) * 2, (1.0,) * 2, "u"), "pair takes 1 dimensions"),
    ):
        with pytest.raises(ConfigError, match=message):
            InputSpec(*arguments)
    for changed, message in (
        ({"vocabulary": 1.5}, r"input\.vocabulary: expected an integer"),
        ({"kind": "signal"}, "unknown key 'vocabulary'"),
    ):
        with pytest.raises(BundleError, match=message):
            InputSpec.from_json(tokens.to_json() | changed)
    without = tokens.to_json()
    del without["vocabulary"]
    with pytest.raises(BundleError, match="'vocabulary' is missing"):
        InputSpec.from_json(without)
