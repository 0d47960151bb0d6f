"""Mutated inputs for every reader of untrusted bytes: bundle, manifest, signature, graph, tensor file, state, journal.

Input number i of a reader depends on (seed, reader, i) only: what fails can be made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgessl.device.bundle.archive import Bundle
from edgessl.device.bundle.manifest import Manifest
from edgessl.device.bundle.onnxwire import check_graph
from edgessl.device.bundle.signature import envelope, signed_bytes, statement, verify
from edgessl.device.storage import state, tensors
from edgessl.device.storage.journal import CONTEXT, HEADER, RECORD, Journal, Mark

READERS = ("bundle", "manifest", "signature", "graph", "session", "tensors", "state", "journal")
KEY = bytes(range(32))
NUMBERS = (0, 1, -1, 127, 255, 256, 65535, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 64, 1e308, -0.0, 0.5)
VALUES: tuple[Any, ...] = (*NUMBERS, "", "x", "theta", "../x", "\u202e", "\0", None, True, [], {}, [[]], "N", 10**400)
ROWS, ROW = 8, 24

Reader = Callable[[bytes], Any]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Bytes like `data`: flipped, overwritten, cut, inserted, moved, repeated; a few changes at once."""
    out = bytearray(data)
    for _ in range(1 + int(rng.expovariate(0.7))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if out:
                out[place % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[place % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x22, rng.randrange(256)))
            case 2:
                del out[place:]
            case 3:
                del out[place : place + rng.randrange(1, 33)]
            case 4:
                out[place:place] = rng.randbytes(rng.randrange(1, 17))
            case 5:
                width, value = rng.choice((1, 2, 4, 8)), rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1))
                out[place : place + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
            case 6:
                other = rng.randrange(len(out) + 1)
                out[place : place + 16] = out[other : other + 16]
            case _:
                out[place:place] = out[place : place + rng.randrange(1, 65)] * rng.randrange(1, 4)
    return bytes(out)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts changed, removed, added or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        out, key = dict(value), rng.choice(sorted(value))
        match rng.randrange(6):
            case 0:
                del out[key]
            case 1:
                out[rng.choice((key + "x", "", "theta", "\0"))] = out[key]
            case _:
                out[key] = mutate_json(out[key], rng)
        return out
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        match rng.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + value[place : place + 1] * rng.choice((1, 300))
            case _:
                return [*value[:place], mutate_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


class Fuzzer:
    """Inputs and readers; `folder` is for files that a reader wants on disk."""

    def __init__(self, bundle: Path, folder: Path, seed: int) -> None:
        self.seed, self.folder = seed, folder
        whole = Bundle.open(bundle)
        self._manifest = json.loads(whole.files["manifest.json"])
        self._graph = whole.read("encoder.onnx")
        self._files = whole.files
        arrays: dict[str, tensors.Array] = {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.zeros((0, 4), np.int8),
            "c": np.ones(3, bool),
        }
        self._tensors = tensors.dumps(arrays, {"k": "v", "hyper": "{}"})
        self._state = b"".join(state.encode(3, "ab" * 32, tensors.pieces(arrays, {"trial": "1"}), KEY))
        files = {"a": "00" * 32, "b": "11" * 32}
        self._signer = Ed25519PrivateKey.from_private_bytes(KEY)
        public = self._signer.public_key().public_bytes_raw()
        self._statement = statement("m", files)
        self._signature = self._signed(self._statement)
        self._mark = self._journal()
        self.readers: dict[str, tuple[Reader, Callable[[random.Random], bytes]]] = {
            "bundle": (self._read_bundle, self._make_bundle),
            "manifest": (Manifest.from_bytes, self._make_manifest),
            "signature": (lambda data: verify(data, files, (public,)), self._make_signature),
            "graph": (lambda data: check_graph(data, "graph"), lambda rng: mutate(self._graph, rng)),
            "session": (self._read_session, lambda rng: mutate(self._graph, rng)),
            "tensors": (tensors.loads, self._make_tensors),
            "state": (lambda data: state.decode(data, KEY), self._make_state),
            "journal": (self._read_journal, self._make_journal),
        }

    def make(self, reader: str, index: int) -> bytes:
        """Input number `index` for `reader`."""
        return self.readers[reader][1](random.Random(f"{self.seed} {reader} {index}"))

    def read(self, reader: str, data: bytes) -> None:
        """Let `reader` have it."""
        self.readers[reader][0](data)

    def _make_bundle(self, rng: random.Random) -> bytes:
        files = dict(self._files)
        if rng.random() < 0.7:  # inside, and then every checksum made right again
            name = rng.choice(sorted(files))
            if name == "manifest.json":
                files[name] = json.dumps(mutate_json(self._manifest, rng)).encode()
            else:
                files[name] = mutate(files[name], rng)
                manifest = json.loads(files["manifest.json"])
                sha = hashlib.sha256(files[name]).hexdigest()
                manifest["members"][name] = {"bytes": len(files[name]), "sha256": sha}
                files["manifest.json"] = json.dumps(manifest).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        data = buffer.getvalue()
        if rng.random() < 0.5:  # the container: its directory is at the end
            place = rng.choice((0, max(0, len(data) - 600)))
            data = data[:place] + mutate(data[place : place + 600], rng) + data[place + 600 :]
        return data

    def _read_bundle(self, data: bytes) -> None:
        path = self.folder / "fuzzed.edgessl"
        path.write_bytes(data)
        Bundle.open(path)

    def _make_manifest(self, rng: random.Random) -> bytes:
        return self._make_json(json.dumps(self._manifest).encode(), rng)

    def _signed(self, payload: bytes) -> bytes:
        return envelope(payload, self._signer.sign(signed_bytes(payload)), self._signer.public_key().public_bytes_raw())

    def _make_signature(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:  # nonsense, well signed
            return self._signed(self._make_json(self._statement, rng))
        return self._make_json(self._signature, rng)

    def _make_json(self, data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return mutate(data, rng)
        value = json.loads(data)
        for _ in range(1 + int(rng.expovariate(1))):
            value = mutate_json(value, rng)
        return json.dumps(value).encode()

    def _read_session(self, data: bytes) -> None:
        """What passes the walk over the graph goes on to onnxruntime itself."""
        from edgessl.device.runtime import SessionProfile

        check_graph(data, "graph")
        SessionProfile().session(data, "graph")

    def _make_tensors(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutate(self._tensors, rng)
        length = int.from_bytes(self._tensors[:8], "little")
        header = json.dumps(mutate_json(json.loads(self._tensors[8 : 8 + length]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + self._tensors[8 + length :]

    def _make_state(self, rng: random.Random) -> bytes:
        data = bytearray(mutate(self._state, rng))
        start = state.HEADER.size + state.CHECKSUM_BYTES
        if rng.random() < 0.7 and len(data) >= start:  # as somebody with the key would write it
            data[56:64] = (len(data) - start).to_bytes(8, "little")
            data[64:96] = state._checksum(KEY, bytes(data[:64]), bytes(data[start:]))
        return bytes(data)

    def _journal(self) -> Mark:
        journal = Journal(self.folder, "ab" * 32, ROWS, ROW)
        rng = np.random.default_rng(0)
        rows = np.arange(ROWS)
        mark = journal.append(rows, rng.integers(0, 256, (ROWS, ROW), np.uint8))
        self._journal_bytes = journal.path(mark.epoch).read_bytes()
        return mark

    def _make_journal(self, rng: random.Random) -> bytes:
        data = bytearray(mutate(self._journal_bytes, rng))
        size = RECORD.size + ROW
        if rng.random() < 0.5:  # every CRC made right again
            for i in range((len(data) - HEADER.size) // size):
                place = HEADER.size + i * size
                row = int.from_bytes(data[place : place + 4], "little")
                content = bytes(data[place + RECORD.size : place + size])
                crc = zlib.crc32(content, zlib.crc32(CONTEXT.pack(1, i, row)))
                data[place : place + RECORD.size] = RECORD.pack(row, crc)
        return bytes(data)

    def _read_journal(self, data: bytes) -> None:
        (self.folder / "memory.1").write_bytes(data)
        mark = self._mark
        if len(data) > HEADER.size and data[-1] & 1:  # half of them as an authenticated slot would have them
            mark = Mark(1, (len(data) - HEADER.size) // (RECORD.size + ROW), hashlib.sha256(data).hexdigest())
        Journal(self.folder, "ab" * 32, ROWS, ROW).read(mark, np.zeros((ROWS, ROW), np.uint8))
