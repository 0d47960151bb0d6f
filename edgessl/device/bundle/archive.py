"""The bundle: one verified artefact: graphs, factory state and their description (docs/bundle.md)."""

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgessl.device.bundle.manifest import MAX_MANIFEST_BYTES, STATE_FILE, Manifest
from edgessl.device.bundle.onnxwire import check_graph
from edgessl.device.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, Trust
from edgessl.device.bundle.specs import MAX_BYTES, MemberSpec
from edgessl.device.storage import tensors
from edgessl.device.storage.files import write_atomically
from edgessl.errors import BundleError, FormatError

if TYPE_CHECKING:
    from edgessl.device.runtime import BackboneRunner, EncoderRunner, SessionProfile, StepRunner

MANIFEST_FILE = "manifest.json"
MAX_FILES = 34  # the manifest, at most 32 members, and a signature
MAX_TOTAL_BYTES = 2 << 30
_DATE = (1980, 1, 1, 0, 0, 0)


class Bundle:
    """A bundle read fully and verified: sizes and SHA-256 as the manifest says, graphs that stand alone.

    `manifest`: the Manifest; `digest`: hex SHA-256 of manifest.json, the bundle's identity; `signature`: the bytes
    of its signature, None without; `signed_by`: the id of the trusted key that made it, None where none was asked for.
    """

    def __init__(self, files: Mapping[str, bytes], trust: Trust | None = None) -> None:
        """`files`: every file by name, manifest.json too; raises BundleError when they do not agree.

        With `trust`, the signature is checked first; SignatureError as its policy says.
        """
        self.signature = files.get(SIGNATURE_FILE)
        files = {name: data for name, data in files.items() if name != SIGNATURE_FILE}
        self.signed_by = None if trust is None else trust.check(self.signature, files)
        if MANIFEST_FILE not in files:
            raise BundleError(f"{MANIFEST_FILE} is missing: this is not an edgessl bundle")
        self.manifest = Manifest.from_bytes(files[MANIFEST_FILE])
        self._manifest_bytes = files[MANIFEST_FILE]
        self.digest = hashlib.sha256(self._manifest_bytes).hexdigest()
        self._members = {name: data for name, data in files.items() if name != MANIFEST_FILE}
        listed = self.manifest.members
        if missing := sorted(set(listed) - set(self._members)):
            raise BundleError(f"member {missing[0]!r} is listed in the manifest but not there")
        if extra := sorted(set(self._members) - set(listed)):
            raise BundleError(f"file {extra[0]!r} is there but not listed in the manifest")
        for name, spec in listed.items():
            data = self._members[name]
            if len(data) != spec.bytes:
                raise BundleError(f"member {name!r}: {len(data)} bytes, the manifest says {spec.bytes}")
            if hashlib.sha256(data).hexdigest() != spec.sha256:
                raise BundleError(f"member {name!r}: SHA-256 disagrees with the manifest; the bundle was altered")
        for graph in self.manifest.graphs.values():
            check_graph(self._members[graph.file], f"member {graph.file!r}")
        self.state()

    @classmethod
    def open(cls, path: str | os.PathLike[str], trust: Trust | None = None) -> "Bundle":
        """Read `path`, a .edgessl file or a directory; raises BundleError naming what is wrong with it.

        With `trust`, a bundle that none of its keys signed raises SignatureError, or a warning, as it says.
        """
        try:
            files = _read_directory(Path(path)) if os.path.isdir(path) else _read_zip(Path(path))
            return cls(files, trust)
        except BundleError as error:
            raise type(error)(f"{os.fspath(path)}: {error}") from None
        except OSError as error:
            raise BundleError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from None

    @property
    def files(self) -> dict[str, bytes]:
        """Every file by name but the signature."""
        return {MANIFEST_FILE: self._manifest_bytes, **self._members}

    def read(self, member: str) -> bytes:
        """The bytes of a member; BundleError when the manifest lists no such member."""
        if member not in self._members:
            raise BundleError(f"no member {member!r}; there are {', '.join(sorted(self._members))}")
        return self._members[member]

    def state(self) -> dict[str, tensors.Array]:
        """Fresh arrays of the factory state, one per slot of the manifest, all finite."""
        try:
            state, _ = tensors.loads(self._members[STATE_FILE])
        except FormatError as error:
            raise BundleError(f"member {STATE_FILE!r}: {error}") from None
        check_state(self.manifest, state, f"member {STATE_FILE!r}", BundleError)
        return state

    def runners(self, profile: "SessionProfile") -> tuple["EncoderRunner", "StepRunner"]:
        """The graphs in onnxruntime: what embeds, and what trains from the factory state; see `runners.Model`."""
        from edgessl.device.runtime import EncoderRunner, StepRunner  # which imports this module

        return EncoderRunner(self, profile), StepRunner(self, profile)

    def backbone(self, profile: "SessionProfile") -> "BackboneRunner | None":
        """The frozen part up to the cut in onnxruntime; None where the bundle has no cut."""
        from edgessl.device.runtime import BackboneRunner

        return BackboneRunner(self, profile) if self.manifest.latent else None


