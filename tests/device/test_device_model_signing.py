"""Our `model.sig` through OpenSSF's own library: it reads the file, accepts the statement, and finds the same hashes.

Opt-in: EDGESSL_MODEL_SIGNING names a Python that has model-signing and pyopenssl (it brings sigstore along). Its own
verifiers take ECDSA keys and certificates only, so Ed25519 is checked here, over the bytes that it says were signed.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgessl.cli.signing import sign
from edgessl.device import Bundle

pytestmark = pytest.mark.slow

PEER = textwrap.dedent(
    """
    import base64, json, pathlib, sys
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from model_signing import hashing
    from model_signing._signing import sign_sigstore_pb as form, signing
    folder, key = pathlib.Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
    envelope = form.Signature.read(folder / "model.sig").bundle.dsse_envelope
    payload, signature = (base64.b64decode(v) if isinstance(v, str) else bytes(v)
                          for v in (envelope.payload, envelope.signatures[0].sig))
    Ed25519PublicKey.from_public_bytes(key).verify(signature, form.pae(payload))
    stated = signing.dsse_payload_to_manifest(json.loads(payload))
    found = hashing.Config().set_ignored_paths(paths=[folder / "model.sig"], ignore_git_paths=False).hash(folder)
    rows = lambda manifest: {str(d.identifier): d.digest.digest_hex for d in manifest.resource_descriptors()}
    print(json.dumps({"stated": rows(stated), "found": rows(found)}))
    """
)


def test_the_reference_library_reads_what_we_sign(bundle_path: Path, tmp_path: Path) -> None:
    python = os.environ.get("EDGESSL_MODEL_SIGNING")
    if not python:
        pytest.skip("EDGESSL_MODEL_SIGNING names no Python with model-signing and pyopenssl")
    folder, key = tmp_path / "bundle", Ed25519PrivateKey.generate()
    sign(bundle_path, key)
    folder.mkdir()
    with zipfile.ZipFile(bundle_path) as archive:
        for name in archive.namelist():
            (folder / name).write_bytes(archive.read(name))
    command = [python, "-c", PEER, str(folder), key.public_key().public_bytes_raw().hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["stated"] == said["found"]
    assert set(said["found"]) == {"manifest.json", *Bundle.open(bundle_path).manifest.members}
