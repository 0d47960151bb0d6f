"""Shared data that are long recordings, cut into windows: human activity, a pump, bearings."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgessl.data.series import WindowSource, windows_of
from edgessl.data.shared import SharedData, read_members
from edgessl.data.source import Subset
from edgessl.errors import ConfigError

# The subjects of the test part of UCI's "Human Activity Recognition Using Smartphones".
_HAPT_TEST_USERS = (2, 4, 9, 10, 12, 13, 18, 20, 24)


def har_phone_watch(
    device: Literal["phone", "watch"] = "phone",
    window: int = 128,
    stride: int = 64,
    test_subjects: Collection[int] = tuple(range(17, 24)),
) -> SharedData:
    """Five activities of 23 people by phone and watch at about 103 Hz: (6,T), acceleration and rotation.

    Windows lie within one execution; both devices have the same executions. Subjects 1..16 train and 17..23
    test by default. A window's label is its most frequent one. Groups: subject, execution, recording, purity.
    """
    if device not in ("phone", "watch"):
        raise ConfigError(f"device is {device!r}; expected 'phone' or 'watch'")
    prefix = "sp_" if device == "phone" else "sw_"
    names = [prefix + name for name in ("x", "scale", "t_ms", "y", "offsets", "subject", "execution")]
    found = read_members("har_phone_watch", "classes", *names)
    x, scale, t_ms, y, offsets, subject, execution = (found[name] for name in names)
    source = windows_of(
        x,
        window=window,
        stride=stride,
        scale=scale,
        labels=y.astype(np.int64),
        times=t_ms / 1000,
        groups=_recordings(offsets),
        units="m/s^2 (3), rad/s (3)",
        name=f"har_phone_watch:{device}",
    )
    groups = {"subject": subject, "execution": execution}
    test = np.isin(subject, list(test_subjects))
    return _split(source, groups, test, tuple(found["classes"].tolist()))


def hapt(window: int = 128, stride: int = 64, test_users: Collection[int] = _HAPT_TEST_USERS) -> SharedData:
    """Smartphone activities and postural transitions (Reyes-Ortiz et al., 2016) at 50 Hz: (6,T), 12 classes.

    Labels are 0..11, and -1 where most of the window is unlabelled. The users of UCI HAR's test part test by
    default. Groups: user, experiment, recording, purity.
    """
    found = read_members("hapt", "x", "scale", "y", "offsets", "user", "experiment", "classes", "rate")
    recordings = _recordings(found["offsets"])
    within = np.arange(len(recordings)) - found["offsets"].astype(np.int64)[recordings]
    source = windows_of(
        found["x"],
        window=window,
        stride=stride,
        scale=found["scale"],
        labels=found["y"].astype(np.int64) - 1,
        times=within / float(found["rate"]),
        groups=recordings,
        units="g (3), rad/s (3)",
        name="hapt",
    )
    groups = {"user": found["user"], "experiment": found["experiment"]}
    return _split(source, groups, np.isin(found["user"], list(test_users)), tuple(found["classes"][1:].tolist()))


def skab(window: int = 64, stride: int = 32, max_gap: float = 5.0) -> SharedData:
    """Skoltech's pump test bed (Katser, Kozitsin, 2020) at about 1 Hz: (8,T), label 1 is anomalous.

    The anomaly-free recording trains, the 34 others test; no window crosses a gap above `max_gap` seconds.
    Timestamps are Unix time. Groups: recording, purity.
    """
    found = read_members("skab", "x", "anomaly", "t", "offsets", "channels")
    source = windows_of(
        found["x"],
        window=window,
        stride=stride,
        labels=found["anomaly"].astype(np.int64),
        times=found["t"].astype(np.float64),
        groups=_recordings(found["offsets"]),
        max_gap=max_gap,
        units=", ".join(found["channels"].tolist()),
        name="skab",
    )
    return _split(source, {}, np.arange(len(found["offsets"]) - 1) > 0, ("normal", "anomaly"))


def cwru_12k_de(window: int = 1024, stride: int = 1024, train_loads: Collection[int] = (0,)) -> SharedData:
    """Bearing vibration at the drive end (Case Western Reserve University), 12 kHz: (1,T), 4 conditions.

    Recordings under `train_loads` (horsepower, 0..3) train, the others test; only load 0 has the normal
    condition. Groups: load_hp, size_mil (fault diameter, 0.001 inch), rpm, recording, purity.
    """
    names = ("x", "scale", "fault", "size_mil", "load_hp", "rpm", "faults", "rate")
    found = read_members("cwru_12k_de", *names)
    recordings, samples = found["x"].shape
    source = windows_of(
        found["x"].reshape(-1, 1),
        window=window,
        stride=stride,
        scale=float(found["scale"]),
        labels=np.repeat(found["fault"].astype(np.int64), samples),
        times=np.tile(np.arange(samples) / float(found["rate"]), recordings),
        groups=np.repeat(np.arange(recordings), samples),
        units="g",
        name="cwru_12k_de",
    )
    groups = {name: found[name] for name in ("load_hp", "size_mil", "rpm")}
    test = ~np.isin(found["load_hp"], list(train_loads))
    return _split(source, groups, test, tuple(found["faults"].tolist()))


def _recordings(offsets: NDArray[Any]) -> NDArray[np.int64]:
    """The number of the recording that each row is from."""
    return np.repeat(np.arange(len(offsets) - 1), (offsets[1:] - offsets[:-1]).astype(np.int64))


def _split(
    source: WindowSource, facts: dict[str, NDArray[Any]], test: NDArray[np.bool_], classes: tuple[str, ...]
) -> SharedData:
    """Divide windows by whether their recording is for test; `facts` hold one entry per recording."""
    recording, purity = source.groups, source.purity
    if recording is None or purity is None or test.all() or not test.any():
        raise ConfigError(f"{source.name}: every recording would be on one side; change which ones test")
    groups = {name: values[recording] for name, values in facts.items()}
    groups |= {"recording": recording, "purity": purity}
    chosen = [np.flatnonzero(test[recording] == side) for side in (False, True)]
    train_groups, test_groups = ({name: v[i] for name, v in groups.items()} for i in chosen)
    return SharedData(Subset(source, chosen[0]), Subset(source, chosen[1]), classes, train_groups, test_groups)
