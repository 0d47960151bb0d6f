"""A device in a secure round."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from edgessl.errors import FederationError
from federated.compat import secrets
from federated.message import ARRAYS, Float, records
from federated.privacy.gaussian import clip
from federated.privacy.secure import masks
from federated.privacy.secure.protocol import (
    CIPHERTEXT_BYTES,
    KEY_BYTES,
    KEYS,
    MASKED,
    MASKED_ARRAY,
    SECURE,
    SHARES,
    STAGE,
    UNMASK,
    Terms,
    listed,
    secure_config,
    short_bytes,
)

_NEXT = {KEYS: "", SHARES: KEYS, MASKED: SHARES, UNMASK: MASKED}  # stage -> the one before


class SecureDevice:
    """One device's secrets of one round at a time.

    They live in `memory`, a Flower RecordDict (a ClientApp's context.state), never on disk: a device that restarts in
    the middle of a round is one that dropped out of it. Stages come in order and each once, so that no server gets
    shares of both secrets of a neighbour.
    """

    def __init__(self, memory: RecordDict, node: int) -> None:
        self._memory, self._node = memory, node
        self._kept: dict[str, Any] = dict(records(memory, ConfigRecord).get(SECURE, ConfigRecord()))

    def answer(self, content: RecordDict) -> RecordDict:
        """The reply to a message of the stages KEYS, SHARES and UNMASK; FederationError for one out of order."""
        config = secure_config(content)
        stage = self._advance(config)
        if stage == KEYS:
            return self._reply(stage, self._keys(config))
        if stage == SHARES:
            return self._reply(stage, self._shares(config))
        return self._reply(stage, self._unmask(config))

    def begin(self, content: RecordDict) -> None:
        """Before training for a message of the stage MASKED; FederationError for one out of order."""
        self._advance(secure_config(content))

    def seal(self, theta: Float, reference: Float, content: RecordDict) -> RecordDict:
        """The reply to that message: the change from `reference` (P,) to theta (P,), masked."""
        config = secure_config(content)
        terms = Terms.of(self._kept)
        change = theta.astype(np.float64) - reference
        if terms.clipping_norm:
            change = clip(change, terms.clipping_norm)
        words = masks.to_words(change, terms.bound, terms.cohort)
        words += masks.mask(self._kept["seed"], len(words))
        keys = dict(zip(self._kept["nodes"], self._kept["mask-keys"], strict=True))
        for node, (seed_share, key_share) in self._opened(config).items():
            self._kept[f"share.{node}"] = [seed_share, key_share]
            secret = secrets.shared_key(self._kept["mask-private"], keys[node])
            masks.add_pair(words, secret, self._node, node)
        reply = self._reply(MASKED, {})
        reply[ARRAYS] = ArrayRecord({MASKED_ARRAY: Array(words)})
        return reply

    def _advance(self, config: Mapping[str, Any]) -> str:
        stage, number = str(config.get(STAGE)), config.get("number")
        if stage not in _NEXT:
            raise FederationError(f"secure aggregation: unknown stage {stage!r}")
        if stage == KEYS:
            self._kept = {}
        elif (self._kept.get(STAGE), self._kept.get("number")) != (_NEXT[stage], number):
            self._forget()
            raise FederationError(
                f"secure aggregation: stage {stage} of round {number} is not what comes next on this device; it takes "
                "part in the next round"
            )
        self._kept[STAGE] = stage
        return stage

    def _keys(self, config: Mapping[str, Any]) -> dict[str, Any]:
        terms = Terms.of(config)
        mask_private, mask_public = secrets.new_keys()
        letter_private, letter_public = secrets.new_keys()
        self._kept |= terms.config() | {"mask-private": mask_private, "mask-public": mask_public}
        self._kept |= {"letter-private": letter_private}
        return {"mask-key": mask_public, "letter-key": letter_public}

    def _shares(self, config: Mapping[str, Any]) -> dict[str, Any]:
        terms, nodes = Terms.of(self._kept), listed(config, "nodes", int)
        mask_keys, letter_keys = (
            short_bytes(listed(config, key, bytes), KEY_BYTES, key) for key in ("mask-keys", "letter-keys")
        )
        known = dict(zip(nodes, mask_keys, strict=False))
        distinct = len({*mask_keys, *letter_keys}) == 2 * len(nodes) == 2 * len(known) == 2 * len(letter_keys)
        if not distinct or not terms.threshold <= len(nodes) <= terms.neighbours:
            raise FederationError(f"secure aggregation: {len(nodes)} neighbours, or not all of them distinct")
        if known.get(self._node) != self._kept["mask-public"]:
            raise FederationError("secure aggregation: the server gives this device's key as another one")
        seed = os.urandom(32)
        of_seed, of_key = (
            secrets.create_shares(secret, terms.threshold, terms.neighbours)
            for secret in (seed, self._kept["mask-private"])
        )
        private, others = self._kept["letter-private"], zip(nodes, letter_keys, strict=True)
        envelopes = [b"" if node == self._node else secrets.shared_key(private, key) for node, key in others]
        self._kept |= {"seed": seed, "nodes": nodes, "mask-keys": mask_keys, "envelopes": envelopes}
        to, letters = [], []
        for i, node in enumerate(nodes):
            if node == self._node:
                self._kept[f"share.{node}"] = [of_seed[i], of_key[i]]
                continue
            to.append(node)
            letters.append(
                secrets.encrypt(envelopes[i], _letter(terms.number, self._node, node, of_seed[i], of_key[i]))
            )
        return {"to": to, "letters": letters, "seed-hash": hashlib.sha256(seed).digest()}

    def _opened(self, config: Mapping[str, Any]) -> dict[int, tuple[bytes, bytes]]:
        """The neighbours' shares by neighbour, decrypted; FederationError for what is not from them, for this round."""
        terms, senders = Terms.of(self._kept), listed(config, "from", int)
        letters = short_bytes(listed(config, "letters", bytes), CIPHERTEXT_BYTES, "a letter")
        envelopes = dict(zip(self._kept["nodes"], self._kept["envelopes"], strict=True))
        known = len(set(senders)) == len(senders) and set(senders) <= set(envelopes) - {self._node}
        if not known or len(letters) != len(senders) or len(senders) + 1 < terms.threshold:
            raise FederationError(f"secure aggregation: letters of {len(senders)} neighbours; {terms.threshold} needed")
        opened = {}
        for node, letter in zip(senders, letters, strict=True):
            try:
                plain = secrets.decrypt(envelopes[node], letter)
            except Exception:  # cryptography's InvalidToken, for anything that was not encrypted with this key
                raise FederationError(f"secure aggregation: a letter is not from node {node}") from None
            opened[node] = _read_letter(plain, terms.number, node, self._node)
        return opened

    def _unmask(self, config: Mapping[str, Any]) -> dict[str, Any]:
        terms = Terms.of(self._kept)
        alive, dropped = (listed(config, key, int) for key in ("alive", "dropped"))
        both = [*alive, *dropped]
        if len(set(both)) != len(both) or not set(both) <= set(self._kept["nodes"]) or len(alive) < terms.threshold:
            self._forget()
            raise FederationError(
                f"secure aggregation: shares asked for {len(alive)} survivors and {len(dropped)} others; "
                f"at least {terms.threshold} survivors, and none twice, are needed"
            )
        found = {node: self._kept.get(f"share.{node}") for node in both}
        have = [node for node in both if found[node] is not None]  # none from who dropped out before it sent any
        shares = [found[node][0 if node in alive else 1] for node in have]  # type: ignore[index]
        self._forget()  # before the reply: nothing of this round is ever said again
        return {"nodes": have, "shares": shares}

    def _reply(self, stage: str, entries: Mapping[str, Any]) -> RecordDict:
        if self._kept:
            self._memory[SECURE] = ConfigRecord(self._kept)
        return RecordDict({SECURE: ConfigRecord({STAGE: stage, **entries})})

    def _forget(self) -> None:
        self._kept = {}
        self._memory.pop(SECURE, None)


def _letter(number: int, sender: int, receiver: int, *shares: bytes) -> bytes:
    head = b"".join(value.to_bytes(8, "little") for value in (number, sender, receiver, len(shares[0])))
    return head + b"".join(shares)


def _read_letter(plain: bytes, number: int, sender: int, receiver: int) -> tuple[bytes, bytes]:
    head = [int.from_bytes(plain[i : i + 8], "little") for i in range(0, 32, 8)]
    if head[:3] != [number, sender, receiver] or not 0 < head[3] < len(plain) - 32:
        raise FederationError(
            f"secure aggregation: a letter of node {sender} is of another round or for another device"
        )
    return plain[32 : 32 + head[3]], plain[32 + head[3] :]
