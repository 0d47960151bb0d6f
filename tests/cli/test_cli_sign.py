"""`edgessl keys`, `sign`, `verify` on a real bundle."""

from __future__ import annotations

import json
from pathlib import Path

import linear_bundle
import pytest

from edgessl.device import pack


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "model.edgessl"
    pack(path, linear_bundle.build_manifest(), linear_bundle.build_members())
    return path


def test_keys_sign_verify(run, bundle: Path, tmp_path: Path) -> None:
    key, other = tmp_path / "factory.pem", tmp_path / "other.pem"
    run("keys", key)
    run("keys", other)
    assert "not signed" in run("verify", bundle, "--key", f"{key}.pub", expect=2).stderr
    run("sign", bundle, "--key", key)
    good = json.loads(run("verify", bundle, "--key", f"{key}.pub", "--json").stdout)
    assert "not signed by a trusted key" in run("verify", bundle, "--key", f"{other}.pub", expect=2).stderr
    shown = " ".join(run("inspect", bundle).stdout.split())
    assert f"says it is by key {good['signed_by'][:16]}" in shown
