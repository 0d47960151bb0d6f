"""The parent's end of a worker process that answers JSON lines with JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import edgessl


class WorkerError(Exception):
    """The worker answered with an error, died or ran out of time; the text says which."""


class Worker:
    """`python -m <module>` with pipes; a context manager that ends the process.

    Args:
        module: what to run; it reads a line and answers a line.
        environment: variables on top of this process's own.
        timeout_s: longest wait for one answer.
        python: another interpreter than this one.
    """

    def __init__(
        self, module: str, environment: dict[str, str], timeout_s: float, python: str = sys.executable
    ) -> None:
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        root = str(Path(edgessl.__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one line, return the answer.

        Raises:
            WorkerError: there is no answer, or it is an error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self._timeout_s, self._process.kill)
        timer.start()
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            why = f"no answer within {self._timeout_s:g} s" if late else self._last_words()
            raise WorkerError(why)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return f"the worker ended with code {code}: {lines[-1] if lines else 'nothing on stderr'}"

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._stderr.close()
