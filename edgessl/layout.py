"""The flat parameter layout: every tensor of a network in ONE float32 vector, `theta`.

A checkpoint, a federated update, a rollback and a teacher are then one array each. Entries are ordered by kind, so that
"everything weight decay touches" or "everything the optimizer moves" is a prefix of `theta` and needs no mask:

    weight      trained, decayed                     (matrices, kernels)
    vector      trained, never decayed               (biases, norm gains, whatever a module names in `no_decay`)
    statistic   running means and variances          (moved by the step's own moving average)
    fixed       never moved by a step                (input normalisation)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edgessl.device.bundle.specs import KINDS, ParameterEntry
from edgessl.errors import ConfigError


@dataclass(frozen=True)
class ParameterLayout:
    """Where each named tensor lives in the flat vector. Immutable; its JSON form travels in the bundle's manifest."""

    entries: tuple[ParameterEntry, ...]

    @classmethod
    def of(cls, module: nn.Module) -> ParameterLayout:
        """The layout of all parameters and buffers of `module`, sorted by kind, then in definition order.

        Raises:
            ConfigError: a buffer is not floating point (it could not live in a float32 vector).
        """
        kinds = _kinds(module)
        tensors = dict(_tensors(module))
        entries, offset = [], 0
        for name in sorted(tensors, key=lambda n: KINDS.index(kinds[n])):
            shape = tuple(tensors[name].shape)
            entries.append(ParameterEntry(name=name, offset=offset, shape=shape, kind=kinds[name]))
            offset += tensors[name].numel()
        return cls(tuple(entries))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return self._end("fixed")

    @cached_property
    def weights_end(self) -> int:
        """`theta[:weights_end]` is what weight decay touches."""
        return self._end("weight")

    @cached_property
    def trained_end(self) -> int:
        """`theta[:trained_end]` is what the optimizer moves."""
        return self._end("vector")

    @cached_property
    def statistics_end(self) -> int:
        """`theta[trained_end:statistics_end]` holds running statistics."""
        return self._end("statistic")

    def _end(self, kind: str) -> int:
        within = KINDS[: KINDS.index(kind) + 1]
        return sum(e.size for e in self.entries if e.kind in within)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate `tensors` (one per entry, any float dtype) to a flat vector `(size,)` of the first one's dtype.

        Raises:
            ConfigError: a name is missing or unknown, or a shape is not the entry's.
        """
        expected = {e.name for e in self.entries}
        if set(tensors) != expected:
            missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
            raise ConfigError(f"flatten: missing tensors {missing}, unknown tensors {unknown}")
        for e in self.entries:
            if tuple(tensors[e.name].shape) != tuple(e.shape):
                raise ConfigError(f"flatten: {e.name} expected shape {e.shape}, found {tuple(tensors[e.name].shape)}")
        return torch.cat([tensors[e.name].reshape(-1) for e in self.entries])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views into `flat` `(size,)` under the entries' names; differentiable."""
        if flat.shape != (self.size,):
            raise ConfigError(f"unflatten: expected a vector of {self.size} numbers, found shape {tuple(flat.shape)}")
        pieces = flat.split([e.size for e in self.entries])
        return {e.name: piece.reshape(e.shape) for e, piece in zip(self.entries, pieces, strict=True)}

    def flatten_module(self, module: nn.Module) -> Tensor:
        """The current values of `module` as a detached float32 flat vector."""
        return self.flatten({n: t.detach().float() for n, t in _tensors(module)}).clone()

    def load_module(self, module: nn.Module, flat: Tensor) -> None:
        """Copy `flat` into the parameters and buffers of `module` (the inverse of `flatten_module`)."""
        values = self.unflatten(flat)
        with torch.no_grad():
            for name, tensor in _tensors(module):
                tensor.copy_(values[name])


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _kinds(module: nn.Module) -> dict[str, str]:
    exempt = {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        for name in getattr(child, "no_decay", ())
    }
    kinds = {n: "vector" if p.ndim <= 1 or n in exempt else "weight" for n, p in module.named_parameters()}
    for name, buffer in module.named_buffers():
        if not buffer.is_floating_point():
            raise ConfigError(f"buffer {name} is {buffer.dtype}; only floating-point tensors fit the flat layout")
        running = name.rsplit(".", 1)[-1] in ("running_mean", "running_var")
        kinds[name] = "statistic" if running else "fixed"
    return kinds
