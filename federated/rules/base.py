"""What a device does with the fleet's weights before it learns on, and what it says afterwards."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgessl.device import Learner, ParameterEntry
from federated.rules.memory import Memory

Float = npt.NDArray[np.float32]
Layout = Sequence[ParameterEntry]


class Rule(ABC):
    """A client rule. Frozen dataclasses derive it; their fields, all float, come from the server.

    The default is FedAvg's: take the fleet's weights, send what they became. What a rule needs from round to round
    is in `memory.numbers`; what it needs of weights, the learner has.
    """

    name: ClassVar[str]

    def adopt(self, learner: Learner, fleet: Float, number: int, memory: Memory) -> None:
        """Give the learner the weights from which round `number` starts there; InputError as Learner.adopt.

        The bundle's slot `fleet`, where it has one, becomes the fleet's weights whatever the rule makes of them.
        """
        layout = learner.bundle.manifest.parameters
        learner.adopt(self.start(learner.theta, fleet, number, memory, layout), fleet)

    def start(self, own: Float, fleet: Float, number: int, memory: Memory, layout: Layout) -> Float:
        """The weights (P,) to start from, of the device's `own` (P,) and the fleet's (P,)."""
        return fleet

    def learned(self, before: Float, after: Float, memory: Memory, layout: Layout) -> None:
        """The device learned: its weights (P,) before and after."""
        return None

    def reply(self, learner: Learner) -> Float:
        """The weights (P,) that go to the server."""
        return learner.theta


def trained(layout: Layout, *, without: str = "") -> npt.NDArray[np.bool_]:
    """Which of the flat weights (P,) a step trains, those of the part `without` left out."""
    mask = np.zeros(sum(entry.size for entry in layout), bool)
    for entry in layout:
        own = entry.kind in ("weight", "vector") and not (without and entry.name.startswith(without + "."))
        mask[entry.offset : entry.offset + entry.size] = own
    return mask
