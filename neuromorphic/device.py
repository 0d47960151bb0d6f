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
import math
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgessl.device.heads import Prediction
from edgessl.device.loop import LearnReport
from edgessl.device.state import Saved, StateStore
from edgessl.errors import BudgetError, ConfigError, InputError, StateError, StateMismatchError
from neuromorphic.espp import APART, EchoLearner
from neuromorphic.network import IntegerNetwork
from neuromorphic.network_file import dump_network, load_network
from neuromorphic.plastic import embed, frozen, plastic_names, relearned, with_silent
from neuromorphic.prototypes import Prototypes
from neuromorphic.simulator import make_simulator

Array = np.ndarray[Any, np.dtype[Any]]
WATCHED = 32  # learned samples over which the firing rate is judged
WEIGHT_RANGE = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-255, 0)}


@dataclass(frozen=True)
class Settings:
    """What a state directory is bound to, the network apart.

    Attributes:
        steps: time steps of a sample.
        population: whose mean spikes are the embedding.
        bins: parts of the time, each with a mean of its own.
        queue_bytes: for samples that wait to be learned from, packed to bits; the oldest falls out.
        prototypes: of the read-out, at most.
        novelty: cosine below which the read-out takes a new prototype.
        rates: least and largest mean rate of the population over WATCHED learned samples; outside, learning is undone.
    """

    steps: int
    population: str
    bins: int = 1
    queue_bytes: int = 1 << 20
    prototypes: int = 64
    novelty: float = 0.8
    rates: tuple[float, float] = (1e-4, 0.6)


