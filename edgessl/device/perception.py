"""What a learner makes of samples: checked, as latents where there is a cut, embedded by the weights of the moment."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgessl.device.drift.statistics import input_statistics
from edgessl.device.runners import Backbone, Encoder, Trainer, Weights
from edgessl.device.samples import Percept, as_batch, in_batches
from edgessl.errors import ParityError, StateError

Float = npt.NDArray[np.float32]
SETTLED_ERROR = 1e-3  # of an embedding's length, at most; roundings in another order make about 1e-6


class _Settled(NamedTuple):
    weights: Weights
    embed: Callable[[Float], Float]


class Perception:
    """Embeds with what `trainer` has learned; any number of threads may, while another trains.

    Weights that change are an input of the encoder's graph. Between learning they do not: `settle` makes them
    constants, which is faster. Whatever becomes of the weights then, embeddings are theirs: a trainer never writes over
    weights that it has shown, so it is enough to see whether they are still the same object.
    """

    def __init__(self, encoder: Encoder, trainer: Trainer, backbone: Backbone | None) -> None:
        self._encoder, self._trainer, self._backbone = encoder, trainer, backbone
        self._manifest = trainer.manifest
        self._settled: _Settled | None = None

    def samples(self, x: Float) -> Float:
        """What is learned from: a batch of the samples in `x`, or of their latents where the manifest has a cut."""
        samples = as_batch(x, self._manifest.input)
        return samples if self._backbone is None else self._backbone.latents(samples)

    def perceive(self, x: Float) -> Percept:
        """Samples, embeddings and statistics of `x`, one sample or a batch."""
        samples = self.samples(x)
        raw = x.reshape(-1, *self._manifest.input.shape)
        return Percept(samples, self.embed(samples), input_statistics(raw), self.is_batch(x))

    def is_batch(self, x: Float) -> bool:
        """Whether `x` is a batch, not one sample."""
        return x.ndim > len(self._manifest.input.shape)

    def embed(self, samples: Float, weights: Weights | None = None) -> Float:
        """Embeddings (N, D) by present or other weights, a training batch at a time so that memory stays bounded.

        Raises StateError when they are not finite.
        """
        weights = self._trainer.shown if weights is None else weights
        settled = self._settled  # once, since another thread may let go of it
        if settled is not None and settled.weights is weights:
            return self._batches(settled.embed, samples)
        return self._batches(lambda x: self._encoder.embed(weights, x), samples)

    @property
    def settled(self) -> bool:
        """Whether present weights are embedded with as constants."""
        return self._settled is not None and self._settled.weights is self._trainer.shown

    def settle(self, samples: Float) -> None:
        """Embed with the present weights as constants until `unsettle`, checked on `samples` (N, *learned), N >= 1.

        Raises ParityError, and changes nothing, when the embeddings differ by more than SETTLED_ERROR of their length.
        """
        weights = self._trainer.shown
        if self.settled:
            return
        found = _Settled(weights, self._encoder.settled(weights))
        exact, z = self.embed(samples, weights), self._batches(found.embed, samples)
        off = np.linalg.norm(z - exact, axis=1) / np.maximum(np.linalg.norm(exact, axis=1), 1e-12)
        if off.max() > SETTLED_ERROR:
            raise ParityError(
                f"settle: with constant weights embeddings are {off.max():.1e} of their length off, expected at most "
                f"{SETTLED_ERROR}; weights stay an input of the encoder"
            )
        self._settled = found

    def unsettle(self) -> None:
        """Let go of what `settle` made, and of its memory."""
        self._settled = None

    def _batches(self, embed: Callable[[Float], Float], samples: Float) -> Float:
        z = in_batches(embed, samples, self._manifest.batch_size)
        if not np.isfinite(z).all():
            raise StateError("the encoder gave NaN or infinity; call rollback() to return to a good generation")
        return z
