import dataclasses
import hashlib
import zipfile

import numpy as np
import pytest

from edgessl.device import Bundle, pack
from edgessl.device.storage.tensors import dumps
from edgessl.errors import BundleError


def test_open_reads_and_verifies(bundle, bundle_path, kit):
    assert bundle.manifest.name == "linear-denoising"
    assert {name: bundle.read(name) for name in kit.members} == kit.members
    with zipfile.ZipFile(bundle_path) as archive:
        assert bundle.digest == hashlib.sha256(archive.read("manifest.json")).hexdigest()
        assert archive.namelist() == ["manifest.json", *sorted(kit.members)]
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    state = bundle.state()
    assert {k: v.shape for k, v in state.items()} == dict.fromkeys(("theta", "velocity", "anchor"), (98,))
    state["theta"][:] = 0
    assert bundle.state()["theta"].any()  # fresh arrays each time
    with pytest.raises(BundleError, match=r"no member 'x'; there are encoder\.int8\.onnx"):
        bundle.read("x")


def test_a_directory_is_the_same_bundle(bundle, bundle_path, tmp_path):
    with zipfile.ZipFile(bundle_path) as archive:
        archive.extractall(tmp_path / "dir")
    assert Bundle.open(tmp_path / "dir").digest == bundle.digest


def test_same_parts_same_bytes_and_no_leftovers(kit, bundle, bundle_path, tmp_path):
    path = tmp_path / "again.edgessl"
    path.write_bytes(b"something older")
    assert pack(path, kit.manifest, dict(reversed(kit.members.items()))).digest == bundle.digest
    assert path.read_bytes() == bundle_path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.edgessl"]


def test_pack_refuses_what_open_would_refuse_and_leaves_the_old_file(kit, tmp_path):
    path = tmp_path / "b.edgessl"
    path.write_bytes(b"old")
    theta = Bundle(_files(kit)).state()["theta"]
    bad_state = {"theta": np.full_like(theta, np.nan), "velocity": theta, "anchor": theta}
    for change, says in (
        ({"state.safetensors": dumps({"theta": theta})}, "expected slots"),
        ({"state.safetensors": dumps(bad_state)}, "'theta' holds NaN"),
        ({"state.safetensors": dumps({k: v[:5] for k, v in bad_state.items()})}, r"expected float32\[98\]"),
        ({"state.safetensors": b"junk"}, "truncated"),
        ({"a/b": b"x"}, "not a plain file name"),
        ({"empty.bin": b""}, "expected an integer"),
    ):
        with pytest.raises(BundleError, match=says):
            pack(path, kit.manifest, {**kit.members, **change})
    with pytest.raises(BundleError, match=r"'train\.onnx' is not among the members"):
        pack(path, kit.manifest, {k: v for k, v in kit.members.items() if k != "train.onnx"})
    with pytest.raises(BundleError, match="cannot be written: No such file"):
        pack(tmp_path / "no" / "where.edgessl", kit.manifest, kit.members)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.edgessl"]


def _files(kit):
    from edgessl.device.bundle.specs import MemberSpec

    table = {k: MemberSpec(len(v), hashlib.sha256(v).hexdigest()) for k, v in kit.members.items()}
    return {"manifest.json": dataclasses.replace(kit.manifest, members=table).to_bytes(), **kit.members}
