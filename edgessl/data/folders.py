"""Files below a folder, in an order that does not depend on the machine, and classes from sub-folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import DataError


def list_files(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below `root` with one of `suffixes` (lower case), sorted by relative path; hidden ones left out.

    Links to folders are not followed. DataError if `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(suffixes)]
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def folder_classes(root: Path, files: Sequence[Path]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Label of each file and the class names: the sub-folder of `root` it lies in, sorted by name.

    (None, ()) if any file lies in `root` itself.
    """
    names = [path.relative_to(root).parts[0] for path in files if path.parent != root]
    if len(names) < len(files):
        return None, ()
    classes, labels = np.unique(names, return_inverse=True)
    return labels.astype(np.int64), tuple(classes.tolist())
