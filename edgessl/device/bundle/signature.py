"""Who made a bundle: an Ed25519 signature over the SHA-256 of every file, checked before anything else is believed.

The file `model.sig` has the form of the OpenSSF Model Signing specification 1.0 (a Sigstore bundle with a DSSE
envelope around an in-toto statement), with a bare key. https://github.com/ossf/model-signing-spec
"""

import base64
import binascii
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgessl.device.storage import strictjson
from edgessl.errors import MissingDependencyError, SignatureError

SIGNATURE_FILE = "model.sig"
MAX_SIGNATURE_BYTES = 1 << 20
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
_DER = bytes.fromhex("302a300506032b6570032100")  # what stands before a raw Ed25519 key in a SubjectPublicKeyInfo
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trust:
    """Whose bundles are accepted. `keys`: raw Ed25519 public keys (32 bytes each), one of which must have signed.

    `policy`: "require" refuses a bundle that none of them signed; "warn" logs a warning and opens it.
    """

    keys: tuple[bytes, ...]
    policy: Literal["require", "warn"] = "require"

    def __post_init__(self) -> None:
        if not self.keys or any(len(key) != 32 for key in self.keys):
            raise SignatureError("trust: expected at least one Ed25519 public key of 32 bytes, see read_public_key")
        if self.policy not in ("require", "warn"):
            raise SignatureError(f"trust: policy {self.policy!r}; expected require or warn")

    def check(self, signature: bytes | None, files: Mapping[str, bytes]) -> str | None:
        """The id of the key that signed `files` (by name), None when nobody did and the policy lets that pass."""
        try:
            if signature is None:
                raise SignatureError(f"not signed: there is no {SIGNATURE_FILE}")
            return verify(signature, digests(files), self.keys)
        except (SignatureError, MissingDependencyError) as error:
            if self.policy == "require":
                raise
            _log.warning("opened all the same: %s", error)
            return None


def read_public_key(path: str | os.PathLike[str]) -> bytes:
    """The raw 32 bytes of an Ed25519 public key in a PEM file; SignatureError when it is anything else."""
    try:
        with open(path, "rb") as file:
            text = file.read(4096).decode("ascii").strip()
        body = text.removeprefix("-----BEGIN PUBLIC KEY-----").removesuffix("-----END PUBLIC KEY-----")
        der = base64.b64decode("".join(body.split()), validate=True)
    except OSError as error:
        raise SignatureError(f"public key {os.fspath(path)}: {error.strerror or error}") from None
    except ValueError:
        der = b""
    if not der.startswith(_DER) or len(der) != len(_DER) + 32:
        raise SignatureError(f"public key {os.fspath(path)}: not an Ed25519 public key in PEM")
    return der.removeprefix(_DER)


def public_pem(key: bytes) -> bytes:
    """A raw public key as PEM."""
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(_DER + key) + b"\n-----END PUBLIC KEY-----\n"


def key_id(key: bytes) -> str:
    """Hex SHA-256 of the key's PEM: the hint that a signature carries."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Hex SHA-256 of every file but the signature."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != SIGNATURE_FILE}


def statement(name: str, files: Mapping[str, str]) -> bytes:
    """The in-toto statement about `files` (name to hex SHA-256) of the bundle called `name`."""
    resources = [{"name": n, "algorithm": "sha256", "digest": files[n]} for n in sorted(files)]
    subject = {"name": name, "digest": {"sha256": _root(files)}}
    predicate = {"serialization": SERIALIZATION, "resources": resources}
    whole = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": predicate}
    return json.dumps(whole, indent=2).encode()


def envelope(payload: bytes, signature: bytes, key: bytes) -> bytes:
    """The contents of `model.sig`."""
    content = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def signed_bytes(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of the payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def verify(signature: bytes, files: Mapping[str, str], keys: tuple[bytes, ...]) -> str:
    """The id of the first of `keys` that signed exactly `files` (name to hex SHA-256); SignatureError if none did."""
    payload, made = _open(signature)
    signer = next((key for key in keys if _made_by(key, made, signed_bytes(payload))), None)
    if signer is None:
        known = ", ".join(key_id(key)[:12] for key in keys)
        raise SignatureError(f"{SIGNATURE_FILE}: not signed by a trusted key (trusted: {known}); get the bundle anew")
    stated = _stated(payload)
    if wrong := sorted(set(stated.items()) ^ set(files.items())):
        name = wrong[0][0]
        what = "changed" if name in files and name in stated else "added" if name in files else "missing"
        raise SignatureError(f"{SIGNATURE_FILE}: {name!r} was {what} after signing; get the bundle anew")
    return key_id(signer)


def hint(signature: bytes) -> str:
    """The id of the key that `model.sig` says it was made with; nothing is verified."""
    top = _node(signature)
    return top.key("verificationMaterial").key("publicKey").key("hint").text()


def _open(signature: bytes) -> tuple[bytes, bytes]:
    """Payload and raw signature of an envelope."""
    top = _node(signature)
    top.object("mediaType", "verificationMaterial", "dsseEnvelope")
    top.key("mediaType").choice(MEDIA_TYPE)
    dsse = top.key("dsseEnvelope")
    dsse.object("payload", "payloadType", "signatures")
    dsse.key("payloadType").choice(PAYLOAD_TYPE)
    made = dsse.key("signatures").items(1)
    if len(made) != 1:
        dsse.fail("expected one signature")
    try:
        parts = [n.text(MAX_SIGNATURE_BYTES) for n in (dsse.key("payload"), made[0].key("sig"))]
        payload, raw = (base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError):
        dsse.fail("expected base64")
    return payload, raw


def _stated(payload: bytes) -> dict[str, str]:
    """File name to SHA-256 as the statement has them."""
    top = _node(payload)
    top.object("_type", "subject", "predicateType", "predicate")
    top.key("_type").choice(STATEMENT_TYPE)
    top.key("predicateType").choice(PREDICATE_TYPE)
    predicate = top.key("predicate")
    predicate.object("serialization", "resources")
    serialization = predicate.key("serialization")
    serialization.key("method").choice("files")
    serialization.key("hash_type").choice("sha256")
    stated: dict[str, str] = {}
    for node in predicate.key("resources").items(256):
        node.object("name", "algorithm", "digest")
        node.key("algorithm").choice("sha256")
        name = node.key("name").text()
        if name in stated:
            node.fail(f"{name!r} appears twice")
        stated[name] = node.key("digest").text(64)
    subjects = top.key("subject").items(1)
    if len(subjects) != 1 or subjects[0].key("digest").key("sha256").text(64) != _root(stated):
        top.fail("the subject's digest is not that of the resources")
    return stated


def _root(files: Mapping[str, str]) -> str:
    """SHA-256 over the files' SHA-256 in the order of their names."""
    try:
        return hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()
    except ValueError:
        raise SignatureError(f"{SIGNATURE_FILE}: a digest is not hex") from None


def _made_by(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise MissingDependencyError(
            "signatures are verified with the package cryptography; run: pip install 'edgessl[secure]'"
        ) from None
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _node(data: bytes) -> strictjson.Node:
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"{SIGNATURE_FILE}: {len(data)} bytes, at most {MAX_SIGNATURE_BYTES} are allowed")
    try:
        return strictjson.Node(strictjson.parse(data), SIGNATURE_FILE, SignatureError)
    except ValueError as error:
        raise SignatureError(f"{SIGNATURE_FILE}: not valid JSON: {error}") from None
