"""The device's learner on torch: the same loop, memory, drift and guard, with torch where onnxruntime would run.

    model = TorchModel(recipe, spec, step, state, batch_size=64)
    learner = Learner.open(model, "state/")     # as with a bundle, without an export

For comparisons that would need hundreds of exports, and for the test that both back ends learn the same.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from edgessl.checkpoint import Checkpoint
from edgessl.continual.consolidation import consolidated
from edgessl.continual.gradient_ratio import gradient_ratio
from edgessl.device import Component, GraphSpec, Manifest, SessionProfile, TensorSpec
from edgessl.device.bundle.specs import InputSpec, LatentSpec
from edgessl.device.runners import Backbone, Weights
from edgessl.device.slots import Slots
from edgessl.errors import ConfigError
from edgessl.recipe import Recipe
from edgessl.step import TrainStep, hyper_tensors

Array = np.ndarray[Any, np.dtype[Any]]


class TorchModel:
    """What a bundle is to a learner (`edgessl.device.runners.Model`), held in memory and run by torch.

    Args:
        recipe, spec: what the step was built from; they describe it in the manifest.
        step: the training step.
        state: the factory state, every slot of `step`.
        batch_size: samples per training step.
        hyper: overrides of the step's hyperparameters.
        latent: what `step`, the step of a tail, is given; None where it trains everything.
        backbone: makes latents of samples, say onnxruntime's int8 backbone; goes with `latent`.
        ratio_every: steps between two looks at `gradient_ratio`, which go to `ratios`; 0 for none. Each takes
            the time of two steps.
        device: where torch computes, "cpu" or "cuda"; batches, embeddings and states are numpy all the same. A
            `Learner` looks at the weights as numpy after each step, so its models stay on the CPU.
        autocast: dtype to train the networks in; losses and embeddings stay float32.

    Raises:
        ConfigError: unknown hyperparameter, or one of `latent` and `backbone` without the other.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: InputSpec,
        step: TrainStep,
        state: Mapping[str, Tensor],
        *,
        batch_size: int = 32,
        hyper: Mapping[str, float] | None = None,
        latent: LatentSpec | None = None,
        backbone: Backbone | None = None,
        ratio_every: int = 0,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        if (latent is None) != (backbone is None):
            raise ConfigError("a model with a cut needs both the latents' description and the backbone")
        learned = latent.spec if latent else spec
        values = {**step.hyper, **(hyper or {})}
        if unknown := sorted(set(values) - set(step.hyper)):
            raise ConfigError(f"hyper: unknown {unknown[0]!r}; this step has {', '.join(step.hyper)}")
        self.step, self._backbone = step, backbone
        self.ratio_every, self.ratios = ratio_every, list[float]()
        self.device, self.autocast = torch.device(device), autocast
        self._state = {name: state[name].numpy() for name in step.slot_names}
        slots = tuple(TensorSpec(name, array.shape, str(array.dtype)) for name, array in self._state.items())
        batch = TensorSpec("batch", (batch_size, *learned.shape))
        noise = TensorSpec("noise", step.noise_shape(batch_size))
        embedding = TensorSpec("embedding", ("N", step.parts.encoder.embedding_dim))
        stored = TensorSpec("stored", (batch_size, step.parts.encoder.embedding_dim))
        shown = next(slot for slot in slots if slot.name == step.embeds)
        self.manifest = Manifest(
            name="torch",
            input=spec,
            embedding_dim=step.parts.encoder.embedding_dim,
            encoder=Component(recipe.encoder.name, recipe.encoder.options),
            objective=Component(recipe.objective.name, recipe.objective.options),
            optimizer=Component(recipe.optimizer),
            views=tuple(Component(v["name"], v["options"]) for v in step.views.pipeline.to_json()),
            parameters=step.layout.entries,
            slots=slots,
            hyper=values,
            graphs={  # no files: what the learner asks of them are the sizes
                "train": GraphSpec("", (*slots, batch, noise, *((stored,) if step.stores else ())), ()),
                "encoder": GraphSpec("", (shown, TensorSpec("x", ("N", *learned.shape))), (embedding,)),
            },
            latent=latent,
            strategy=Component(recipe.strategy.name, recipe.strategy.options) if recipe.strategy else None,
        )
        digest = hashlib.sha256(self.manifest.to_bytes())
        for name, array in self._state.items():
            digest.update(name.encode() + array.tobytes())
        self.digest = digest.hexdigest()

    @classmethod
    def of(cls, checkpoint: Checkpoint, **options: Any) -> TorchModel:
        """The model of a checkpoint as it was pretrained; `options` are the constructor's."""
        return cls(checkpoint.recipe, checkpoint.input, checkpoint.train_step(), checkpoint.state, **options)

    def state(self) -> dict[str, Array]:
        """Fresh arrays of the factory state."""
        return {name: array.copy() for name, array in self._state.items()}

    def runners(self, profile: SessionProfile) -> tuple[TorchEncoderRunner, TorchStepRunner]:
        """A new encoder and a new trainer; `profile` is onnxruntime's and ignored."""
        return TorchEncoderRunner(self), TorchStepRunner(self)

    def backbone(self, profile: SessionProfile) -> Backbone | None:
        """What makes latents of samples; None without a cut."""
        return self._backbone


