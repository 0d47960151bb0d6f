"""Fetching a bundle over HTTP: resumed where it broke off, never larger than agreed, verified before it is there."""

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from edgessl.device.bundle.archive import MAX_TOTAL_BYTES, Bundle
from edgessl.device.bundle.signature import Trust
from edgessl.device.storage.files import sync_directory, write_atomically
from edgessl.errors import BundleError, DownloadError

CHUNK = 1 << 16


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    trust: Trust | None = None,
    max_bytes: int = MAX_TOTAL_BYTES,
    attempts: int = 5,
    pause_seconds: float = 1.0,
    timeout: float = 30.0,
) -> Bundle:
    """Fetch the bundle at `url` (http or https) into `target` and return it opened.

    The file must have the hex `sha256`, or be signed by one of the keys of `trust`, or both. What has arrived lies in
    `target`.part and is gone on from, by a later call too, if the server says that it still has the same file; the
    wait between `attempts` doubles from `pause_seconds`. `target` appears, or is replaced, once all was verified.

    Raises DownloadError when the server refuses, sends too much, or does not finish; BundleError (SignatureError) when
    what it sent is not the bundle that was asked for: then the part is thrown away.
    """
    if sha256 is None and trust is None:
        raise DownloadError("download: give the sha256 of the file, or the keys to trust; nothing else says what it is")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: expected an http or https address")
    target = Path(target)
    part = target.with_name(f"{target.name}.part")
    failure = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        try:
            _fetch(url, part, max_bytes, timeout)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 416, 429):
                raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from None
            failure = f"the server says {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            failure = f"{type(error).__name__}: {error}"
    else:
        raise DownloadError(
            f"{url}: not complete after {attempts} attempts; {failure}; another call goes on from there"
        )
    try:
        _verify(part, sha256)
        bundle = Bundle.open(part, trust)
    except BundleError:
        _discard(part)
        raise
    os.replace(part, target)
    sync_directory(target.parent)
    _discard(part)
    return bundle


def _fetch(url: str, part: Path, max_bytes: int, timeout: float) -> None:
    """Get what is missing of `part`; OSError or HTTPException when that is cut short."""
    there, validator = _before(part)
    headers = {"Accept-Encoding": "identity"}
    if there and validator:
        headers |= {"Range": f"bytes={there}-", "If-Range": validator}
    try:
        answer = urllib.request.build_opener(urllib.request.HTTPHandler, urllib.request.HTTPSHandler).open(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is here is no beginning of what is there
            _discard(part)
        raise
    with answer:
        resumed = answer.status == 206
        if resumed and not (answer.headers["Content-Range"] or "").startswith(f"bytes {there}-"):
            _discard(part)
            raise http.client.HTTPException("the server sent another part of the file than it was asked for")
        there = there if resumed else 0
        length = answer.headers["Content-Length"]
        if length is None or not length.isdecimal():
            raise DownloadError(f"{url}: the server does not say how long the file is")
        total = there + int(length)
        if total > max_bytes:
            raise DownloadError(f"{url}: {total} bytes, at most {max_bytes} are allowed")
        if not resumed:
            mark = answer.headers["ETag"] or answer.headers["Last-Modified"] or ""
            write_atomically(_validator(part), ("" if mark.startswith("W/") else mark).encode())
        with open(part, "r+b" if resumed else "wb") as out:
            out.seek(there)
            out.truncate()
            while there < total and (chunk := answer.read(min(CHUNK, total - there))):
                out.write(chunk)
                there += len(chunk)
            out.flush()
            os.fsync(out.fileno())
        if there < total:
            raise http.client.IncompleteRead(b"", total - there)


def _before(part: Path) -> tuple[int, str]:
    """How much an earlier attempt left, and the server's name for that version of the file."""
    try:
        return part.stat().st_size, _validator(part).read_text()
    except OSError:
        return 0, ""


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _discard(part: Path) -> None:
    for path in (part, _validator(part)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _verify(part: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise BundleError(f"{part}: SHA-256 is {found}, not {sha256}: not the file that was announced")
