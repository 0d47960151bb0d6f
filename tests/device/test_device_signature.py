"""Signatures: what is signed is what is opened; the form is that of OpenSSF Model Signing, judged by hand."""

import base64
import hashlib
import json
import logging
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgessl.cli.signing import create_keys, read_private_key, sign
from edgessl.device import Bundle, Trust, pack, read_public_key
from edgessl.device.bundle.archive import write_files
from edgessl.device.bundle.signature import envelope, public_pem, signed_bytes, statement, verify
from edgessl.errors import BundleError, SignatureError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "factory.pem"
    create_keys(path)
    return read_private_key(path)


@pytest.fixture(scope="module")
def trust(keys):
    return Trust((keys.public_key().public_bytes_raw(),))


@pytest.fixture
def signed(kit, keys, tmp_path):
    path = tmp_path / "signed.edgessl"
    pack(path, kit.manifest, kit.members)
    sign(path, keys)
    return path


def stored(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_signed_bundle_opens_and_says_by_whom(signed, keys, trust, bundle):
    opened = Bundle.open(signed, trust)
    pem = public_pem(keys.public_key().public_bytes_raw())
    assert opened.signed_by == hashlib.sha256(pem).hexdigest()
    assert opened.digest == bundle.digest  # learned state still belongs to it
    assert Bundle.open(signed).signed_by is None
    sign(signed, keys)  # again, over the old signature
    assert Bundle.open(signed, trust).signed_by == opened.signed_by


def test_the_form_is_that_of_the_specification(signed, keys):
    """Field by field as `model_signing` 1.1.1 writes it, and DSSE's own example of what is signed."""
    content = json.loads(stored(signed)["model.sig"])
    assert content["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert set(content["verificationMaterial"]) == {"publicKey", "tlogEntries"}
    envelope = content["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    said = json.loads(payload)
    files = {k: hashlib.sha256(v).digest() for k, v in sorted(stored(signed).items()) if k != "model.sig"}
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://model_signing/signature/v1.0"
    assert said["predicate"]["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [],
    }
    assert said["predicate"]["resources"] == [
        {"name": name, "algorithm": "sha256", "digest": digest.hex()} for name, digest in files.items()
    ]
    root = hashlib.sha256(b"".join(files.values())).hexdigest()
    assert said["subject"] == [{"name": "linear-denoising", "digest": {"sha256": root}}]
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    message = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    keys.public_key().verify(signature, message)


def test_unsigned(bundle_path, trust, caplog):
    with pytest.raises(SignatureError, match=r"linear\.edgessl: not signed: there is no model\.sig"):
        Bundle.open(bundle_path, trust)
    with caplog.at_level(logging.WARNING):
        assert Bundle.open(bundle_path, Trust(trust.keys, "warn")).signed_by is None
    assert "opened all the same: not signed" in caplog.text


def test_signed_by_somebody_else(signed):
    other = Trust((Ed25519PrivateKey.generate().public_key().public_bytes_raw(),))
    with pytest.raises(SignatureError, match=r"not signed by a trusted key \(trusted: [0-9a-f]{12}\)"):
        Bundle.open(signed, other)
    assert Bundle.open(signed, Trust(other.keys, "warn")).signed_by is None


def test_one_of_several_keys_will_do(signed, trust):
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert Bundle.open(signed, Trust((other, *trust.keys))).signed_by


def test_a_consistent_forgery_is_refused(signed, kit, trust):
    """A forger may rewrite members and manifest so that they agree: the signature does not."""
    files = stored(signed)
    forged = pack(signed, kit.manifest, kit.members)
    changed = {**forged.files, "model.sig": files["model.sig"]}
    manifest = json.loads(changed["manifest.json"])
    manifest["hyper"]["lr"] = 1e9
    changed["manifest.json"] = json.dumps(manifest).encode()
    write_files(signed, changed)
    assert Bundle.open(signed).manifest.hyper["lr"] == 1e9
    with pytest.raises(SignatureError, match=r"'manifest\.json' was changed after signing"):
        Bundle.open(signed, trust)


def test_the_signature_is_checked_before_the_manifest_is_read(signed, trust):
    files = stored(signed)
    write_files(signed, {**files, "manifest.json": b"not even JSON"})
    with pytest.raises(SignatureError, match=r"'manifest\.json' was changed"):
        Bundle.open(signed, trust)


@pytest.mark.parametrize("change", ["added", "missing"])
def test_files_come_and_go(signed, trust, change):
    files = stored(signed)
    if change == "added":
        files["extra.bin"] = b"x"
    else:
        del files["encoder.int8.onnx"]
    write_files(signed, files)
    with pytest.raises(SignatureError, match=f"was {change} after signing"):
        Bundle.open(signed, trust)


def test_directories_are_signed_too(signed, keys, trust, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in stored(signed).items():
        if name != "model.sig":
            (folder / name).write_bytes(data)
    sign(folder, keys)
    assert Bundle.open(folder, trust).signed_by


def test_huge_signature(signed, trust):
    write_files(signed, {**stored(signed), "model.sig": bytes(2 << 20)})
    with pytest.raises(BundleError, match=r"'model\.sig': 2097152 bytes, at most 1048576"):
        Bundle.open(signed, trust)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_of_the_signed_part_is_noticed(keys, data):
    files = {"a": "00" * 32, "b": "ff" * 32}
    payload = statement("m", files)
    raw = bytearray(envelope(payload, keys.sign(signed_bytes(payload)), keys.public_key().public_bytes_raw()))
    public = (keys.public_key().public_bytes_raw(),)
    assert verify(bytes(raw), files, public)
    start = raw.index(b'"payload": "') + 12
    end = raw.index(b'"', start)
    raw[data.draw(st.integers(start, end - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = base64.b64decode(bytes(raw[start:end]), validate=True)
    except ValueError:
        again = b""
    if again != payload:
        with pytest.raises(SignatureError):
            verify(bytes(raw), files, public)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{}", "key '_type' is missing"),
        (b"[]", "expected an object"),
        (b'{"_type": 1, "subject": [], "predicateType": "", "predicate": {}}', "_type: expected one of"),
        (statement("m", {"a": "00"}).replace(b'"00"', b'"zz"'), "a digest is not hex"),
    ],
)
def test_well_signed_nonsense(keys, payload, says):
    raw = envelope(payload, keys.sign(signed_bytes(payload)), keys.public_key().public_bytes_raw())
    with pytest.raises(SignatureError, match=says):
        verify(raw, {}, (keys.public_key().public_bytes_raw(),))


def test_key_files(tmp_path, keys):
    public = create_keys(tmp_path / "k.pem")
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    assert read_public_key(public) == read_private_key(tmp_path / "k.pem").public_key().public_bytes_raw()
    with pytest.raises(SignatureError, match="File exists"):
        create_keys(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(0o644)
    with pytest.raises(SignatureError, match="others may read it; run chmod 600"):
        read_private_key(tmp_path / "k.pem")
    for wrong in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff"):
        (tmp_path / "wrong").write_bytes(wrong)
        with pytest.raises(SignatureError, match="not an Ed25519 public key"):
            read_public_key(tmp_path / "wrong")
    with pytest.raises(SignatureError, match="at least one"):
        Trust(())


def test_public_keys_are_read_as_the_library_writes_them(tmp_path, keys):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = keys.public_key()
    path = tmp_path / "library.pem"
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert read_public_key(path) == public.public_bytes_raw()
    assert path.read_bytes() == public_pem(public.public_bytes_raw())
