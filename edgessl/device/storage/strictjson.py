"""JSON from strangers: parse strictly, then read it field by field with the path in every error."""

import json
import math
from typing import Any, NoReturn

MAX_NAME = 256  # characters in any name


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"key {key!r} appears twice")
        out[key] = value
    return out


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def parse(data: bytes) -> Any:
    """Parse UTF-8 JSON; raise ValueError on anything else, on a duplicate key, NaN, or absurd nesting."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class Node:
    """A JSON value and where it stands; every accessor raises `error` naming the path when it disagrees."""

    def __init__(self, value: Any, path: str, error: type[Exception]) -> None:
        self.value, self.path, self.error = value, path, error

    def fail(self, message: str) -> NoReturn:
        """Raise this node's error, the path first."""
        raise self.error(f"{self.path or 'top level'}: {message}")

    def _found(self) -> str:
        text = repr(self.value)
        return text if len(text) <= 60 else text[:57] + "..."

    def object(self, *only: str) -> dict[str, Any]:
        """The dict here; with `only`, refuse any other key."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {self._found()}")
        if only and (extra := sorted(set(self.value) - set(only))):
            self.fail(f"unknown key {extra[0]!r}; allowed: {', '.join(only)}")
        return self.value

    def key(self, name: str) -> "Node":
        """The member called `name`, which must be there."""
        if name not in self.object():
            self.fail(f"key {name!r} is missing")
        return Node(self.value[name], f"{self.path}.{name}" if self.path else name, self.error)

    def members(self, most: int) -> dict[str, "Node"]:
        """All members of the object by name; at most `most`, names well formed."""
        found = self.object()
        if len(found) > most:
            self.fail(f"{len(found)} entries, at most {most} are allowed")
        for name in found:
            Node(name, f"{self.path} (key)", self.error).text()
        return {name: self.key(name) for name in found}

    def items(self, most: int) -> list["Node"]:
        """The elements of the list here; at most `most`."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {self._found()}")
        if len(self.value) > most:
            self.fail(f"{len(self.value)} entries, at most {most} are allowed")
        return [Node(value, f"{self.path}[{i}]", self.error) for i, value in enumerate(self.value)]

    def text(self, most: int = MAX_NAME) -> str:
        """A non-empty printable string of at most `most` characters."""
        if not isinstance(self.value, str) or not self.value or len(self.value) > most:
            self.fail(f"expected a string of 1 to {most} characters, found {self._found()}")
        if not self.value.isprintable():
            self.fail(f"unprintable characters in {self._found()}")
        return self.value

    def choice(self, *allowed: str) -> str:
        """One of the strings in `allowed`."""
        if self.value not in allowed:
            self.fail(f"expected one of {', '.join(allowed)}, found {self._found()}")
        return str(self.value)

    def integer(self, low: int, high: int) -> int:
        """An integer (no bool, no float) in [low, high]."""
        if type(self.value) is not int or not low <= self.value <= high:
            self.fail(f"expected an integer in [{low}, {high}], found {self._found()}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float):
            self.fail(f"expected a number, found {self._found()}")
        try:
            value = float(self.value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            self.fail("expected a finite number")
        return value
