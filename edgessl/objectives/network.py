"""The network as objectives and strategies see it: named parts, applied with whatever flat vector they are bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.encoders.norm import BatchNorm, collect_batch_statistics
from edgessl.layout import ParameterLayout

Slots = dict[str, Tensor]


class Network:
    """The network bound to a flat vector: `network("encoder", x)` applies the named part with those parameters.

    A part is a module or a method of one, by its path: "projector", "encoder.features", "encoder.run".

    `statistics` collects the batch statistics that batch norms of the trained network saw; a teacher's are not kept.
    `passes` lists what was applied, to what, with what result.
    """

    # no frozen dataclass: one that is made within a compiled function has no attributes in torch 2.11's dynamo
    def __init__(self, apply: Callable[..., tuple[Tensor, Slots]], theta: Tensor) -> None:
        self.apply, self.theta = apply, theta
        self.statistics: Slots = {}
        self.passes: list[tuple[str, tuple[Any, ...], Tensor]] = []

    def __call__(self, part: str, *arguments: Any) -> Tensor:
        """Apply `part` to `arguments`."""
        out, statistics = self.apply(self.theta, part, *arguments)
        self.statistics.update(statistics)
        self.passes.append((part, arguments, out))
        return out

    def at(self, theta: Tensor) -> Network:
        """The same network with other parameters (a momentum teacher, an anchor)."""
        return Network(self.apply, theta)

    def frozen(self, theta: Tensor) -> Network:
        """The same network with other parameters, in evaluation mode (a network of the past)."""
        return Network(partial(self.apply, evaluating=True), theta)

    def source(self, embedding: Tensor) -> Tensor | None:
        """The samples `(M, ...)` of which a pass of the whole encoder gave this very `embedding`; None without one."""
        wanted, through = embedding, "encoder"
        for part, arguments, out in reversed(self.passes):
            if out is wanted and part == through:
                samples: Tensor = arguments[0]
                return samples
            if out is wanted and part == "encoder.pool":
                wanted, through = arguments[0], "encoder.features"
        return None


class Parts(nn.Module):
    """Encoder and heads under their names; `forward(part, ...)` lets functional_call reach each, and their methods.

    `piece_rows`: the most rows that the encoder takes at a time, if any, each half of a batch by itself, for graphs
    whose activations then stay in the processor's caches and whose halves can run at once; only where no batch norm
    lets samples see each other.
    """

    piece_rows: int | None = None

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        for name, head in heads.items():
            self.add_module(name, head)

    def forward(self, part: str, *arguments: Any) -> Tensor:
        """Apply the part of that path."""
        out: Tensor = attrgetter(part)(self)(*arguments)
        return out

    def network(
        self,
        layout: ParameterLayout,
        theta: Tensor,
        *,
        autocast: torch.dtype | None = None,
        chunk: int | None = None,
    ) -> Network:
        """These parts with the tensors of `theta` `(size,)`, in the modes they are in.

        `autocast`: dtype to compute in; what comes out is float32. `chunk`: rows that the encoder takes at a time, its
        activations recomputed in the backward pass.
        """
        modal = any(isinstance(module, BatchNorm) for module in self.modules())
        running = {entry.name for entry in layout.entries if entry.kind == "statistic"}

        def apply(theta: Tensor, part: str, *arguments: Any, evaluating: bool = False) -> tuple[Tensor, Slots]:
            def run(*arguments: Any) -> Tensor:
                precision = torch.autocast(theta.device.type, autocast) if autocast is not None else nullcontext()
                with precision, evaluation_mode(self) if evaluating and modal else nullcontext():
                    tensors = layout.unflatten(theta)
                    if evaluating:  # then batch norms read their statistics, through which no gradient goes
                        tensors |= {name: tensors[name].detach() for name in running}
                    out: Tensor = functional_call(self, tensors, (part, *arguments))
                return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out

            if part.split(".")[0] == "encoder" and (rows := len(arguments[0])) > 1:
                if chunk is not None and rows > chunk:
                    return _in_chunks(run, list(range(0, rows, chunk)), arguments, recompute=True), {}
                if chunk is None and self.piece_rows is not None:
                    return _in_chunks(run, piece_starts(rows, self.piece_rows), arguments, recompute=False), {}
            return run(*arguments), collect_batch_statistics(self)

        return Network(apply, theta)


def piece_starts(rows: int, most: int) -> list[int]:
    """Where pieces of at most `most` rows begin: each half of `rows` (the first may be longer) in equal pieces."""
    starts: list[int] = []
    for begin, half in ((0, rows - rows // 2), (rows - rows // 2, rows // 2)):
        size = -(-half // -(-half // most))
        starts += range(begin, begin + half, size)
    return starts


def _in_chunks(run: Callable[..., Tensor], starts: list[int], arguments: tuple[Any, ...], recompute: bool) -> Tensor:
    """`run` on the rows from each of `starts` to the next of the tensors in `arguments`; to `recompute` keeps no
    activations."""
    rows = len(arguments[0])
    pieces = []
    for start, end in pairwise([*starts, rows]):
        part = [a[start:end] if isinstance(a, Tensor) and a.shape[:1] == (rows,) else a for a in arguments]
        if recompute:
            pieces.append(checkpoint(run, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(run(*part))
    return torch.cat(pieces)
