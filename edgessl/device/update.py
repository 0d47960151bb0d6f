"""From one bundle to its next version: what a device remembers and was taught moves along, where that can be."""

import json
import os
from dataclasses import dataclass

import numpy as np

from edgessl.device.bundle.archive import Bundle
from edgessl.device.storage.checkpoint import Checkpoint
from edgessl.device.storage.devicekey import DeviceKey, read_key
from edgessl.device.storage.state import Saved
from edgessl.device.storage.tensors import Array
from edgessl.errors import StateError, UpdateError


@dataclass(frozen=True)
class Migration:
    """What moved: remembered samples, labelled samples, and whether the learned weights did.

    `left`: part (memory, heads, weights) to the reason why it stayed behind. Embeddings, the drift monitor's
    reference and step counts never move: they have no meaning in another encoder.
    """

    remembered: int
    labels: tuple[str, ...]
    weights: bool
    left: dict[str, str]


def migrate(
    old: Bundle,
    old_dir: str | os.PathLike[str],
    new: Bundle,
    new_dir: str | os.PathLike[str],
    *,
    keep_weights: bool = False,
    strict: bool = True,
    trial: bool = True,
    device_key: DeviceKey | None = None,
) -> Migration:
    """Start the state directory `new_dir` of bundle `new` from what `old_dir` holds for bundle `old`.

    Both learners are closed meanwhile; then `Learner.open(new, new_dir)`, with the settings of the old one, goes on.
    `old_dir` is left as it is: to go back, open it. `keep_weights` takes the learned slots along instead of the new
    bundle's factory state. With `trial` the first open is on trial: call `mark_good` when it has proved itself.

    Raises UpdateError when the samples themselves are of another kind, shape or unit; with `strict`, also when any
    part would have to stay behind: the message says which and why. StateError when there is nothing to move, or
    `new_dir` is in use or not empty.
    """
    a, b = old.manifest.input, new.manifest.input
    if (a.kind, a.shape, a.units, a.vocabulary) != (b.kind, b.shape, b.units, b.vocabulary):
        raise UpdateError(
            f"update: samples were {a.kind} {list(a.shape)} in {a.units!r}, the new bundle takes {b.kind} "
            f"{list(b.shape)} in {b.units!r}; nothing of the old state fits, start from the new factory state"
        )
    key = None if device_key is None else read_key(device_key)
    saved = _load(old, old_dir, key)
    arrays: dict[str, Array] = {f"slot.{name}": array for name, array in new.state().items()}
    left: dict[str, str] = {}
    if keep_weights:
        _move("weights", _weights(old, new), saved, "slot", arrays, left)
    another = _another_space(old, new)
    _move("memory", another or _embeddings(saved, new), saved, "memory", arrays, left)
    prototypes = "" if "head.samples" in saved.tensors else "prototypes are embeddings of the old encoder"
    _move("heads", another or prototypes, saved, "head", arrays, left)
    if strict and left:
        why = "; ".join(f"{part}: {reason}" for part, reason in left.items())
        raise UpdateError(f"update: not everything can move along ({why}); with strict=False the rest does")
    arrays["learner.counts"] = np.array(saved.tensors["learner.counts"])
    labels = json.loads(saved.metadata["labels"]) if "heads" not in left else []
    _write(new, new_dir, key, arrays, {"hyper": "{}", "labels": json.dumps(labels)}, trial)
    count = int(np.count_nonzero(saved.tensors["memory.number"] >= 0)) if "memory" not in left else 0
    return Migration(count, tuple(labels), keep_weights and "weights" not in left, left)


def _load(bundle: Bundle, directory: str | os.PathLike[str], key: bytes | None) -> Saved:
    checkpoint = Checkpoint(directory, bundle.digest, key)
    try:
        saved = checkpoint.load()
    finally:
        checkpoint.store.close()
    if saved is None or "memory.number" not in saved.tensors:
        raise StateError(f"{os.fspath(directory)}: nothing was saved here for bundle {bundle.digest[:12]}")
    return saved


def _write(
    bundle: Bundle,
    directory: str | os.PathLike[str],
    key: bytes | None,
    arrays: dict[str, Array],
    metadata: dict[str, str],
    trial: bool,
) -> None:
    checkpoint = Checkpoint(directory, bundle.digest, key)
    try:
        if checkpoint.store.generation:
            raise StateError(f"{os.fspath(directory)}: already holds state of this bundle; give an empty directory")
        if "memory.place" in arrays:
            checkpoint.write(checkpoint.prepare(arrays, metadata, trial))
        else:
            checkpoint.store.save(arrays, metadata, trial=trial)
    finally:
        checkpoint.store.close()


def _move(name: str, reason: str, saved: Saved, part: str, arrays: dict[str, Array], left: dict[str, str]) -> None:
    """Take the tensors of `part` along, unless there is a `reason` not to."""
    if reason:
        left[name] = reason
    else:
        arrays |= {key: array for key, array in saved.tensors.items() if key.startswith(f"{part}.")}


def _weights(old: Bundle, new: Bundle) -> str:
    a, b = old.manifest, new.manifest
    if a.parameters != b.parameters:
        return "the new network's parameters are others"
    return "" if a.slots == b.slots else "the new training step keeps other slots"


def _another_space(old: Bundle, new: Bundle) -> str:
    """Why what lies in memory, samples or latents, cannot be read by the new bundle; "" when it can."""
    a, b = old.manifest, new.manifest
    if (a.latent is None) != (b.latent is None):
        return "one bundle remembers samples, the other latents of a backbone"
    if a.latent is not None and b.latent is not None:
        same = old.read(a.graphs["backbone"].file) == new.read(b.graphs["backbone"].file)
        return "" if same and a.latent == b.latent else "latents of the old backbone mean nothing to the new one"
    return ""


def _embeddings(saved: Saved, new: Bundle) -> str:
    stores = saved.tensors["memory.stored"].shape[1] > 0 or any(k.startswith("memory.policy.") for k in saved.tensors)
    return "it holds embeddings by the old encoder" if stores or new.manifest.stores else ""
