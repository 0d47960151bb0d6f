"""Memory declared before start: what a learner may take in all, and the cap that onnxruntime's arena is held to.

Counted: remembered and labelled samples, the state (as the trainer, one step back, and a save hold it), the bundle's
bytes, and everything that onnxruntime's sessions allocate. Not counted, since no program can cap it: the pages of the
interpreter and of the libraries themselves, some 60 MB (`edgessl doctor --device` measures them).
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import onnxruntime as ort

from edgessl.device.bundle.manifest import Manifest
from edgessl.errors import BudgetError, ConfigError

STATE_COPIES = 4  # the trainer's, the one before it, a save's, the factory's while it is read
LEAST_ARENA_BYTES = 1 << 20
_SHORT = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")
_lock = threading.Lock()
_arena_bytes = 0  # registered in this process


def arena_share(manifest: Manifest, budget_bytes: int, memory_bytes: int, exemplar_bytes: int) -> int:
    """What is left of `budget_bytes` for onnxruntime; BudgetError, with the minimum, when that is too little."""
    state = sum(member.bytes for name, member in manifest.members.items() if name == "state.safetensors")
    bundle = sum(member.bytes for member in manifest.members.values())
    fixed = memory_bytes + exemplar_bytes + STATE_COPIES * state + bundle
    if budget_bytes < fixed + LEAST_ARENA_BYTES:
        raise BudgetError(
            f"budget of {budget_bytes} bytes: samples take {memory_bytes + exemplar_bytes}, "
            f"the state {STATE_COPIES * state}, the bundle {bundle}; at least {fixed + LEAST_ARENA_BYTES} are needed, "
            "and what a step takes on top"
        )
    return budget_bytes - fixed


def cap_arena(most_bytes: int) -> None:
    """Hold all sessions made from now on with a cap to `most_bytes` together; once per process, ConfigError after that.

    onnxruntime has one shared arena per process: another learner may use it with the same cap only.
    """
    global _arena_bytes
    with _lock:
        if _arena_bytes == most_bytes:
            return
        if _arena_bytes:
            raise ConfigError(
                f"onnxruntime's arena is capped at {_arena_bytes} bytes in this process and cannot be capped at "
                f"{most_bytes} now; open every learner with the same budget, or use another process"
            )
        _register_arena(most_bytes)
        _arena_bytes = most_bytes


@contextmanager
def one_arena() -> Iterator[bool]:
    """Sessions made within that use the environment's allocators share one new arena, so that what one run gives back
    is there for the next session's. False where the process has a cap: its arena is not replaced."""
    with _lock:
        if not _arena_bytes:
            _register_arena(0)
        yield not _arena_bytes


def _register_arena(most_bytes: int) -> None:
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = 1  # chunks as large as asked for, not the next power of two
    ort.create_and_register_allocator(  # for sessions made from now on; those there are keep theirs
        where, ort.OrtArenaCfg({"max_mem": most_bytes, "arena_extend_strategy": same_as_requested})
    )


def short_of(error: Exception) -> str:
    """What onnxruntime's error says about memory, in our words; "" when it is about something else."""
    found = _SHORT.search(str(error))
    if not found:
        return ""
    free, wanted = int(found[1]), int(found[2])
    return (
        f"the budget leaves onnxruntime {_arena_bytes} bytes, of which {free} are free when {wanted} are needed; "
        f"give at least {wanted - free} bytes more, or a bundle with a smaller batch"
    )
