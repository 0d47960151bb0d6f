"""One lane of an integer network that learns sample by sample: its rules, its weights as one vector, its state."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.errors import InputError
from neuromorphic.espp import APART, EchoLearner
from neuromorphic.network import IntegerNetwork
from neuromorphic.plastic import embed, frozen, plastic_names, relearned, with_silent
from neuromorphic.simulator import make_simulator

Array = np.ndarray[Any, np.dtype[Any]]
WEIGHT_RANGE = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-255, 0)}


class PlasticEngine:
    """A network with plastic connections, presented with one sample after another.

    Args:
        network: what learns; a network of `espp.echo_network` is driven as one.
        population: whose mean rate is told.
        engine: see `simulator.make_simulator`.
    """

    def __init__(self, network: IntegerNetwork, population: str, engine: str) -> None:
        self.network, self.population, self._engine = network, population, engine
        self._plastic = plastic_names(network)
        echoes = any(i.name == APART for i in network.inputs)
        self._echo = EchoLearner(network, engine=engine) if echoes else None
        self._simulator = self._echo.simulator if self._echo else make_simulator(network, engine=engine)
        self._frozen: IntegerNetwork | None = None

    def present(self, spikes: Array, goes_on: bool) -> dict[str, float]:
        """Learn from one sample (steps, n); what it did: the rate, and what the rule says of itself."""
        self._frozen = None
        if self._echo is not None:
            report = self._echo.present(spikes, goes_on)
            return {"rate": report.rate, "similarity": report.similarity, "updates": report.updates}
        record = self._simulator.run(with_silent(self.network, spikes[None]), spikes=[self.population])
        changes = sum(int(n.sum()) for n in record.counts.weight_changes.values())
        return {"rate": float(np.mean(record.spikes[self.population] != 0)), "weight_changes": float(changes)}

    def embed(self, samples: Array, bins: int) -> Array:
        """Mean spikes of the population, (N, bins * n) float32, with the weights as they are now."""
        if self._frozen is None:
            self._frozen = frozen(self.network, self._weights())
        return embed(self._frozen, samples, self.population, bins, engine=self._engine)

    @property
    def current(self) -> IntegerNetwork:
        """The network with the weights it has now, still plastic."""
        return relearned(self.network, self._weights())

    @property
    def theta(self) -> Array:
        """A copy of all plastic weights, (P,) float32, connection after connection, post neurons first."""
        return np.concatenate([weights.ravel() for weights in self._weights().values()]).astype(np.float32)

    def adopt(self, theta: Array) -> None:
        """Replace the plastic weights, rounded to integers and clipped to their range.

        Raises:
            InputError: another shape or dtype, or numbers that are not finite; nothing was changed.
        """
        size = sum(self.network.connection(name).weights.size for name in self._plastic)
        if not isinstance(theta, np.ndarray) or theta.dtype != np.float32 or theta.shape != (size,):
            found = f"{theta.dtype}{list(theta.shape)}" if isinstance(theta, np.ndarray) else type(theta).__name__
            raise InputError(f"adopt: theta must be float32[{size}], found {found}")
        if not np.isfinite(theta).all():
            raise InputError("adopt: theta has NaN or infinity; refused")
        state, start = self._simulator.state(), 0
        for name in self._plastic:
            c = self.network.connection(name)
            part = np.rint(theta[start : start + c.weights.size]).reshape(c.weights.shape)
            start += c.weights.size
            state[f"{name}.weights"] = np.clip(part, *WEIGHT_RANGE[c.sign]).T[None].astype(np.int32)
        self._simulator.restore(state)
        self._frozen = None

    def state(self) -> dict[str, Array]:
        """Everything that changes."""
        return self._echo.state() if self._echo else self._simulator.state()

    def restore(self, state: dict[str, Array]) -> None:
        """Go back to what `state` returned."""
        if self._echo:
            self._echo.restore(state)
        else:
            self._simulator.restore(state)
        self._frozen = None

    def _weights(self) -> dict[str, Array]:
        return {name: self._simulator.weights(name)[0] for name in self._plastic}
