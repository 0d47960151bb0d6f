"""The process that reads mutated inputs: watched for wrong exceptions, hangs, executions and reads elsewhere."""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from edgessl.bench.faults.fuzz import READERS, Fuzzer
from edgessl.errors import EdgeSSLError

HANG_S = 5.0
WARM_UP = 50
MEMORY_BYTES = 3 << 30  # address space: an input that asks for more is a crash
SUSPECT = (
    "exec",
    "compile",
    "import",
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)


class Hang(BaseException):
    """An input took longer than HANG_S."""


def main() -> None:
    """Answer JSON lines {reader, first, count} until stdin ends; the first line says bundle and seed."""
    job = json.loads(sys.stdin.readline())
    with TemporaryDirectory(prefix="edgessl-fuzz-", dir=job["folder"]) as folder:
        fuzzer = Fuzzer(Path(job["bundle"]), Path(folder), job["seed"])
        for reader in READERS:  # every lazy import happens now
            for index in range(-WARM_UP, 0):
                _outcome(fuzzer, reader, fuzzer.make(reader, index))
        executions = _watch(folder)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGALRM, _alarm)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            before, refused, failures = len(executions), 0, []
            for index in range(asked["first"], asked["first"] + asked["count"]):
                data = fuzzer.make(asked["reader"], index)
                kind, what = _outcome(fuzzer, asked["reader"], data)
                refused += kind == "refused"
                if kind in ("crash", "hang"):
                    failures.append({"index": index, "kind": kind, "what": what})
            answer = {"refused": refused, "failures": failures, "executions": executions[before:]}
            print(json.dumps(answer), flush=True)


def _outcome(fuzzer: Fuzzer, reader: str, data: bytes) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        fuzzer.read(reader, data)
    except EdgeSSLError as error:
        return "refused", str(error)
    except Hang:
        return "hang", f"longer than {HANG_S} s"
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read", ""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def _watch(folder: str) -> list[str]:
    """What the interpreter's audit events say was executed, or opened outside of `folder`, from now on."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in SUSPECT:
            seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
            if not path.startswith((folder, "/proc/")):
                seen.append(f"open {path}")

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    main()
