"""Bundles made to harm: every row of the table "Attacks refused" in docs/bundle.md is a test here."""

import contextlib
import hashlib
import io
import os
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device import Bundle, EncoderRunner, Learner, SessionProfile, pack
from edgessl.device.bundle.manifest import MAX_MANIFEST_BYTES
from edgessl.device.bundle.onnxwire import check_graph
from edgessl.device.bundle.specs import MemberSpec
from edgessl.errors import BundleError


def archive(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for name, data in files:
            out.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def files(kit):
    table = {k: MemberSpec(len(v), hashlib.sha256(v).hexdigest()) for k, v in kit.members.items()}
    return {"manifest.json": replace(kit.manifest, members=table).to_bytes(), **kit.members}


@pytest.fixture
def refused(tmp_path):
    def check(data, says):
        path = tmp_path / "bad.edgessl"
        path.write_bytes(data)
        with pytest.raises(BundleError, match=says) as caught:
            Bundle.open(path)
        assert "bad.edgessl" in str(caught.value)

    return check


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", ".hidden", "C:evil", "a\\b", "dir/", "a\0b"])
def test_path_traversal(files, refused, name):
    # zipfile's writer cuts names at NUL, so that one is patched in
    data = archive([*files.items(), (name.replace("\0", "?"), b"x")])
    refused(data.replace(b"a?b", b"a\0b"), "unsafe member name")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members(files, refused):
    refused(archive([*files.items(), ("train.onnx", b"x")]), "'train.onnx' appears twice")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members(files, refused, method):
    refused(archive(files.items(), method), "is compressed or encrypted")


def test_decompression_bomb_is_refused_before_it_is_read(files, refused):
    buffer = io.BytesIO(archive(files.items()))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("bomb.bin", bytes(64 << 20))
    data = buffer.getvalue()
    tracemalloc.start()
    refused(data, "'bomb.bin' is compressed")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_encrypted_members(files, refused):
    data = bytearray(archive(files.items()))
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1  # the flag bit of the central directory
    refused(bytes(data), "is compressed or encrypted")


def test_sizes_that_lie(files, refused):
    data = bytearray(archive(files.items()))
    place = data.rindex(b"PK\x01\x02")
    for field in (20, 24):  # compressed and real size, both 3 GiB
        data[place + field : place + field + 4] = (3 << 30).to_bytes(4, "little")
    refused(bytes(data), "at most")


def test_sizes_beyond_the_file(files, refused):
    data = bytearray(archive(files.items()))
    place = data.rindex(b"PK\x01\x02")
    for field in (20, 24):
        data[place + field : place + field + 4] = (1 << 29).to_bytes(4, "little")
    refused(bytes(data), "more than the .* that are there")


def test_overlapping_members(files, refused):
    data = bytearray(archive(files.items()))
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    data[entries[2] + 42 : entries[2] + 46] = data[entries[1] + 42 : entries[1] + 46]
    refused(bytes(data), "damaged")


def test_too_many_files(files, refused):
    extra = [(f"f{i}.bin", b"x") for i in range(40)]
    refused(archive([*files.items(), *extra]), "at most 34 are allowed")


def test_file_the_manifest_does_not_list(files, refused):
    refused(archive([*files.items(), ("extra.bin", b"x")]), "'extra.bin' is there but not listed")


@pytest.mark.parametrize("name", ["manifest.json", "train.onnx", "state.safetensors"])
def test_missing_member(files, refused, name):
    refused(archive([f for f in files.items() if f[0] != name]), f"'?{name}'? is")


def test_wrong_size(files, refused):
    files["train.onnx"] += b"x"
    refused(archive(files.items()), r"'train\.onnx': \d+ bytes, the manifest says")


def test_wrong_sha(files, refused):
    files["train.onnx"] = files["train.onnx"][:-1] + b"x"
    refused(archive(files.items()), "SHA-256 disagrees")


def test_huge_manifest(files, refused):
    files["manifest.json"] += b" " * MAX_MANIFEST_BYTES
    refused(archive(files.items()), r"'manifest\.json': \d+ bytes, at most")


def test_manifest_nested_too_deeply(files, refused):
    files["manifest.json"] = b"[" * 1_000_000
    refused(archive(files.items()), "not valid JSON")


def test_huge_tensor_header(files, kit, tmp_path):
    with pytest.raises(BundleError, match="at most 1048576"):
        pack(tmp_path / "b", kit.manifest, {**kit.members, "state.safetensors": b"\xff" * 64})


def test_oversized_shapes(files, refused):
    old, new = b'"shape": [\n        98\n      ]', b'"shape": [\n        98000000000\n      ]'
    assert old in files["manifest.json"]
    files["manifest.json"] = files["manifest.json"].replace(old, new)
    refused(archive(files.items()), "expected an integer in")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x80\x04K\x01.", b"{}"])
def test_not_a_bundle(refused, data):
    refused(data, "not a readable zip|is missing")


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_truncated(files, refused, keep):
    data = archive(files.items())
    refused(data[: int(keep * len(data))], "truncated or damaged")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_noticed_or_harmless(bundle_path, bundle, tmp_path_factory, data):
    """What opens in spite of a flipped byte (a timestamp, say) is the very same bundle."""
    raw = bytearray(bundle_path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.edgessl"
    path.write_bytes(raw)
    with contextlib.suppress(BundleError):
        found = Bundle.open(path)
        assert found.digest == bundle.digest
        assert all(found.read(name) == bundle.read(name) for name in bundle.manifest.members)


def test_directory_with_links_or_folders(files, tmp_path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    secret = tmp_path.parent / "train.onnx"
    (tmp_path / "train.onnx").rename(secret)
    os.symlink(secret, tmp_path / "train.onnx")
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(tmp_path)
    (tmp_path / "train.onnx").unlink()
    (tmp_path / "train.onnx").mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("junk", [b"import os", b"\x80\x04K\x01.", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 40])
def test_graph_that_is_not_onnx(kit, tmp_path, junk):
    with pytest.raises(BundleError, match=r"member 'encoder\.onnx': not an ONNX graph"):
        pack(tmp_path / "b", kit.manifest, {**kit.members, "encoder.onnx": junk})


def test_graph_that_onnxruntime_cannot_load(kit, tmp_path):
    text = kit.encoder_text.replace("MatMul (", "Gemm (")
    model = onnx.parser.parse_model(text)
    bad = pack(tmp_path / "b", kit.manifest, {**kit.members, "encoder.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=r"encoder\.onnx: onnxruntime .* cannot load"):
        EncoderRunner(bad)


def _external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.ClearField("int64_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _hide(model, place, location):
    """Put a tensor with external data where a reader in a hurry would not look."""
    tensor = _external(onnx.helper.make_tensor("t", onnx.TensorProto.INT64, [1], [0]), location)
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    sparse = onnx.SparseTensorProto(values=tensor, dims=[1])
    branch = onnx.helper.make_graph([node], "branch", [], [])
    match place:
        case "initializer":
            _external(model.graph.initializer[0], location)
        case "sparse initializer":
            model.graph.sparse_initializer.append(sparse)
        case "attribute":
            model.graph.node.append(node)
        case "sparse attribute":
            model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], sparse_value=sparse))
        case "subgraph":
            model.graph.node.append(onnx.helper.make_node("If", ["k"], ["c"], then_branch=branch))
        case "function":
            opsets = [onnx.helper.make_opsetid("", 20)]
            model.functions.append(onnx.helper.make_function("f", "f", [], ["c"], [node], opsets))
        case "training info":
            model.training_info.add().algorithm.CopyFrom(branch)
    return model.SerializeToString()


PLACES = ["initializer", "sparse initializer", "attribute", "sparse attribute", "subgraph", "function"]


@pytest.mark.parametrize("location", ["weights.bin", "../secret", "/etc/passwd"])
@pytest.mark.parametrize("place", [*PLACES, "training info"])
def test_graph_with_external_data(kit, tmp_path, place, location):
    graph = _hide(onnx.load_from_string(kit.members["encoder.onnx"]), place, location)
    with pytest.raises(
        BundleError, match=r"'encoder\.onnx': (a tensor has its data in another file|a sparse|a function|operator 'If')"
    ):
        pack(tmp_path / "b", kit.manifest, {**kit.members, "encoder.onnx": graph})


def test_external_data_would_have_been_read(tmp_path, monkeypatch):
    """Why bytes must be searched: onnxruntime takes files from the working directory."""
    (tmp_path / "secret.bin").write_bytes(np.arange(15, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N] at) => (float[N,5] y) { i = Cast <to = 7> (at)  y = Gather (w, i) }"""
    model = onnx.parser.parse_model(text)
    w = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3, 5])
    _external(w, "secret.bin")
    with pytest.raises(BundleError, match="another file"):
        check_graph(model.SerializeToString(), "g")
    session = SessionProfile().session(model.SerializeToString(), "g")
    read = session.run(None, {"at": np.array([2.0], np.float32)})[0]
    np.testing.assert_array_equal(read, [[10.0, 11.0, 12.0, 13.0, 14.0]])


def test_graph_of_a_foreign_domain(kit, tmp_path):
    model = onnx.load_from_string(kit.members["encoder.onnx"])
    model.graph.node[-1].domain = "com.microsoft"
    with pytest.raises(BundleError, match="another domain"):
        pack(tmp_path / "b", kit.manifest, {**kit.members, "encoder.onnx": model.SerializeToString()})


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 10**6),
)
def test_mutated_graphs(kit, changes, cut):
    """Nothing but BundleError comes out, and what onnx itself finds external is never let through."""
    graph = bytearray(_hide(onnx.load_from_string(kit.members["train.onnx"]), "attribute", "x"))
    for place, value in changes:
        graph[place % len(graph)] = value
    for candidate in (bytes(graph), bytes(graph[: cut % len(graph)])):
        try:
            check_graph(candidate, "g")
        except BundleError:
            continue
        try:
            model = onnx.load_from_string(candidate)
        except Exception:
            continue  # onnx finds it unreadable; so will onnxruntime
        assert not any(t.external_data or t.data_location for t in onnx.external_data_helper._get_all_tensors(model))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("float[N,1,4,4] x", "float[N,1,4,5] x", "'x' is tensor.float."),
        ("x) =>", "x, float[1] y) =>", r"inputs \['theta', 'x', 'y'\]"),
        ("float[98] theta", "double[98] theta", "cannot load|'theta' is"),
    ],
)
def test_graph_other_than_the_manifest_says(kit, tmp_path, old, new, says):
    text = kit.encoder_text.replace(old, new)
    assert text != kit.encoder_text
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [-1]))
    bad = pack(tmp_path / "b", kit.manifest, {**kit.members, "encoder.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=says):
        EncoderRunner(bad)


def test_swapped_graphs(kit, tmp_path):
    """Refused when the session is made, at the first step; the device embeds and remembers on."""
    swapped = {**kit.members, "train.onnx": kit.members["encoder.onnx"]}
    with Learner.open(pack(tmp_path / "b", kit.manifest, swapped), tmp_path / "state") as learner:
        learner.observe(kit.samples(20))
        before = learner.theta
        for ask in (lambda: learner.learn(max_steps=1), learner.warm_up):
            with pytest.raises(BundleError, match=r"train\.onnx: inputs"):
                ask()
        np.testing.assert_array_equal(learner.theta, before)
        assert learner.observe(kit.samples(1)).shape == (1, kit.manifest.embedding_dim)


def model(text):
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text).SerializeToString()


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("g (float[1] x) => (float[1] y) { y = RandomNormalLike(x) }", "RandomNormalLike"),
        (
            "g (float[1] x) => (float[1] y) { s = SequenceConstruct(x)\n y = SequenceAt(s, x) }",
            "Sequence",
        ),
        (
            "g (bool[1] c, float[1] x) => (float[1] y) { y = If (c) <then_branch = t () => (float[1] a) "
            "{ a = Abs(x) }, else_branch = e () => (float[1] b) { b = Neg(x) }> }",
            "If",
        ),
        ("g (string[1] x) => (string[1] y) { y = StringNormalizer(x) }", "StringNormalizer"),
        ("g (float[1] x) => (float[1] y) { y = Sbs(x) }", "Sbs"),
    ],
)
def test_operators_that_are_not_allowed(text, operator):
    with pytest.raises(BundleError, match=f"graph: operator '{operator}.*' is not among those allowed"):
        check_graph(model(text), "graph")


def test_operators_hidden_in_a_branch():
    text = "g (float[1] x) => (float[1] y) { y = Identity(x) }"
    inner = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text.replace("Identity", "Loop")}')
    outer = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    outer.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner.graph))
    with pytest.raises(BundleError, match="operator 'Loop'"):
        check_graph(outer.SerializeToString(), "graph")


def test_functions_of_their_own():
    m = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\ng (float[1] x) => (float[1] y) { y = Neg(x) }'
    )
    m.functions.append(onnx.helper.make_function("", "Neg", ["a"], ["b"], [], [onnx.helper.make_opsetid("", 20)]))
    with pytest.raises(BundleError, match="a function of its own"):
        check_graph(m.SerializeToString(), "graph")


def test_tensors_that_ask_for_terabytes():
    m = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\ng (float[1] x) => (float[1] y) { y = Neg(x) }'
    )
    m.graph.initializer.append(onnx.TensorProto(name="w", data_type=1, dims=[1 << 20, 1 << 20]))
    with pytest.raises(BundleError, match="more than 268435456 elements"):
        check_graph(m.SerializeToString(), "graph")
    m.graph.initializer[0].ClearField("dims")
    values = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [1.0])
    places = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
    m.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [1 << 40]))
    with pytest.raises(BundleError, match="a sparse tensor"):
        check_graph(m.SerializeToString(), "graph")