class SpikingLearner:
    """Local learning that continues on this device; get one from `SpikingLearner.open`.

    Samples are arrays of 0 and 1 of any dtype, one (steps, n) or a batch (N, steps, n) of the network's first input;
    anything else raises InputError and changes nothing. The same network, stream and `max_steps` give the same bits,
    across save and reopen too. A lock makes calls from several threads take turns.
    """

    def __init__(
        self, network: IntegerNetwork, state_dir: str | os.PathLike[str], settings: Settings, engine: str
    ) -> None:
        self.network, self.settings, self._engine = network, settings, engine
        self._check()
        digest = hashlib.sha256(dump_network(network) + repr(settings).encode()).hexdigest()
        self._plastic = plastic_names(network)
        self._echo = EchoLearner(network, engine=engine) if self._is_echo else None
        self._simulator = self._echo.simulator if self._echo else make_simulator(network, engine=engine)
        self._factory = self._changing()
        size = network.population(settings.population).size
        self._readout = Prototypes(size * settings.bins, settings.prototypes, novelty=settings.novelty)
        self._pending: deque[tuple[Array, bool]] = deque()
        self._rates: deque[float] = deque(maxlen=WATCHED)
        self._observed = self._steps = self._rejected = self._rollbacks = self._dropped = 0
        self._last_recording = -1
        self._frozen: IntegerNetwork | None = None
        self._lock = threading.RLock()
        self.bundle = SimpleNamespace(digest=digest, manifest=SimpleNamespace(theta_size=len(self.theta)))
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
                own = -1 if ids is None else int(ids[k])
                self._remember(sample, own >= 0 and own == self._last_recording)
                self._last_recording = own
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
        limits = [limit for limit in (max_seconds, max_steps) if limit is not None]
        if not limits or min(limits) < 0 or any(math.isnan(limit) for limit in limits):
            raise InputError(f"learn: give max_seconds or max_steps, 0 or more; found {max_seconds}, {max_steps}")
        began, done, longest = time.perf_counter(), 0, 0.0
        sums: dict[str, float] = {}
        rolled_back_to, stopped = None, "nothing is pending; observe more"
        with self._lock:
            self._alive()
            while self._pending:
                now = time.perf_counter()
                if max_steps is not None and done >= max_steps:
                    stopped = f"max_steps = {max_steps} reached"
                    break
                if max_seconds is not None and now - began + longest > max_seconds:
                    stopped = f"max_seconds = {max_seconds} reached"
                    break
                metrics = self._learn_one()
                done += 1
                longest = max(longest, time.perf_counter() - now)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value
                if (reason := self._harm()) is not None:
                    self._rejected, self._steps = self._rejected + done, self._steps - done
                    rolled_back_to, stopped = self.rollback(), f"rolled back: {reason}"
                    return LearnReport(0, done, rolled_back_to, time.perf_counter() - began, {}, stopped)
            means = {name: value / done for name, value in sums.items()}
        return LearnReport(done, 0, rolled_back_to, time.perf_counter() - began, means, stopped)

    def enroll(self, x: Array, label: str) -> None:
        """Give the read-out one sample, or each of a batch, as an example of `label`; the network learns nothing."""
        if not isinstance(label, str) or not 0 < len(label) <= 64 or not label.isprintable():
            raise InputError(f"label: expected 1 to 64 printable characters, found {label!r}")
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
            found = [self._predict(row) for row in self._readout.similarity(z)]
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
            return relearned(self.network, {name: self._simulator.weights(name)[0] for name in self._plastic})

    @property
    def theta(self) -> Array:
        """A copy of all plastic weights, (P,) float32, connection after connection, post neurons first."""
        weights = [self._simulator.weights(name)[0].ravel() for name in self._plastic]
        return np.concatenate(weights).astype(np.float32)

    def adopt(self, theta: Array) -> None:
        """Replace the plastic weights, as after a federated round: rounded to integers and clipped to their range.

        Raises:
            InputError: another shape or dtype, or numbers that are not finite; nothing was changed.
        """
        with self._lock:
            self._alive()
            size = self.bundle.manifest.theta_size
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

    def save(self) -> int:
        """Write everything to the state directory; returns the generation once it is safely on disk."""
        with self._lock:
            store = self._alive()
            arrays = {f"network.{name}": array for name, array in self._changing().items()}
            arrays |= {f"readout.{name}": array for name, array in self._readout.tensors().items()}
            arrays["queue.samples"] = (
                np.stack([packed for packed, _ in self._pending]) if self._pending else self._none()
            )
            arrays["queue.goes_on"] = np.array([goes_on for _, goes_on in self._pending], np.uint8)
            counts = (self._observed, self._steps, self._rejected, self._rollbacks, self._dropped, self._last_recording)
            arrays["learner.counts"] = np.array(counts, np.int64)
            arrays["learner.rates"] = np.array(self._rates, np.float64)
            return store.save(arrays, {"labels": json.dumps(self._readout.labels)})

    def rollback(self, to_factory: bool = False) -> int:
        """Return the network to the last saved generation, or to how it was opened first (generation 0).

        What was observed and enrolled stays. Returns the generation; 0 also when nothing was ever saved.
        """
        with self._lock:
            store = self._alive()
            saved = None if to_factory else store.load()
            self._become(saved.part("network") if saved else self._factory)
            self._rollbacks += 1
            self._rates.clear()
            return saved.generation if saved else 0

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
                "dropped": self._dropped,
                "steps": self._steps,
                "rejected": self._rejected,
                "rollbacks": self._rollbacks,
                "rate": float(np.mean(self._rates)) if self._rates else None,
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

    def _check(self) -> None:
        s, names = self.settings, [p.name for p in self.network.populations]
        if not plastic_names(self.network):
            raise ConfigError(
                "this network has no plastic connection, so there is nothing to learn; see neuromorphic.local"
            )
        if s.population not in names:
            raise ConfigError(f"population {s.population!r} is not there; there are {', '.join(names)}")
        if not 1 <= s.bins <= s.steps:
            raise ConfigError(f"expected 1 <= bins <= steps, found {s.bins} and {s.steps}")
        if not 0 <= s.rates[0] < s.rates[1] <= 1:
            raise ConfigError(f"rates must be a range within 0..1, found {s.rates}")
        if self.network.inputs[0].payload_bits:
            raise ConfigError(f"the input {self.network.inputs[0].name!r} must be binary to be kept as bits")
        if s.queue_bytes < self._sample_bytes:
            raise BudgetError(
                f"queue_bytes = {s.queue_bytes}, one sample takes {self._sample_bytes}; give that or more"
            )

    @property
    def _is_echo(self) -> bool:
        return any(i.name == APART for i in self.network.inputs)

    @property
    def _sample_bytes(self) -> int:
        return -(-self.settings.steps * self.network.inputs[0].size // 8)

    def _none(self) -> Array:
        return np.zeros((0, self._sample_bytes), np.uint8)

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
        if self._frozen is None:
            weights = {name: self._simulator.weights(name)[0] for name in self._plastic}
            self._frozen = frozen(self.network, weights)
        return embed(self._frozen, samples, self.settings.population, self.settings.bins, engine=self._engine)

    def _remember(self, sample: Array, goes_on: bool) -> None:
        self._pending.append((np.packbits(sample), goes_on))
        while len(self._pending) * self._sample_bytes > self.settings.queue_bytes:
            self._pending.popleft()
            self._dropped += 1

    def _learn_one(self) -> dict[str, float]:
        packed, goes_on = self._pending.popleft()
        shape = self.settings.steps, self.network.inputs[0].size
        spikes = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape)
        if self._echo is not None:
            report = self._echo.present(spikes, goes_on)
            metrics = {"rate": report.rate, "similarity": report.similarity, "updates": report.updates}
        else:
            name = self.settings.population
            record = self._simulator.run(with_silent(self.network, spikes[None]), spikes=[name])
            changes = sum(int(n.sum()) for n in record.counts.weight_changes.values())
            metrics = {"rate": float(np.mean(record.spikes[name] != 0)), "weight_changes": float(changes)}
        self._frozen = None
        self._steps += 1
        self._rates.append(metrics["rate"])
        if len(self._readout):
            z = self._embed(spikes[None])[0]
            self._readout.follow(z)
        return metrics

    def _harm(self) -> str | None:
        """Why learning should be undone, or None."""
        if len(self._rates) < WATCHED:
            return None
        mean, (low, high) = float(np.mean(self._rates)), self.settings.rates
        if low <= mean <= high:
            return None
        return f"{self.settings.population} fires at {mean:.3g} per step, outside {low:g}..{high:g}"

    def _predict(self, similarity: Array) -> Prediction:
        """Softmax with temperature 0.1 over the best prototype of every label, as the dense head's."""
        owners = self._readout.owner[self._readout.counts > 0]
        best = np.array([similarity[owners == k].max(initial=-1.0) for k in range(len(self._readout.labels))])
        weight = np.exp((best - best.max()) / 0.1)
        k = int(best.argmax())
        return Prediction(self._readout.labels[k], float(weight[k] / weight.sum()), float(best[k]))

    def _changing(self) -> dict[str, Array]:
        return self._echo.state() if self._echo else self._simulator.state()

    def _become(self, state: dict[str, Array]) -> None:
        if self._echo:
            self._echo.restore(state)
        else:
            self._simulator.restore(state)
        self._frozen = None

    def _resume(self, saved: Saved) -> None:
        try:
            queue, counts = saved.part("queue"), saved.part("learner")["counts"]
            self._become(saved.part("network"))
            self._readout.restore(saved.part("readout"), json.loads(saved.metadata["labels"]))
            self._pending = deque(zip(queue["samples"].copy(), map(bool, queue["goes_on"]), strict=True))
            self._rates.extend(float(rate) for rate in saved.part("learner")["rates"])
            self._observed, self._steps, self._rejected, self._rollbacks, self._dropped, self._last_recording = map(
                int, counts
            )
        except (KeyError, ValueError) as error:
            raise StateMismatchError(f"saved state is of another edgessl: {error!r}") from None
