"""The device's loop: observe, learn a little, enroll, classify, save; bounded, resumable, doing no harm."""

import json
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgessl.device.budget import arena_share
from edgessl.device.bundle.archive import Bundle, check_state
from edgessl.device.guard.examination import Examination
from edgessl.device.heads.few_label import Prediction
from edgessl.device.hyper import HyperParameters
from edgessl.device.loop import LearningLoop, LearnReport
from edgessl.device.memory.codec import Codec
from edgessl.device.noise import probe_signs
from edgessl.device.past import Keep, Past, View
from edgessl.device.perception import Perception
from edgessl.device.requantize.encoder import Followed, FollowingEncoder
from edgessl.device.runners import Model
from edgessl.device.runtime import SessionProfile
from edgessl.device.samples import Percept
from edgessl.device.storage.checkpoint import Checkpoint
from edgessl.device.storage.devicekey import DeviceKey, read_key
from edgessl.device.storage.state import Checkpointed, Saved
from edgessl.errors import BudgetError, InputError, StateError, StateMismatchError

Float = npt.NDArray[np.float32]
CHECKED = 16  # remembered samples on which `settle` is checked
_log = logging.getLogger(__name__)


class Learner:
    """Self-supervised learning that continues on this device; get one from `Learner.open`.

    Samples are float32 arrays, one (*shape) or a batch (N, *shape) of the bundle's input; anything else, NaN
    and infinity included, raises InputError and changes nothing. The same seed, stream and `max_steps` give
    bit-identical state, across save and reopen too. One thread may learn while others observe.
    """

    def __init__(
        self,
        bundle: Model,
        state_dir: str | os.PathLike[str],
        seed: int,
        profile: SessionProfile,
        device_key: DeviceKey | None,
        keep: Keep,
    ) -> None:
        self.bundle, self.seed = bundle, seed
        self.hyper = HyperParameters(bundle.manifest.hyper)
        self._learning = threading.RLock()  # the trainer's state; taken before _data where both are
        self._data = threading.RLock()  # memory, monitor, head; held briefly
        self._capped = bool(profile.arena_bytes)
        backbone = bundle.backbone(profile)
        encoder, self._trainer = bundle.runners(profile)
        self._perception = Perception(encoder, self._trainer, backbone)
        self._embed = self._perception.embed
        self._past = Past(bundle.manifest, keep, seed, self._embed, self._data)
        self._memory, self._head, self._monitor = self._past.memory, self._past.head, self._past.monitor
        self._past.resume(self._trainer.shown)
        self._exam = Examination()
        self._good = self._saved = self._trainer.shown  # weights of the last good generation, of the last one saved
        self._observed = self._rollbacks = 0
        self._drifted = False  # since the last consolidation
        self._loop = LearningLoop(self._trainer, self._memory, self.hyper, seed, self._data, self._harmed)
        self._parts: dict[str, Checkpointed] = {
            "memory": self._memory,
            "monitor": self._monitor,
            "loop": self._loop,
            "exam": self._exam,
        }
        key = None if device_key is None else read_key(device_key)
        self._checkpoint: Checkpoint | None = Checkpoint(state_dir, bundle.digest, key)
        try:
            if saved := self._checkpoint.load():
                self._resume(saved)
            for problem in self._checkpoint.store.problems:
                _log.warning("%s: %s", state_dir, problem)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        bundle: Model | str | os.PathLike[str],
        state_dir: str | os.PathLike[str],
        *,
        memory_bytes: int = 4 << 20,
        exemplar_bytes: int = 256 << 10,
        seed: int = 0,
        profile: SessionProfile | None = None,
        policy: str = "reservoir",
        codec: Codec | None = None,
        device_key: DeviceKey | None = None,
        head: str = "ncm",
        reject: float = 0.0,
        novelty: str = "knn",
        budget_bytes: int | None = None,
    ) -> "Learner":
        """Resume from `state_dir`, or start from the bundle's factory state when nothing was saved there.

        `memory_bytes` bounds the remembered samples, `exemplar_bytes` the enrolled ones; both are allocated
        at once. `policy` says which samples stay (memory.policy.POLICIES), `codec` how they are stored (float32
        unless given; ByteCodec for a byte a value). `head` ("ncm", "knn", "slda", "logistic") and `reject` are those
        of heads.few_label.FewLabelHead, of heads.prototypes.PrototypeHead when exemplar_bytes is 0; `novelty` is one of
        heads.novelty.NOVELTIES. With `device_key` (see storage.devicekey.read_key) only state that a holder of the
        key wrote is read. `budget_bytes` bounds all of it, what onnxruntime allocates included (see budget), and is
        tried out at once by `warm_up`; the cap on onnxruntime is one for the process. Raises BundleError,
        BudgetError (with the minimum), StateLockedError, StateMismatchError (another bundle, other settings) and
        StateError (no intact slot).
        """
        opened = Bundle.open(bundle) if isinstance(bundle, str | os.PathLike) else bundle
        profile = profile or SessionProfile()
        if budget_bytes is not None:
            share = arena_share(opened.manifest, budget_bytes, memory_bytes, exemplar_bytes)
            profile = replace(profile, arena_bytes=share)
        keep = Keep(memory_bytes, policy, codec, exemplar_bytes, head, reject, novelty)
        learner = cls(opened, state_dir, seed, profile, device_key, keep)
        if budget_bytes is not None:
            try:
                learner.warm_up()
            except BaseException:
                learner.close()
                raise
        return learner

    def observe(self, x: Float) -> Float:
        """Embed, remember and watch for drift; never waits for learning. Returns what `embed` returns."""
        percept = self.perceive(x)
        self.remember(percept)
        return percept.embedding

    def perceive(self, x: Float) -> Percept:
        """The first half of `observe`: check and embed; takes no lock, and `remember` may follow in another thread."""
        self._alive()
        return self._perception.perceive(x)

    def remember(self, percept: Percept) -> None:
        """The second half of `observe`: remember what `perceive` gave and watch for drift."""
        with self._data:
            self._memory.add(percept.samples, percept.embeddings)
            self._observed += len(percept.samples)
            self._note_drift(self._monitor.update(percept.embeddings, percept.statistics))

    def embed(self, x: Float) -> Float:
        """Embeddings (N, D) of a batch, (D,) of one sample; nothing is remembered."""
        return self.perceive(x).embedding

    def learn(
        self, max_seconds: float | None = None, max_steps: int | None = None, *, sleep: bool = False
    ) -> LearnReport:
        """Take training steps on remembered samples until a limit (at least one must be given) is reached.

        No step is started that would, at the measured cost of a step, end after `max_seconds`; the first step
        of a process has no measurement yet, unless `warm_up` or a budget took one. Zero steps, and why, while the
        memory holds less than a batch. With `sleep`, steps see samples older than the latest alone: the past is gone
        through while nothing comes in.
        """
        with self._learning:
            self._alive()
            began = time.perf_counter()
            if self._exam.frozen:
                return LearnReport(0, 0, None, 0.0, {}, f"frozen after {self._exam.harms} rollbacks; see thaw()")
            self._perception.unsettle()
            self._consolidate()
            report = self._loop.run(max_seconds, max_steps, sleep)
            try:
                view = self._encoder_changed() if report.steps else None
                if report.steps:
                    with self._data:
                        self._note_drift(self._monitor.learned(report.metrics["loss"]))
                self._exam.steps += report.steps
                harm = self._examine(view) if self._exam.due else ""
            except StateError as error:
                harm = str(error)
            if harm:
                report = replace(report, rolled_back_to=self._harmed(), stopped=f"rolled back: {harm}")
            return replace(report, seconds=time.perf_counter() - began)

    def thaw(self) -> None:
        """Let learning go on after `metrics()["frozen"]`: the guard had to roll back three times without a good save.

        First find out what the stream did; the memory still holds it.
        """
        with self._learning:
            self._exam.thaw()

    def warm_up(self) -> float:
        """Embed a batch and take a step that does not count; returns the seconds a step takes on this device.

        After it, `learn(max_seconds)` returns in time from the first step on, and memory has reached its peak. Without
        it, the first `learn` makes the session of the training step: BundleError comes then from a graph that is not
        what the manifest says.
        """
        with self._learning:
            self._alive()
            manifest = self.bundle.manifest
            self._embed(np.zeros((manifest.batch_size, *manifest.learned.shape), np.float32))
            self._loop.measure()
            return self._loop.step_seconds

    def settle(self) -> None:
        """Embed faster until the next `learn`, `adopt` or `rollback`: the present weights become constants.

        For the time in which a device observes and classifies, and does not learn. Costs a session (see docs/device.md,
        "Settling") and some thirty embeddings, by which it is checked; embeddings stay what they were but for rounding.
        Raises InputError while nothing is remembered, ParityError when the check fails (weights stay an input then),
        and BudgetError with `budget_bytes`, which was tried out without a second session.
        """
        with self._learning:
            self._alive()
            if self._capped:
                raise BudgetError("settle: its session is not in budget_bytes; open the learner without a budget")
            draw = self._past.draw(self._loop.attempts)
            if draw is None:
                raise InputError("settle: nothing is remembered to check it on; observe first")
            self._perception.settle(draw.samples[-CHECKED:])

    def enroll(self, x: Float, label: str) -> None:
        """Remember one sample, or each of a batch, as an example of `label`; see heads.few_label.FewLabelHead."""
        samples = self._samples(x)
        with self._data:
            for sample in samples:
                self._head.enroll(sample, label)

    def classify(self, x: Float) -> Prediction | list[Prediction]:
        """The enrolled label nearest to one sample; a list for a batch. InputError before any `enroll`."""
        samples = self._samples(x)
        z = self._embed(samples)
        with self._data:
            predictions = self._head.classify(z)
        return predictions if self._perception.is_batch(x) else predictions[0]

    def novelty(self, x: Float) -> npt.NDArray[np.float64]:
        """How unlike the remembered past: standard deviations, () for one sample, (N,) for a batch.

        Ask before `observe`, which makes a sample part of the past. See novelty.Novelty.
        """
        samples = self._samples(x)
        z = self._embed(samples)
        with self._data:
            scores = self._past.novelty(z, self._loop.attempts)
        return scores if self._perception.is_batch(x) else scores[0]

    @property
    def theta(self) -> Float:
        """A copy of the flat weights (P,)."""
        return self._trainer.slot("theta")

    def slot(self, name: str) -> Float:
        """A copy of one slot of the training state; InputError for a name that the bundle does not have."""
        with self._learning:
            self._alive()
            return self._trainer.slot(name)

    @property
    def directory(self) -> Path:
        """Where this learner's state lies on disk."""
        return self._alive().store.directory

    def adopt(self, theta: Float, fleet: Float | None = None) -> None:
        """Replace the flat weights (P,) float32, as after a federated round; every other slot stays.

        But slot `fleet`, where the bundle has one (its step compares with the fleet's weights): it becomes `fleet`
        (P,), or `theta` where that is not given. Raises InputError, and changes nothing, for another shape or dtype,
        for numbers that are not finite, and for weights with which the remembered past embeds to such numbers.
        """
        with self._learning:
            self._alive()
            before = self._trainer.state()
            news = {"theta": theta} | ({"fleet": theta if fleet is None else fleet} if "fleet" in before else {})
            self._trainer.load({**before, **news})
            try:
                self._encoder_changed()
            except StateError:
                self._trainer.load(before)
                raise InputError("adopt: theta gives NaN or infinite embeddings; refused") from None

    def requantize(self, encoder: FollowingEncoder) -> Followed:
        """Let `encoder` follow what was learned: new weights, and in int8 new ranges, of 64 remembered samples.

        It is checked on half of them and stays what it was when it fails. Raises InputError while fewer than 16 samples
        are remembered.
        """
        with self._learning:
            draw = self._past.draw(self._loop.attempts)
            samples = np.empty((0, *self.bundle.manifest.learned.shape), np.float32) if draw is None else draw.samples
            return encoder.follow(self.slot(self.bundle.manifest.embed_slot), samples)

    def save(self, trial: bool = False) -> int:
        """Write everything to the state directory; returns the generation once it is safely on disk.

        With `trial`, this generation and those saved after it are on trial until `mark_good`: the next open runs
        the newest, the one after returns to the last good generation. Without it the past is examined first, and
        weights that did it harm are rolled back before they could count as good. Observing need not wait for the
        disk. Raises StateError when the disk refuses or the state is not finite; the last generation is intact.
        """
        with self._learning:
            if not trial:
                self._prove()
            checkpoint, slots = self._alive(), self._trainer.state()
            check_state(self.bundle.manifest, slots, "learned state (call rollback())", StateError)
            with self._data:
                counts = np.array([self._observed, self._rollbacks, self._drifted], np.int64)
                parts = {name: part.tensors() for name, part in self._parts.items()}
                parts |= {"head": self._head.tensors(), "slot": slots, "learner": {"counts": counts}}
                arrays = {f"{part}.{name}": v for part, tensors in parts.items() for name, v in tensors.items()}
                metadata = {"hyper": json.dumps(dict(self.hyper)), "labels": json.dumps(self._head.labels)}
                pending = checkpoint.prepare(arrays, metadata, trial)
            generation, self._saved = checkpoint.write(pending), self._trainer.shown
            if not trial:
                self._good, self._exam.harms = self._saved, 0
            return generation

    def mark_good(self) -> int:
        """What was saved on trial has proved itself: it stays. Returns its generation; nothing on trial, no effect.

        The past is examined first; after a harm the trial is over and the last good generation is returned to.
        """
        with self._learning:
            store = self._alive().store
            if self._prove():
                return store.generation
            generation, self._good, self._exam.harms = store.mark_good(), self._saved, 0
            return generation

    def rollback(self, to_factory: bool = False) -> int:
        """Return every slot to the last good generation saved, or to the factory state (generation 0).

        A trial is over. What was observed and enrolled stays, and so does the step count: a step is never repeated
        with the same noise. Returns the generation; 0 also when nothing was ever saved.
        """
        with self._learning:
            good = self._alive().store.back()
            saved = None if to_factory else good
            self._trainer.load(saved.part("slot") if saved else self.bundle.state())
            self._rollbacks += 1
            self._encoder_changed()
            self._good = self._saved = self._trainer.shown
            self._exam.steps = 0
            return saved.generation if saved else 0

    def metrics(self) -> dict[str, Any]:
        """A snapshot of the counters and budgets."""
        with self._data:
            checkpoint = self._alive()
            return {
                "observed": self._observed,
                "remembered": len(self._memory),
                "attempts": self._loop.attempts,
                "steps": self._loop.steps,
                "rejected": self._loop.rejected,
                "rollbacks": self._rollbacks,
                "frozen": self._exam.frozen,
                "settled": self._perception.settled,
                "step_seconds": self._loop.step_seconds,
                "memory_bytes": self._memory.nbytes,
                "saturated_values": self._memory.saturated,
                "repeated_samples": self._memory.repeated,
                "exemplar_bytes": self._head.nbytes,
                "labels": list(self._head.labels),
                "drift_events": self._monitor.events,
                "drift_signals": dict(self._monitor.by_signal),
                "context": self._monitor.context,
                "contexts": self._monitor.contexts,
                "generation": checkpoint.store.generation,
                "bytes_written": checkpoint.written,
                "disk_bound_bytes": checkpoint.bound_bytes,
                "damaged_slots": list(checkpoint.store.problems),
            }

    def close(self) -> None:
        """Let go of the state directory WITHOUT saving; may be called again."""
        with self._learning, self._data:
            if self._checkpoint is not None:
                self._checkpoint.store.close()
            self._checkpoint = None

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> Checkpoint:
        if self._checkpoint is None:
            raise StateError("this learner is closed; open it again with Learner.open")
        return self._checkpoint

    def _samples(self, x: Float) -> Float:
        self._alive()
        return self._perception.samples(x)

    def _note_drift(self, event: bool) -> None:
        if event:
            self._drifted = True
            _log.info("drift %d (%s) after %d samples", self._monitor.events, self._monitor.last, self._observed)

    def _consolidate(self) -> None:
        """After drift: what was learned so far becomes the past, as the bundle's strategy has it.

        The importances that some strategies measure come from remembered samples older than the latest.
        """
        with self._data:
            samples = self._past.older(self._loop.attempts) if self._drifted else None
            if samples is None:
                return
            self._drifted = False
        probes = probe_signs(self.seed, self._loop.attempts, (len(samples), self.bundle.manifest.embedding_dim))
        self._trainer.consolidate(samples, probes, self.hyper)

    def _encoder_changed(self) -> View | None:
        self._perception.unsettle()
        return self._past.follow(self._trainer.shown, self._loop.attempts)

    def _examine(self, view: View | None = None) -> str:
        """What learning did to the past since the last good generation; "" for nothing. `view`: by present weights."""
        self._exam.steps, now = 0, self._trainer.shown
        return self._past.examine(self._good, now, view or self._past.view(now, self._loop.attempts), self._exam)

    def _prove(self) -> bool:
        """Examine what has not been examined, before it may count as good; whether it had to be rolled back."""
        harm = self._examine() if self._exam.steps else ""
        if harm:
            _log.warning("rolled back to generation %d: %s", self._harmed(), harm)
        return bool(harm)

    def _harmed(self) -> int:
        """Roll back what did harm, and remember that it did; returns the generation."""
        self._exam.harms += 1
        return self.rollback()

    def _resume(self, saved: Saved) -> None:
        try:
            slots = saved.part("slot")
            check_state(self.bundle.manifest, slots, "saved state", StateMismatchError)
            for name, part in self._parts.items():
                if tensors := saved.part(name):  # a memory lost to a bad disk has none and starts empty
                    part.restore(tensors)
            if tensors := saved.part("head"):
                self._head.restore(tensors, json.loads(saved.metadata["labels"]))
            for name, value in json.loads(saved.metadata["hyper"]).items():
                self.hyper[name] = value
            self._observed, self._rollbacks, drifted = (int(v) for v in saved.part("learner")["counts"])
        except (KeyError, ValueError) as error:
            raise StateMismatchError(f"saved state is of another edgessl: {error!r}") from None
        self._drifted = bool(drifted)
        self._trainer.load(slots)
        self._good = self._saved = self._trainer.shown
        self._past.resume(self._trainer.shown)
