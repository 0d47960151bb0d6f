"""A trainer's state between steps: values of its back end, one a slot, and those before the last step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from edgessl.device.bundle.archive import check_state
from edgessl.device.bundle.manifest import Manifest
from edgessl.device.storage.tensors import Array
from edgessl.errors import InputError

Value = TypeVar("Value")


class Slots(ABC, Generic[Value]):
    """What every trainer does with its state: hold it, give copies, take a step back.

    A step puts what it made into `_values` and what was there into `_previous`; it writes over neither.
    """

    def __init__(self, manifest: Manifest, state: Mapping[str, Array]) -> None:
        self.manifest = manifest
        self._values: dict[str, Value] = {}
        self._previous: dict[str, Value] | None = None
        self.load(state)

    @abstractmethod
    def _placed(self, array: Array) -> Value:
        """`array`, which nobody else holds, where the back end wants it."""

    @abstractmethod
    def _copied(self, value: Value) -> Array:
        """The numbers of `value` in an array of their own."""

    @property
    def theta(self) -> Value:
        """The current flat weights, without a copy; a later step makes a new value and leaves this one be."""
        return self._values["theta"]

    @property
    def shown(self) -> Value:
        """The current flat weights to embed with, without a copy."""
        return self._values[self.manifest.embed_slot]

    def undo(self) -> None:
        """Take back the last step (once)."""
        if self._previous is None:
            raise InputError("there is no step to take back")
        self._values, self._previous = self._previous, None

    def slot(self, name: str) -> Array:
        """A copy of one slot; InputError for a name that the manifest does not have."""
        if name not in self._values:
            raise InputError(f"slot {name!r} is not in this bundle; it has {', '.join(self._values)}")
        return self._copied(self._values[name])

    def state(self) -> dict[str, Array]:
        """Copies of every slot."""
        return {name: self._copied(value) for name, value in self._values.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over copies of `state`; InputError unless it has the manifest's slots, all finite."""
        check_state(self.manifest, state, "state", InputError)
        self._values = {s.name: self._placed(np.array(state[s.name], order="C")) for s in self.manifest.slots}
        self._previous = None

    def _anchor(self) -> None:
        """A slot `anchor` of theta's shape, where there is one, becomes theta."""
        shapes = {slot.name: slot.shape for slot in self.manifest.slots}
        if shapes.get("anchor") == shapes["theta"]:
            self._values = {**self._values, "anchor": self.theta}
