"""What a device keeps of the fleet between two rounds: a few numbers in a file beside its learned state."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgessl.device.storage import strictjson
from edgessl.device.storage.files import write_atomically
from edgessl.errors import FederationError, StateError
from federated.lineage import BRANCH, FEDERATION

FILE = "fleet.json"
_MOST = 64


@dataclass
class Memory:
    """Which round of which federation this device last answered, and a rule's own numbers.

    Attributes:
        federation: the server's name of the run; "" before the first.
        branch: of the fleet's lineage; it grows when the fleet is rolled back.
        round: the last one answered; 0 for none.
        numbers: what the rule keeps.
    """

    federation: str = ""
    branch: int = 0
    round: int = 0
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> "Memory":
        """Read from a learner's directory; StateError when the file there is damaged."""
        path = directory / FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror or error}") from None
        try:
            top = strictjson.Node(strictjson.parse(data), "", ValueError)
            top.object("federation", "branch", "round", "numbers")
            name = top.key("federation").value
            if not isinstance(name, str) or len(name) > strictjson.MAX_NAME:
                raise ValueError(f"federation: expected a name, found {name!r}")
            branch, number = (top.key(key).integer(0, 1 << 53) for key in ("branch", "round"))
            return cls(name, branch, number, {k: v.number() for k, v in top.key("numbers").members(_MOST).items()})
        except ValueError as error:
            raise StateError(f"{path}: damaged: {error}; delete it, and the device meets the fleet anew") from None

    def save(self, directory: Path) -> None:
        """Write to a learner's directory, whole or not at all."""
        path = directory / FILE
        try:
            write_atomically(path, json.dumps(asdict(self)).encode())
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror or error}") from None

    def meet(self, config: Mapping[str, Any], number: int) -> None:
        """A message of round `number` came with this config.

        Another federation (or one without a name), or another branch of it, is met anew: nothing is remembered. A
        message older than one already answered (replayed, or delayed for long) raises FederationError. The same
        round again is fine: a server that was restarted repeats the round it lost.
        """
        federation, branch = config.get(FEDERATION, ""), config.get(BRANCH, 0)
        if type(federation) is not str or type(branch) is not int or len(federation) > strictjson.MAX_NAME:
            raise FederationError(f"expected names of a federation and a branch, found {federation!r} and {branch!r}")
        if federation and federation == self.federation and (branch, number) < (self.branch, self.round):
            raise FederationError(
                f"round {number} of branch {branch} is past: this device answered round {self.round} of branch "
                f"{self.branch}; an old message was delayed or replayed"
            )
        if not federation or (federation, branch) != (self.federation, self.branch):
            self.federation, self.branch, self.round, self.numbers = federation, branch, 0, {}