class TorchEncoderRunner:
    """`edgessl.device.EncoderRunner` on torch: the encoder in evaluation mode with weights given at each call."""

    def __init__(self, model: TorchModel) -> None:
        # a copy, since training switches the step's own modules between modes, maybe in another thread
        self._encoder = copy.deepcopy(model.step.parts.encoder).eval().to(model.device)
        self._layout, self._device = model.step.layout, model.device

    @torch.no_grad()
    def embed(self, theta: Array | Weights, x: Array) -> Array:
        """Embeddings (N, D) float32 of samples `x` (N, *shape) with flat weights `theta` (P,)."""
        flat = theta if isinstance(theta, Tensor) else torch.from_numpy(np.asarray(theta))
        tensors = self._layout.unflatten(flat.to(self._device))
        own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
        out: Tensor = functional_call(self._encoder, own, (_tensor(x, self._device),))
        return out.cpu().numpy()

    def settled(self, theta: Array | Weights) -> Callable[[Array], Array]:
        """Embeds with `theta` alone, as fast as ever: to torch, weights given at a call are as good as any."""
        return functools.partial(self.embed, theta)


class TorchStepRunner(Slots[Tensor]):
    """`edgessl.device.StepRunner` on torch: owns the state between steps."""

    def __init__(self, model: TorchModel) -> None:
        self._model, self._step = model, model.step
        self._taken = 0
        super().__init__(model.manifest, model.state())

    def _placed(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)

    def _copied(self, value: Tensor) -> Array:
        return value.cpu().numpy().copy()

    def step(
        self, batch: Array, noise: Array, hyper: Mapping[str, float], stored: Array | None = None
    ) -> dict[str, float]:
        """One training step on `batch` (N, *shape), `noise` (N, width) and, where the manifest `stores`, `stored`
        (N, D); returns the scalar metrics."""
        device = self._model.device
        samples, random = (_tensor(a, device) for a in (batch, noise))
        past = None if stored is None else _tensor(stored, device)
        values = hyper_tensors(hyper, device)
        if self._model.ratio_every and self._step.strategy and self._taken % self._model.ratio_every == 0:
            self._model.ratios.append(gradient_ratio(self._step, self._values, samples, random, values, past))
        self._taken += 1
        autocast = self._model.autocast
        gradient = self._step.gradient(self._values, samples, random, values, stored=past, autocast=autocast)
        following, metrics = self._step.update(self._values, gradient, values)
        self._previous, self._values = self._values, {name: t.detach() for name, t in following.items()}
        return {name: float(value) for name, value in metrics.items()}

    def consolidate(self, samples: Array, probes: Array, hyper: Mapping[str, float]) -> None:
        """What was learned so far becomes the past; see `edgessl.device.StepRunner`."""
        self._previous = None
        if self._step.strategy is not None and self._step.strategy.consolidates:
            rows, signs = (_tensor(a, self._model.device) for a in (samples, probes))
            values = hyper_tensors(hyper, self._model.device)
            self._values = consolidated(self._step, self._values, rows, signs, values)
        else:
            self._anchor()


def _tensor(x: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(device)
