"""The server in a secure round: it passes letters on, adds up what is masked, and takes the masks off the sum."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from edgessl.errors import FederationError
from federated.compat import secrets
from federated.exchange import POLL_SECONDS, Exchange
from federated.message import ARRAYS, Float, records, words_array
from federated.privacy.central import CentralPrivacy
from federated.privacy.secure import masks
from federated.privacy.secure.masks import Words
from federated.privacy.secure.protocol import (
    CIPHERTEXT_BYTES,
    KEY_BYTES,
    KEYS,
    LEAST_COHORT,
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
from federated.strategies.base import Streaming

Found = TypeVar("Found")


@dataclass(frozen=True)
class SecureAggregation:
    """How a server wants updates summed.

    Attributes:
        bound: how far a round may move one number of theta; a device that moved one further fails the round.
        neighbours: devices, itself included, among which each splits its secrets; fewer where fewer are asked.
        survivors: share of the neighbours that must last to the end, above one half; what this leaves may drop out.
    """

    bound: float = 4.0
    neighbours: int = 21
    survivors: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1e6:
            raise FederationError(f"bound must lie in (0, 1e6), found {self.bound}")
        if self.neighbours < LEAST_COHORT or not 0.5 < self.survivors <= 1:
            raise FederationError(
                f"at least {LEAST_COHORT} neighbours and more than half of them as survivors are needed, found "
                f"{self.neighbours} and {self.survivors}"
            )

    def terms(self, number: int, cohort: int, clipping_norm: float = 0.0) -> Terms:
        """The terms of a round of `cohort` devices; FederationError for too few."""
        if cohort < LEAST_COHORT:
            raise FederationError(f"secure aggregation needs {LEAST_COHORT} devices in a round, found {cohort}")
        among = min(self.neighbours, cohort)
        among -= among < cohort and among % 2 == 0  # as many on either side
        threshold = max(int(np.ceil(self.survivors * among)), among // 2 + 1)
        return Terms(number, cohort, among, threshold, self.bound, clipping_norm)


class SecureRound:
    """One round; `total` runs it.

    Only the sum of masked vectors is held, 4 P bytes, whatever the number of devices.
    """

    def __init__(self, exchange: Exchange, terms: Terms, nodes: Sequence[int], rng: np.random.Generator) -> None:
        self._exchange, self._terms = exchange, terms
        ring = [int(node) for node in rng.permutation(np.array(nodes, dtype=np.uint64))]
        half, n = terms.neighbours // 2, len(ring)
        self._seed_hashes: dict[int, Any] = {}
        span = range(n) if terms.neighbours == n else range(-half, half + 1)
        self._neighbours = {node: sorted({ring[(i + k) % n] for k in span}) for i, node in enumerate(ring)}

    def total(self, messages: Sequence[Message], size: int) -> tuple[masks.Double, int]:
        """The sum of the changes float64 (P,), as far as masks are removed from it, and of how many devices it is.

        `messages` are the train messages, one per node. Raises FederationError when too many dropped out; what the
        devices sent is then of no use to anybody.
        """
        keys = self._exchange_keys()
        letters = self._exchange_letters(keys)
        words, alive = self._masked(messages, letters, size)
        self._need(alive, "sent their masked updates")
        self._take_off(words, set(letters), alive, keys)
        return masks.from_words(words, self._terms.bound, self._terms.cohort), len(alive)

    def _exchange_keys(self) -> dict[int, tuple[bytes, bytes]]:
        content = RecordDict({SECURE: ConfigRecord({STAGE: KEYS, **self._terms.config()})})

        def read(node: int, reply: RecordDict) -> tuple[bytes, bytes]:
            found = [secure_config(reply).get(name) for name in ("mask-key", "letter-key")]
            if any(not isinstance(key, bytes) or len(key) > KEY_BYTES for key in found):
                raise FederationError("no keys")
            return found[0], found[1]  # type: ignore[return-value]

        keys = dict(self._ask({node: content for node in self._neighbours}, KEYS, read))
        self._need(set(keys), "gave their keys")
        return keys

    def _exchange_letters(self, keys: dict[int, tuple[bytes, bytes]]) -> dict[int, list[tuple[int, bytes]]]:
        """Letters by receiver, of (sender, letter); the receivers are those that wrote theirs."""
        questions = {}
        for node in keys:
            near = [other for other in self._neighbours[node] if other in keys]
            entries = {
                "nodes": near,
                "mask-keys": [keys[n][0] for n in near],
                "letter-keys": [keys[n][1] for n in near],
            }
            questions[node] = self._content(SHARES, entries)

        def read(node: int, reply: RecordDict) -> dict[int, bytes]:
            config = secure_config(reply)
            to, letters = listed(config, "to", int), listed(config, "letters", bytes)
            if sorted([*to, node]) != [n for n in self._neighbours[node] if n in keys] or len(letters) != len(to):
                raise FederationError(f"{len(letters)} letters, to others than its neighbours")
            self._seed_hashes[node] = config.get("seed-hash")
            return dict(zip(to, short_bytes(letters, CIPHERTEXT_BYTES, "a letter"), strict=True))

        written = dict(self._ask(questions, SHARES, read))
        self._need(set(written), "shared their secrets")
        return {node: [(n, written[n][node]) for n in written if node in written[n]] for node in written}

    def _masked(
        self, messages: Sequence[Message], letters: dict[int, list[tuple[int, bytes]]], size: int
    ) -> tuple[Words, set[int]]:
        questions = {}
        for message in messages:
            node = message.metadata.dst_node_id
            if node in letters:
                senders = [sender for sender, _ in letters[node]]
                entries = {"from": senders, "letters": [letter for _, letter in letters[node]]}
                questions[node] = RecordDict({**message.content, **self._content(MASKED, entries)})

        def read(node: int, reply: RecordDict) -> Words:
            arrays = records(reply, ArrayRecord).get(ARRAYS, ArrayRecord())
            if list(arrays) != [MASKED_ARRAY]:
                raise FederationError(f"expected one array {MASKED_ARRAY}, found {list(arrays)}")
            return words_array(arrays[MASKED_ARRAY], size)

        total, alive = np.zeros(size, np.uint32), set[int]()
        for node, words in self._ask(questions, MASKED, read):
            total += words
            alive.add(node)
        return total, alive

    def _take_off(self, words: Words, shared: set[int], alive: set[int], keys: dict[int, tuple[bytes, bytes]]) -> None:
        """Remove from the sum the self-masks of who is in it and the pair masks of who is not."""
        questions = {}
        for node in alive:
            near = set(self._neighbours[node]) & shared
            entries = {"alive": sorted(near & alive), "dropped": sorted(near - alive)}
            questions[node] = self._content(UNMASK, entries)
        shares: dict[int, list[bytes]] = {node: [] for node in shared}

        def read(node: int, reply: RecordDict) -> list[tuple[int, bytes]]:
            config = secure_config(reply)
            of, found = listed(config, "nodes", int), short_bytes(listed(config, "shares", bytes), KEY_BYTES, "a share")
            if len(of) != len(found) or not set(of) <= set(self._neighbours[node]) & shared:
                raise FederationError(f"{len(found)} shares, of others than its neighbours")
            return list(zip(of, found, strict=True))

        for _, found in self._ask(questions, UNMASK, read):
            for node, share in found:
                shares[node].append(share)
        for node in sorted(shared):
            secret = self._secret(node, shares[node])
            if node in alive:
                self._expect(node, hashlib.sha256(secret).digest(), self._seed_hashes[node])
                words -= masks.mask(secret, len(words))
            else:
                self._expect(node, _public_of(secret), keys[node][0])
                for other in set(self._neighbours[node]) & alive:
                    masks.add_pair(words, secrets.shared_key(secret, keys[other][0]), other, node, remove=True)

    def _expect(self, node: int, found: bytes, announced: Any) -> None:
        if found != announced:
            raise FederationError(
                f"round {self._terms.number}: the shares of node {node}'s secret give another one; a device lied"
            )

    def _secret(self, node: int, shares: list[bytes]) -> bytes:
        if len(shares) < self._terms.threshold:
            raise FederationError(
                f"round {self._terms.number}: {len(shares)} shares of node {node}'s secret, {self._terms.threshold} "
                "are needed: too many devices dropped out; what they sent stays masked"
            )
        try:
            return secrets.combine_shares(shares[: self._terms.threshold])
        except ValueError as error:
            raise FederationError(f"round {self._terms.number}: shares of node {node}'s secret: {error}") from None

    def _need(self, there: set[int], what: str) -> None:
        least = self._terms.threshold
        short = [n for n in there if len(there.intersection(self._neighbours[n])) < least]
        if short or len(there) < least:
            raise FederationError(
                f"round {self._terms.number}: {len(there)} of {self._terms.cohort} devices {what}; every one needs "
                f"{least} among its {self._terms.neighbours} neighbours: ask more devices, or wait longer"
            )

    def _content(self, stage: str, entries: dict[str, Any]) -> RecordDict:
        return RecordDict({SECURE: ConfigRecord({STAGE: stage, "number": self._terms.number, **entries})})

    def _ask(
        self, questions: dict[int, RecordDict], stage: str, read: Callable[[int, RecordDict], Found]
    ) -> Iterator[tuple[int, Found]]:
        """What `read` makes of the replies of one stage as they come, until all are there or time is up.

        A device whose reply it refuses has dropped out.
        """
        messages = [Message(content, node, MessageType.TRAIN) for node, content in questions.items()]
        self._exchange.push(messages, self._terms.number, remind=False)  # a device's secrets are told once
        while True:
            for node, reply in self._exchange.raw(self._terms.number):
                try:
                    if secure_config(reply).get(STAGE) != stage or node not in questions:
                        raise FederationError("not what was asked")
                    found = read(node, reply)
                except FederationError as error:
                    self._exchange.tally.failures[str(node)] = f"refused: stage {stage}: {error}"
                    continue
                yield node, found
            if not self._exchange.traffic.busy.intersection(questions):
                return
            self._exchange.wait(POLL_SECONDS)


def _public_of(private: bytes) -> bytes:
    try:
        return secrets.public_of(private)
    except ValueError:
        return b""  # no key at all


def secure_mean(
    strategy: Streaming,
    secure: SecureAggregation,
    exchange: Exchange,
    number: int,
    theta: Float,
    messages: list[Message],
) -> tuple[Float, dict[str, Any]]:
    """One round from theta (P,): the strategy's answer to the mean that secure aggregation gives, and metrics.

    Under central privacy devices cut their changes themselves, since nobody else sees them.
    """
    central = strategy if isinstance(strategy, CentralPrivacy) else None
    terms = secure.terms(number, len(messages), central.clipping_norm if central else 0.0)
    nodes = [message.metadata.dst_node_id for message in messages]
    total, count = SecureRound(exchange, terms, nodes, np.random.default_rng()).total(messages, len(theta))
    exchange.tally.clients = exchange.tally.examples = count
    strategy.begin(number, theta)
    if central:
        central.add_total(total)
    else:
        strategy.add((theta + total / count).astype(np.float32), count)
    return strategy.finish(), central.spent() if central else {}
