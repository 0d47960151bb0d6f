"""Arrays: `.npy` files (memory-mapped), `.npz` files (loaded) and arrays that are already in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgessl.data.series import WindowSource, windows_of
from edgessl.data.source import Kind, checked_indices, checked_labels, float_samples
from edgessl.errors import ConfigError, DataError

Layout = Literal["channels_first", "channels_last", "no_channels"]

_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Samples stored in one array; see `array_source`, which infers and checks these facts."""

    x: NDArray[Any]  # (N, ...) in the stored dtype and layout, possibly a memory map
    kind: Kind
    shape: tuple[int, ...]
    units: str
    layout: Layout
    full_scale: float  # value = stored / full_scale
    name: str
    labels: NDArray[np.int64] | None = None
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: NDArray[Any]) -> NDArray[np.float32]:
        """Read samples; see Source.take. DataError if an image leaves [0,1]."""
        chosen = checked_indices(indices, len(self))
        raw = self.x[chosen]
        if self.layout == "no_channels":
            raw = raw[:, None]
        elif self.layout == "channels_last":
            raw = np.moveaxis(raw, -1, 1)
        values = float_samples(raw, self.name, chosen)
        if self.full_scale != 1:
            values /= np.float32(self.full_scale)
        if self.kind == "image" and len(values) and (values.min() < 0 or values.max() > 1):
            raise DataError(
                f"{self.name}: image values run from {values.min():g} to {values.max():g}; expected 0 to 1."
                " Give full_scale=255 (or the largest value that the data can hold)"
            )
        return values


def array_source(
    x: NDArray[Any],
    *,
    labels: NDArray[Any] | None = None,
    kind: Kind | None = None,
    layout: Layout | None = None,
    full_scale: float | None = None,
    units: str | None = None,
    name: str = "array",
) -> ArraySource:
    """A source over the array `x` (N, ...), which is not copied.

    kind: by default from the number of axes: 4 "image"; 3 "image" if uint8, otherwise "signal"; 2 "signal".
    layout: "channels_first" (NCHW, NCT), "channels_last" (NHWC, NTC) or "no_channels" (NHW, NT). By default
        an image's channel axis is the only end of the sample's shape with 1 to 4 entries, a signal's the one
        at least 4 times shorter than the other; DataError where that does not decide. "features" have none.
    full_scale: stored values are divided by it; by default 255 for uint8 images and 1 otherwise.
    """
    if x.dtype.kind not in "biuf" or x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{name}: found {x.dtype} of shape {x.shape}; expected a numeric array (samples, ...) that is not empty"
        )
    if kind is None:
        kind = "image" if x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8) else "signal"
    if kind not in get_args(Kind):
        raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}")
    layout = _layout(x.shape[1:], kind, layout, name)
    sample = x.shape[1:]
    shape = {
        "channels_first": sample,
        "channels_last": (sample[-1], *sample[:-1]),
        "no_channels": (1, *sample),
    }[layout]
    if full_scale is None:
        full_scale = 255.0 if kind == "image" and x.dtype == np.uint8 else 1.0
    if not full_scale > 0:
        raise ConfigError(f"full_scale is {full_scale}; give a number above 0")
    return ArraySource(
        x,
        kind,
        shape,
        units if units is not None else ("intensity 0..1" if kind == "image" else "as stored"),
        layout,
        float(full_scale),
        name,
        None if labels is None else checked_labels(labels, len(x), name),
    )


def open_array(
    path: str | Path,
    *,
    x: str = "x",
    y: str = "y",
    labels: str | Path | None = None,
    kind: Kind | None = None,
    layout: Layout | None = None,
    full_scale: float | None = None,
    units: str | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> ArraySource | WindowSource:
    """Open a `.npy` (memory-mapped) or `.npz` (member `x`, labels in member `y` if there; loaded whole).

    labels: a `.npy` of one integer per sample (per row with `window`), instead of member `y`.
    window, stride: the array is one series (rows, channels), cut into windows of that many rows.
    The other options are `array_source`'s. Pickled objects are refused. Raises DataError.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        members = read_npz(path, [x], [y], advice="name the samples with x=... and the labels with y=...")
        found, stored_labels = members[x], members.get(y)
    else:
        found, stored_labels = read_npy(path), None
    if labels is not None:
        stored_labels = read_npy(Path(labels))
    if window is None:
        return array_source(
            found, labels=stored_labels, kind=kind, layout=layout, full_scale=full_scale, units=units,
            name=str(path),
        )  # fmt: skip
    if kind not in (None, "signal") or layout is not None:
        raise ConfigError("window cuts a series (rows, channels) into signals; leave kind and layout out")
    return windows_of(
        found,
        window=window,
        stride=stride,
        scale=1.0 if full_scale is None else 1.0 / full_scale,
        labels=None if stored_labels is None else checked_labels(stored_labels, len(found), str(path)),
        units=units or "as stored",
        name=str(path),
    )


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file as a read-only memory map; DataError if it is not one."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a .npy file without objects, found: {error}") from error


def read_npz(
    path: Path, names: Collection[str], optional: Collection[str] = (), advice: str = "fetch the file again"
) -> dict[str, NDArray[Any]]:
    """The members `names` of a `.npz`, and those of `optional` that it has; DataError ends with `advice`."""
    try:
        with path.open("rb") as stream:
            members = np.lib.npyio.NpzFile(stream, allow_pickle=False)
            missing = [name for name in names if name not in members.files]
            wanted = [name for name in (*names, *optional) if name in members.files]
            found = {name: members[name] for name in wanted}
            held = ", ".join(sorted(members.files)) or "none"
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a .npz file without objects, found: {error}") from error
    missing += [name for name, value in found.items() if not isinstance(value, np.ndarray)]
    if missing:
        raise DataError(f"{path}: expected an array {missing[0]!r}, found {held}; {advice}")
    return found


def _layout(sample: tuple[int, ...], kind: Kind, layout: Layout | None, name: str) -> Layout:
    if kind == "features" and len(sample) == 1 and layout is None:
        return "channels_first"
    axes = {"features": 1, "signal": 2}.get(kind, 3)
    if layout is None:
        if len(sample) == axes - 1:
            return "no_channels"
        if len(sample) == axes:
            first, last = sample[0], sample[-1]
            if kind == "signal":
                is_first, is_last = 4 * first <= last, 4 * last <= first
            else:
                is_first, is_last = first <= 4, last <= 4
            if is_first != is_last:
                return "channels_first" if is_first else "channels_last"
            raise DataError(
                f"{name}: cannot tell which axis of a {kind} of shape {sample} holds the channels;"
                " give layout='channels_first' or 'channels_last', or kind='image' if it is a grey image"
            )
    elif layout not in get_args(Layout):
        raise ConfigError(f"layout is {layout!r}; expected one of {', '.join(get_args(Layout))}")
    elif len(sample) == (axes - 1 if layout == "no_channels" else axes):
        return layout
    raise DataError(
        f"{name}: samples have shape {sample}; a {kind} has {axes} axes with channels or {axes - 1} without"
        f"{f', not what layout={layout!r} says' if layout else ''}. Reshape the array or give another kind"
    )
