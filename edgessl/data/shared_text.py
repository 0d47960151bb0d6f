"""Shared data that are text."""

from __future__ import annotations

import numpy as np

from edgessl.data.shared import SharedData, load_tokens
from edgessl.data.tokens import token_windows
from edgessl.errors import ConfigError


def tinyshakespeare(window: int = 64, stride: int | None = None, test_share: float = 0.1) -> SharedData:
    """1,115,394 characters of Shakespeare (Karpathy, 2015) as ids of 65 symbols: (1,window), no labels.

    Ids number the symbols in the order of their codes. The last `test_share` of the text tests, as in char-rnn and
    nanoGPT. Windows follow each other without overlap unless `stride` says otherwise.
    """
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share is {test_share}; expected a share between 0 and 1")
    symbols, ids = np.unique(load_tokens(), return_inverse=True)
    cut = int((1 - test_share) * len(ids))
    names = tuple(chr(code) for code in symbols)
    train, test = (
        token_windows(
            part.astype(np.uint8),
            window=window,
            stride=stride,
            vocabulary=len(symbols),
            symbols=names,
            name=f"tinyshakespeare:{side}",
        )
        for side, part in (("train", ids[:cut]), ("test", ids[cut:]))
    )
    return SharedData(train, test, ())
