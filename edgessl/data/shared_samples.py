"""Shared data whose items are samples already: gas sensor features and ECG spikes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgessl.data.arrays import array_source
from edgessl.data.shared import SharedData, read_members
from edgessl.errors import ConfigError


def gas_drift(train_batches: Collection[int] = (1,)) -> SharedData:
    """Six gases over 36 months of sensor ageing (Vergara et al., 2012), 128 features as channels: (128,1).

    As channels every feature is normalised by itself: they range from 0.1 to 600,000. `train_batches` train,
    the others of 1,2,3,4,5,6,8,9 test. Groups: batch, ppm.
    """
    found = read_members("gas_drift", "x", "y", "ppm", "batch", "classes")
    chosen = np.isin(found["batch"], list(train_batches))
    if chosen.all() or not chosen.any():
        raise ConfigError(f"train_batches {tuple(train_batches)} leave one side empty; the batches are 1 to 6, 8 and 9")
    train, test = (
        array_source(
            found["x"][rows, :, None],
            labels=found["y"][rows],
            kind="signal",
            layout="channels_first",
            units="sensor features",
            name="gas_drift",
        )
        for rows in (chosen, ~chosen)
    )
    train_groups, test_groups = ({name: found[name][rows] for name in ("batch", "ppm")} for rows in (chosen, ~chosen))
    return SharedData(train, test, tuple(found["classes"].tolist()), train_groups, test_groups)


def qtdb_ecg_spikes() -> SharedData:
    """ECG as level-crossing spikes in {-1,0,1} (PhysioNet's QT database): (4,1301), 618 and 141 items.

    Labels are per step, so the sources have none. Groups: step_labels int64 (N,1301), 0..5, -1 where none.
    """
    found = read_members("qtdb_ecg_spikes", "x_train", "y_train", "x_test", "y_test")
    train, test = (
        array_source(
            found[f"x_{part}"],
            kind="signal",
            layout="channels_last",
            units="spikes",
            name=f"qtdb_ecg_spikes:{part}",
        )
        for part in ("train", "test")
    )
    train_steps, test_steps = (
        np.where(found[f"y_{part}"] == 255, -1, found[f"y_{part}"].astype(np.int64)) for part in ("train", "test")
    )
    return SharedData(train, test, tuple("012345"), {"step_labels": train_steps}, {"step_labels": test_steps})
