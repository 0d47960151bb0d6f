"""What a continual learner kept and what it gained: figures of the accuracy matrix.

`R` (T + 1, T): `R[i, j]` is the accuracy on context j after i contexts of the stream have passed; row 0 is before any
learning on it. Rows may be judged *task-aware* (the judge's labelled bank holds the sample's own context only) or
*pooled* (it holds all contexts); on the same embeddings the two can differ in sign, so both are kept and named.

Forgetting says nothing without accuracy (a frozen network forgets nothing): `Summary` has both, and so must any table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgessl.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Summary:
    """Figures of one accuracy matrix; all in accuracy units, differences positive where the name says more.

    Attributes:
        final_accuracy: mean over contexts at the end, mean of `R[T]`.
        average_accuracy: after each context, the mean over the contexts seen so far; the mean of these.
        forgetting: mean over all contexts but the last of the best accuracy since it was seen minus the final one
            (Chaudhry et al. 2018, arXiv 1801.10112); negative where later contexts helped.
        backward_transfer: mean over them of the final accuracy minus that just after the context (Lopez-Paz and
            Ranzato 2017, arXiv 1706.08840).
        forward_transfer: mean over all contexts but the first of the accuracy just before the context comes minus the
            one before any learning (same source, their random network being the start here).
        plasticity: mean over contexts of what its own coming added, `R[j + 1, j] - R[j, j]`.
        learned_accuracy: mean over contexts of the accuracy just after each.
        online_area: area under the mean accuracy over all contexts against samples seen, by trapezoids, divided by the
            length of the stream (Koh et al. 2022, arXiv 2110.10031, in their measure's spirit at context ends).
    """

    final_accuracy: float
    average_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float
    plasticity: float
    learned_accuracy: float
    online_area: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def summarize(matrix: Array, positions: Sequence[int]) -> Summary:
    """The figures of an accuracy matrix (T + 1, T), judged after `positions` (T + 1,) samples of the stream.

    With one context only, what needs two (forgetting, both transfers) is 0.

    Raises:
        InputError: wrong shapes, accuracies outside [0, 1] or positions that do not grow from 0.
    """
    found = _checked(matrix)
    contexts = found.shape[1]
    seen = np.asarray(positions, np.float64)
    if seen.shape != (contexts + 1,) or seen[0] != 0 or (np.diff(seen) <= 0).any():
        raise InputError(f"positions {list(positions)}: expected {contexts + 1} numbers that grow from 0")
    after = np.diagonal(found, -1)  # R[j + 1, j]: just after context j
    means = [found[i, :i].mean() for i in range(1, contexts + 1)]
    late = found.mean(axis=1)
    return Summary(
        final_accuracy=float(found[-1].mean()),
        average_accuracy=float(np.mean(means)),
        forgetting=_mean(forgetting(found)[-1, :-1]),
        backward_transfer=_mean(found[-1, :-1] - after[:-1]),
        forward_transfer=_mean(np.diagonal(found)[1:] - found[0, 1:]),
        plasticity=float((after - np.diagonal(found)).mean()),
        learned_accuracy=float(after.mean()),
        online_area=float((np.diff(seen) * (late[1:] + late[:-1]) / 2).sum() / seen[-1]),
    )


def forgetting(matrix: Array) -> Array:
    """(T, T): [i, j] is the best accuracy on context j since it was seen minus that after context i; 0 for j >= i.

    Of `matrix` (T + 1, T) with the row before any learning, which plays no part.
    """
    rows = _checked(matrix)[1:]
    lost = np.zeros_like(rows)
    for j in range(len(rows)):
        for i in range(j + 1, len(rows)):
            lost[i, j] = rows[j:i, j].max() - rows[i, j]
    return lost


def recovered(finetune: float, joint: float, strategy: float) -> float:
    """Share of the gap between fine-tuning and joint training that a strategy closes; NaN unless joint is better."""
    return (strategy - finetune) / (joint - finetune) if joint > finetune else float("nan")


def matrix_csv(matrix: Array, names: Sequence[str]) -> str:
    """The accuracy matrix as CSV: a header of context names, one row per judgement, the first before any learning."""
    found = _checked(matrix)
    if len(names) != found.shape[1]:
        raise InputError(f"{len(names)} names for {found.shape[1]} contexts")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after", *names])
    for label, row in zip(["start", *names], found, strict=True):
        writer.writerow([label, *(f"{value:.6f}" for value in row)])
    return text.getvalue()


def read_matrix_csv(text: str) -> tuple[Array, list[str]]:
    """What `matrix_csv` wrote: the matrix (T + 1, T) and the names; InputError for anything else."""
    rows = list(csv.reader(io.StringIO(text)))
    try:
        header, values = rows[0], [[float(cell) for cell in row[1:]] for row in rows[1:]]
        if header[0] != "after" or [row[0] for row in rows[1:]] != ["start", *header[1:]]:
            raise ValueError("row or column names")
        return _checked(np.array(values)), header[1:]
    except (IndexError, ValueError) as error:
        raise InputError(f"not an accuracy matrix: {error}") from None


def mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    """`{"mean", "std", "seeds"}` of one figure over seeds; the standard deviation is the sample's (n - 1)."""
    array = np.asarray(values, np.float64)
    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "std": spread, "seeds": [float(v) for v in array]}


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else 0.0


def _checked(matrix: Array) -> Array:
    found = np.asarray(matrix, np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] + 1 or found.shape[1] < 1:
        raise InputError(f"accuracy matrix: expected shape (T + 1, T), found {found.shape}")
    if not ((found >= 0) & (found <= 1)).all():
        raise InputError("accuracy matrix: expected numbers in [0, 1]")
    return found
