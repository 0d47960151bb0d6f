"""A spiking device, shaped as the dense Learner: an integer network that observes, learns locally, survives power loss.

    with SpikingLearner.open("coder.network", "state", steps=30) as learner:
        z = learner.observe(spikes)              # (N, 30, n) of 0 and 1 -> embeddings (N, D)
        learner.learn(max_seconds=0.2)           # the network's own rules, one pending sample at a time, no replay
        learner.enroll(spikes[0], "seven"); learner.classify(spikes[1])
        learner.save(); learner.rollback()

The methods, errors and the state directory (two slots, checksums, a generation number) are those of
`edgessl.device.Learner`, so that a stream or a federation can swap one for the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.device.heads.classifiers import TEMPERATURE
from edgessl.device.heads.few_label import Prediction, answers, check_label
from edgessl.device.loop import LearnReport
from edgessl.device.storage.state import Saved, StateStore
from edgessl.errors import ConfigError, InputError, StateError, StateMismatchError
from neuromorphic.device_loop import SpikingLoop
from neuromorphic.device_settings import Pending, Settings
from neuromorphic.network import IntegerNetwork
from neuromorphic.network_file import dump_network, load_network
from neuromorphic.plastic_engine import PlasticEngine
from neuromorphic.prototypes import Prototypes

Array = np.ndarray[Any, np.dtype[Any]]


class SpikingLearner:
    """Local learning that continues on this device; get one from `SpikingLearner.open`.

    Samples are arrays of 0 and 1 of any dtype, one (steps, n) or a batch (N, steps, n) of the network's first input;
    anything else raises InputError and changes nothing. The same network, stream and `max_steps` give the same bits,
    across save and reopen too. A lock makes calls from several threads take turns.
    """

    def __init__(
        self, network: IntegerNetwork, state_dir: str | os.PathLike[str], settings: Settings, engine: str
    ) -> None:
        self.network, self.settings = network, settings
        settings.check(network)
        digest = hashlib.sha256(dump_network(network) + repr(settings).encode()).hexdigest()
        self._learning = PlasticEngine(network, settings.population, engine)
        self._factory = self._learning.state()
        size = network.population(settings.population).size
        self._readout = Prototypes(size * settings.bins, settings.prototypes, novelty=settings.novelty)
        self._pending = Pending(settings.steps, network.inputs[0].size, settings.queue_bytes)
        self._loop = SpikingLoop(self._learning, self._pending, self._readout, settings, self.rollback)
        self._observed = self._rollbacks = 0
        self._lock = threading.RLock()
        factory = self.theta
        layout = (ParameterEntry("network", 0, factory.shape, "weight"),)
        manifest = SimpleNamespace(theta_size=factory.size, parameters=layout)
        self.bundle = SimpleNamespace(digest=digest, manifest=manifest, state=lambda: {"theta": factory})
        self._store: StateStore | None = StateStore(state_dir, digest)
        try:
            if saved := self._store.load():
                self._resume(saved)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        network: IntegerNetwork | str | os.PathLike[str],
        state_dir: str | os.PathLike[str],
        *,
        steps: int,
        population: str = "",
        engine: str = "auto",
        **settings: Any,
    ) -> SpikingLearner:
        """Resume from `state_dir`, or start from the network as it is when nothing was saved there.

        Args:
            network: with at least one plastic connection, or the path of its file.
            state_dir: held by one learner at a time.
            steps: time steps of a sample.
            population: whose mean spikes are the embedding; "hidden" where there is one, else the last.
            engine: see `simulator.make_simulator`; both give the same bits.
            settings: of `Settings`, by name.

        Raises:
            ConfigError: nothing to learn, or a setting is out of range.
            BudgetError: queue_bytes do not hold a sample.
            StateLockedError, StateMismatchError, StateError: as `edgessl.device.Learner.open`.
        """
        opened = network if isinstance(network, IntegerNetwork) else load_network(Path(network))
        names = [p.name for p in opened.populations]
        chosen = population or ("hidden" if "hidden" in names else names[-1])
        try:
            return cls(opened, state_dir, Settings(steps=steps, population=chosen, **settings), engine)
        except TypeError as error:
            if settings and "unexpected keyword" in str(error):
                raise ConfigError(f"{error}; settings are {', '.join(Settings.__dataclass_fields__)}") from None
            raise

    def observe(self, x: Array, recording: int | Array | None = None) -> Array:
        """Embed, and keep to learn from later; returns embeddings as `embed` does.

        Args:
            x: sample or batch.
            recording: for an echo network, which recording each sample was cut from: samples that follow one another
                in the same recording are taken for alike. Not a class. None: every sample is a recording of its own.

        Raises:
            InputError: the samples or recordings do not fit.
        """
        samples = self._samples(x)
        ids = None if recording is None else np.atleast_1d(np.asarray(recording))
        if ids is not None and (ids.shape != (len(samples),) or ids.dtype.kind not in "iu" or ids.min() < 0):
            raise InputError(f"recording must be {len(samples)} whole numbers of 0 or more, found {recording!r}")
        with self._lock:
            z = self._embed(samples)
            for k, sample in enumerate(samples):
                self._pending.add(sample, -1 if ids is None else int(ids[k]))
            self._observed += len(samples)
        return z if np.ndim(x) == 3 else z[0]

    def embed(self, x: Array) -> Array:
        """Mean spikes, (N, D) float32 of a batch, (D,) of one sample; nothing is remembered or learned."""
        samples = self._samples(x)
        with self._lock:
            z = self._embed(samples)
        return z if np.ndim(x) == 3 else z[0]

    def learn(self, max_seconds: float | None = None, max_steps: int | None = None) -> LearnReport:
        """Run the network's rules over pending samples, the oldest first, until a limit or the end of them.

        A step is a sample, presented once and then forgotten. The read-out's nearest prototype follows. Where the mean
        rate leaves the settings' range, learning returns to the last saved generation.

        Raises:
            InputError: no limit, or one below 0.
        """
        with self._lock:
            self._alive()
            return self._loop.run(max_seconds, max_steps)

    def enroll(self, x: Array, label: str) -> None:
        """Give the read-out one sample, or each of a batch, as an example of `label`; the network learns nothing."""
        check_label(label, 0.0)
        with self._lock:
            for z in self._embed(self._samples(x)):
                self._readout.observe(z, label)

    def classify(self, x: Array) -> Prediction | list[Prediction]:
        """The enrolled label nearest to one sample; a list for a batch. InputError before any `enroll`."""
        samples = self._samples(x)
        with self._lock:
            z = self._embed(samples)
            if not self._readout.labels:
                raise InputError("nothing is enrolled yet; call enroll(x, label) first")
            similarity = self._readout.label_similarity(z)
            found = answers(self._readout.labels, similarity / TEMPERATURE, similarity, -np.inf)
        return found if np.ndim(x) == 3 else found[0]

    def novelty(self, x: Array) -> Array:
        """One minus the cosine to the nearest prototype, 0..1; 1 while there is none. (N,), or () for one sample."""
        samples = self._samples(x)
        with self._lock:
            similarity = self._readout.similarity(self._embed(samples))
        scores = 1 - similarity.max(1) if similarity.shape[1] else np.ones(len(samples))
        return scores if np.ndim(x) == 3 else scores[0]

    @property
    def current(self) -> IntegerNetwork:
        """The network with the weights it has now, still plastic: to save, verify, price or draw."""
        with self._lock:
            return self._learning.current

    @property
    def theta(self) -> Array:
        """A copy of all plastic weights, (P,) float32, connection after connection, post neurons first."""
        with self._lock:
            return self._learning.theta

    def adopt(self, theta: Array, fleet: Array | None = None) -> None:
        """Replace the plastic weights, as after a federated round: rounded to integers and clipped to their range.

        `fleet`, the weights of the fleet itself, is of no use here: no local rule compares with them.

        Raises:
            InputError: another shape or dtype, or numbers that are not finite; nothing was changed.
        """
        with self._lock:
            self._alive()
            self._learning.adopt(theta)

    def save(self) -> int:
        """Write everything to the state directory; returns the generation once it is safely on disk."""
        with self._lock:
            store = self._alive()
            arrays = {f"network.{name}": array for name, array in self._learning.state().items()}
            arrays |= {f"readout.{name}": array for name, array in self._readout.tensors().items()}
            arrays |= {f"queue.{name}": array for name, array in self._pending.tensors().items()}
            counts = (self._observed, self._loop.steps, self._loop.rejected, self._rollbacks)
            arrays["learner.counts"] = np.array(counts, np.int64)
            arrays["learner.rates"] = np.array(self._loop.rates, np.float64)
            return store.save(arrays, {"labels": json.dumps(self._readout.labels)})

    def rollback(self, to_factory: bool = False) -> int:
        """Return the network to the last saved generation, or to how it was opened first (generation 0).

        What was observed and enrolled stays. Returns the generation; 0 also when nothing was ever saved.
        """
        with self._lock:
            store = self._alive()
            saved = None if to_factory else store.load()
            self._learning.restore(saved.part("network") if saved else self._factory)
            self._rollbacks += 1
            self._loop.rates.clear()
            return saved.generation if saved else 0

    @property
    def directory(self) -> Path:
        """Where this learner's state lies on disk."""
        return self._alive().directory

    def metrics(self) -> dict[str, Any]:
        """A snapshot of the counters and budgets, under the dense learner's names where they mean the same.

        What is remembered is what waits to be learned from; drift is not watched, so that there are no events.
        """
        with self._lock:
            store = self._alive()
            return {
                "observed": self._observed,
                "pending": len(self._pending),
                "remembered": len(self._pending),
                "memory_bytes": self.settings.queue_bytes,
                "drift_events": 0,
                "dropped": self._pending.dropped,
                "steps": self._loop.steps,
                "rejected": self._loop.rejected,
                "rollbacks": self._rollbacks,
                "rate": float(np.mean(self._loop.rates)) if self._loop.rates else None,
                "prototypes": len(self._readout),
                "labels": list(self._readout.labels),
                "generation": store.generation,
                "damaged_slots": list(store.problems),
            }

    def close(self) -> None:
        """Let go of the state directory WITHOUT saving; may be called again."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._store = None

    def __enter__(self) -> SpikingLearner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> StateStore:
        if self._store is None:
            raise StateError("this learner is closed; open it again with SpikingLearner.open")
        return self._store

    def _samples(self, x: Array) -> Array:
        self._alive()
        shape = (self.settings.steps, self.network.inputs[0].size)
        batch = np.asarray(x)
        batch = batch[None] if batch.shape == shape else batch
        if batch.ndim != 3 or batch.shape[1:] != shape or not len(batch):
            raise InputError(
                f"samples: expected shape {list(shape)} or [N, {shape[0]}, {shape[1]}], found {np.shape(x)}"
            )
        if batch.dtype.kind not in "biuf" or not ((batch == 0) | (batch == 1)).all():
            raise InputError("samples: expected spikes, 0 or 1; encode signals first (neuromorphic.spike_encoders)")
        return batch.astype(np.uint8)

    def _embed(self, samples: Array) -> Array:
        return self._learning.embed(samples, self.settings.bins)

    def _resume(self, saved: Saved) -> None:
        try:
            counts = saved.part("learner")["counts"]
            self._learning.restore(saved.part("network"))
            self._readout.restore(saved.part("readout"), json.loads(saved.metadata["labels"]))
            self._pending.restore(saved.part("queue"))
            self._loop.rates.extend(float(rate) for rate in saved.part("learner")["rates"])
            self._observed, self._loop.steps, self._loop.rejected, self._rollbacks = map(int, counts)
        except (KeyError, ValueError) as error:
            raise StateMismatchError(f"saved state is of another edgessl: {error!r}") from None
