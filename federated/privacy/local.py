"""Local differential privacy: a device trusts nobody and sends noise around its change.

The device's own settings: no server can weaken them. Its budget is on its disk and counted before anything is sent.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgessl.device.storage.state import StateStore
from federated.privacy.budget import GaussianPrivacy, Ledger
from federated.privacy.gaussian import Float, clip, noise

FOLDER = "privacy"  # in the learner's directory


class LocalPrivacy:
    """Releases of one device, (epsilon, delta)-private for all that it learned from, whatever that is.

    Any two changes of theta within the clipping norm C lie at most 2 C apart, so the noise has noise_multiplier x 2 C
    per parameter. `directory` is locked from here to `close()`; errors as `StateStore`.
    """

    def __init__(
        self,
        privacy: GaussianPrivacy,
        directory: str | os.PathLike[str],
        digest: str,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._privacy, self._rng = privacy, rng
        self.ledger = Ledger(privacy, "this device's privacy budget")
        self._store = StateStore(directory, digest)
        try:
            if saved := self._store.load():
                self.ledger.load_state({name: values[0] for name, values in saved.tensors.items()})
        except BaseException:
            self._store.close()
            raise

    def release(self, theta: Float, reference: Float) -> Float:
        """What may be sent in place of theta (P,): noise around the clipped change from `reference` (P,).

        The release is on disk before it is returned: a power loss costs budget, never privacy. FederationError when the
        budget is spent.
        """
        self.ledger.spend()
        self._store.save({name: np.array([value]) for name, value in self.ledger.state().items()})
        change = clip(theta.astype(np.float64) - reference, self._privacy.clipping_norm)
        deviation = self._privacy.noise_multiplier * 2 * self._privacy.clipping_norm
        return (reference + change + noise(len(change), deviation, self._rng)).astype(np.float32)

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        self._store.close()


@contextmanager
def protected(privacy: GaussianPrivacy | None, directory: Path, digest: str) -> Iterator[LocalPrivacy | None]:
    """The mechanism in a learner's directory while a message is answered, if the device wants one.

    FederationError, before anything is learned, when its budget is spent.
    """
    if privacy is None:
        yield None
        return
    local = LocalPrivacy(privacy, directory / FOLDER, digest)
    try:
        local.ledger.check()
        yield local
    finally:
        local.close()
