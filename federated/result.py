"""What a federation gives: the final weights and what happened in each round; on disk as one file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgessl.device.storage import tensors
from edgessl.device.storage.files import write_atomically
from edgessl.errors import FederationError, FormatError


@dataclass(frozen=True)
class FederationResult:
    """The outcome after the last finished round.

    `theta`: float32 (P,); `rounds`: one dict per finished round: round, clients, failures (node id to
    reason), examples, bytes_down, bytes_up, seconds, and the clients' metrics (loss ...) averaged by examples;
    `seconds`: from the first message to the last.
    """

    theta: npt.NDArray[np.float32]
    rounds: list[dict[str, Any]]
    seconds: float

    def save(self, path: Path, bundle_digest: str) -> None:
        """Write a tensor file with "theta", the bundle's digest and the rounds (as JSON); atomic and synced."""
        metadata = {"bundle": bundle_digest, "seconds": repr(self.seconds)}
        rounds = np.frombuffer(json.dumps(self.rounds).encode(), np.uint8)  # a header of 1 MiB would not hold them all
        try:
            write_atomically(path, tensors.dumps({"theta": self.theta, "rounds": rounds}, metadata))
        except OSError as error:
            raise FederationError(f"{path}: cannot be written: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path, bundle_digest: str) -> "FederationResult":
        """Read what `save` wrote; FederationError when it is damaged or another bundle's."""
        try:
            arrays, metadata = tensors.loads(path.read_bytes())
            found, rounds = metadata["bundle"], json.loads(arrays["rounds"].tobytes())
            result = cls(arrays["theta"], rounds, float(metadata["seconds"]))
        except OSError as error:
            raise FederationError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (FormatError, KeyError, ValueError) as error:
            raise FederationError(f"{path}: not the result of a federation: {error}") from None
        if found != bundle_digest:
            raise FederationError(
                f"{path}: weights of bundle {found[:12]}, expected {bundle_digest[:12]}; open that bundle"
            )
        return result
