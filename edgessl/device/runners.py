"""What the learner asks of whatever runs the encoder and the training step; onnxruntime does on the device."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgessl.device.bundle.manifest import Manifest
from edgessl.device.storage.tensors import Array

if TYPE_CHECKING:
    from edgessl.device.runtime import SessionProfile

Float = npt.NDArray[np.float32]


class Weights(Protocol):
    """Flat float32 weights (P,) where the runner keeps them."""

    def numpy(self) -> Array:
        """The numbers, perhaps without a copy."""
        ...


class Encoder(Protocol):
    """Embeds samples, or latents where the manifest has a cut, with given weights."""

    def embed(self, theta: Float | Weights, x: Float) -> Float:
        """Embeddings (N, D) float32 of samples `x` (N, *shape); see runtime.EncoderRunner."""
        ...

    def settled(self, theta: Weights) -> Callable[[Float], Float]:
        """What embeds samples (N, *shape) with `theta` alone, as fast as it can be had."""
        ...


class Backbone(Protocol):
    """The frozen part up to the cut."""

    def latents(self, x: Float) -> Float:
        """Latents (N, *latent) float32 of samples `x` (N, *shape); see runtime.BackboneRunner."""
        ...


class Trainer(Protocol):
    """Owns the state and takes training steps; see runtime.StepRunner for what each method promises."""

    manifest: Manifest

    @property
    def theta(self) -> Weights:
        """The current weights; a later step makes a new value and leaves this one be."""
        ...

    @property
    def shown(self) -> Weights:
        """The current weights to embed with: theta, or what the manifest's `embed_slot` names."""
        ...

    def step(
        self, batch: Float, noise: Float, hyper: Mapping[str, float], stored: Float | None = None
    ) -> dict[str, float]:
        """One training step; returns the scalar metrics."""
        ...

    def consolidate(self, samples: Float, probes: Float, hyper: Mapping[str, float]) -> None:
        """What was learned so far becomes the past, remembered samples saying what matters in it."""
        ...

    def undo(self) -> None:
        """Take back the last step (once)."""
        ...

    def slot(self, name: str) -> Array:
        """A copy of one slot; InputError for a name that the manifest does not have."""
        ...

    def state(self) -> dict[str, Array]:
        """Copies of every slot."""
        ...

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over copies of `state`."""
        ...


class Model(Protocol):
    """What a learner opens: a description, a factory state, and something that runs it. A Bundle is one."""

    manifest: Manifest
    digest: str

    def state(self) -> dict[str, Array]:
        """Fresh arrays of the factory state, one per slot of the manifest."""
        ...

    def runners(self, profile: "SessionProfile") -> tuple[Encoder, Trainer]:
        """A new encoder and a new trainer that holds the factory state."""
        ...

    def backbone(self, profile: "SessionProfile") -> Backbone | None:
        """What makes latents of samples; None where the manifest has no cut."""
        ...
