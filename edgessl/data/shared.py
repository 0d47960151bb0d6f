"""The shared real data sets by name: where they lie, how they are opened, what each gives."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgessl
from edgessl.data.arrays import read_npz
from edgessl.data.optional import call_with_options
from edgessl.data.source import Source
from edgessl.errors import ConfigError, DataError

Groups = Mapping[str, NDArray[Any]]

# name -> module of edgessl.data that holds the function of that name
_LOADERS = {
    "fashion_mnist": "shared_images",
    "cifar100_sub": "shared_images",
    "nmnist_small": "shared_images",
    "har_phone_watch": "shared_series",
    "hapt": "shared_series",
    "skab": "shared_series",
    "cwru_12k_de": "shared_series",
    "gas_drift": "shared_samples",
    "qtdb_ecg_spikes": "shared_samples",
    "fsdd": "shared_speech",
    "speech_commands": "shared_speech",
    "tinyshakespeare": "shared_text",
    "phone_watch_pairs": "shared_pairs",
    "digit_pairs_by_label": "shared_pairs",
}
NAMES = tuple(_LOADERS)

# name -> stem of its file, where they differ
_FILES = {
    "speech_commands": "speech_commands_v2_test_8k",
    "phone_watch_pairs": "har_phone_watch",
    "digit_pairs_by_label": "fsdd",
}


@dataclass(frozen=True, eq=False)
class SharedData:
    """Train and test sources with their labels' names, and per-sample arrays such as subject or purity."""

    train: Source
    test: Source
    classes: tuple[str, ...]
    train_groups: Groups = field(default_factory=lambda: MappingProxyType({}))
    test_groups: Groups = field(default_factory=lambda: MappingProxyType({}))


def load_shared(name: str, *, verify: bool = False, **options: Any) -> SharedData:
    """Open the shared data set `name` (one of NAMES); the options are those of the function of that name.

    verify: check the file's sha256 first.
    ConfigError for an unknown name or option; DataError where the file is absent or damaged.
    """
    if name not in _LOADERS:
        raise ConfigError(f"no shared data set {name!r}; expected one of {', '.join(NAMES)}")
    module = importlib.import_module(f"edgessl.data.{_LOADERS[name]}")
    if verify:
        verify_file(_FILES.get(name, name))
    loaded: SharedData = call_with_options(getattr(module, name), f"shared data {name!r}", **options)
    return loaded


def load_tokens(*, verify: bool = False) -> NDArray[np.uint8]:
    """tinyshakespeare: 1,115,394 ASCII codes, uint8: the raw text; `load_shared` gives its windows."""
    if verify:
        verify_file("tinyshakespeare")
    return read_members("tinyshakespeare", "text")["text"].astype(np.uint8)


def data_folder() -> Path:
    """The folder of the shared data: EDGESSL_DATA, or ../shared/data beside here or the repository."""
    told = os.environ.get("EDGESSL_DATA")
    if told:
        if not Path(told).is_dir():
            raise DataError(f"EDGESSL_DATA={told}: no folder there; set it to the folder of the shared .npz files")
        return Path(told)
    candidates = [base / "shared" / "data" for base in (Path.cwd().parent, Path(edgessl.__file__).parents[2])]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"shared data absent: looked in {' and '.join(map(str, candidates))};"
        " set EDGESSL_DATA to the folder of the shared .npz files"
    )


def data_file(stem: str) -> Path:
    """The path of `stem`.npz; DataError if it is absent."""
    path = data_folder() / f"{stem}.npz"
    if not path.is_file():
        raise DataError(f"{path}: shared data absent; set EDGESSL_DATA to the folder that holds {path.name}")
    return path


def verify_file(stem: str) -> None:
    """Compare the file's sha256 with SHA256SUMS beside it; DataError if they differ."""
    path = data_file(stem)
    sums = path.with_name("SHA256SUMS")
    if not sums.is_file():
        raise DataError(f"{sums}: absent, so that {path.name} cannot be verified")
    lines = (line.split() for line in sums.read_text().splitlines())
    expected = {words[1].lstrip("*"): words[0] for words in lines if len(words) == 2}.get(path.name)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise DataError(f"{path}: sha256 is {found}, SHA256SUMS says {expected}; fetch the file again")


def read_members(stem: str, *names: str) -> dict[str, NDArray[Any]]:
    """The arrays `names` of `stem`.npz, never pickled; DataError names the file and what is wrong."""
    return read_npz(data_file(stem), names)