def check_state(manifest: Manifest, state: Mapping[str, tensors.Array], where: str, error: type[Exception]) -> None:
    """Raise `error` unless `state` has exactly the manifest's slots, with their shapes and dtypes, finite."""
    if set(state) != {s.name for s in manifest.slots}:
        wanted = sorted(s.name for s in manifest.slots)
        raise error(f"{where}: expected slots {wanted}, found {sorted(state)}")
    for slot in manifest.slots:
        array = state[slot.name]
        if array.shape != slot.shape or array.dtype != slot.dtype:
            found = f"{array.dtype}{list(array.shape)}"
            raise error(f"{where}: slot {slot.name!r}: expected {slot.dtype}{list(slot.shape)}, found {found}")
        if not np.isfinite(array).all():
            raise error(f"{where}: slot {slot.name!r} holds NaN or infinite numbers")


def pack(path: str | os.PathLike[str], manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Write a bundle file and return it opened; the manifest's member table is filled in here.

    The same manifest and members give the same bytes. Written beside `path`, synced and renamed:
    a crash leaves the old file or the new one. Raises BundleError on I/O errors and when parts do not fit.
    """
    table = {name: MemberSpec(len(data), hashlib.sha256(data).hexdigest()) for name, data in members.items()}
    files = {MANIFEST_FILE: replace(manifest, members=table).to_bytes(), **members}
    bundle = Bundle(files)
    write_files(path, files)
    return bundle


def write_files(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write the zip file of a bundle, the manifest first; see `pack`. BundleError when the disk refuses."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in (MANIFEST_FILE, *sorted(set(files) - {MANIFEST_FILE})):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same bytes on every platform
            archive.writestr(info, files[name])
    target = Path(path)
    try:
        write_atomically(target, buffer.getbuffer())
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error.strerror or error}") from None


def _read_zip(path: Path) -> dict[str, bytes]:
    size = path.stat().st_size
    if size > MAX_TOTAL_BYTES:
        raise BundleError(f"{size} bytes, at most {MAX_TOTAL_BYTES} are allowed")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for e in entries:
                if e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size or e.flag_bits & 1:
                    raise BundleError(f"member {e.orig_filename!r} is compressed or encrypted; store it plainly")
            _check_listing([(e.orig_filename, e.file_size) for e in entries], size)
            return {e.orig_filename: archive.read(e) for e in entries}
    except (BundleError, OSError):
        raise
    except Exception as error:  # zipfile raises half a dozen types on damaged archives
        raise BundleError(f"not a readable zip file ({error}); truncated or damaged?") from None


def _read_directory(path: Path) -> dict[str, bytes]:
    found = []
    for entry in os.scandir(path):
        info = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            raise BundleError(f"member {entry.name!r} is not a regular file")
        found.append((entry.name, info.st_size))
    _check_listing(found, MAX_TOTAL_BYTES)
    files = {}
    for name, size in found:
        with open(os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
            files[name] = source.read(size + 1)
    return files


def _check_listing(entries: list[tuple[str, int]], most: int) -> None:
    """Refuse, before anything is read, names that are not plain or repeat, and sizes beyond the caps."""
    if len(entries) > MAX_FILES:
        raise BundleError(f"{len(entries)} files, at most {MAX_FILES} are allowed")
    names = [name for name, _ in entries]
    for name in names:
        if not name or name.startswith(".") or any(c in name for c in "/\\:\0"):
            raise BundleError(f"unsafe member name {name!r}: plain file names only")
        if names.count(name) > 1:
            raise BundleError(f"member {name!r} appears twice")
    for name, size in entries:
        cap = {MANIFEST_FILE: MAX_MANIFEST_BYTES, SIGNATURE_FILE: MAX_SIGNATURE_BYTES}.get(name, MAX_BYTES)
        if size > cap:
            raise BundleError(f"member {name!r}: {size} bytes, at most {cap} are allowed")
    if (total := sum(size for _, size in entries)) > most:
        raise BundleError(f"members of {total} bytes in all, more than the {most} that are there or allowed")
