"""The server of a federation: rounds that go on without the replies that cannot be used, and after a restart."""

import copy
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.errors import FederationError
from federated.asynchronous import Buffered
from federated.checkpoint import PER_NODE, Head, ServerStore, unspent
from federated.codecs import parse_codec
from federated.codecs.downlink import Downlink
from federated.codecs.link import WHOLE
from federated.compat.heartbeat import beating
from federated.compatibility import plan_of
from federated.exchange import Exchange, Tally, dense
from federated.lineage import Version, layout_hash
from federated.message import ARRAYS, CODEC, CONFIG, DIGEST, ROUND, THETA, Float, flat_array, version_of
from federated.privacy.secure.server import SecureAggregation, secure_mean
from federated.result import FederationResult
from federated.selection import Chosen, Eligible, Selection
from federated.settings import RoundSettings
from federated.strategies import FedBuff, Stateful, Streaming, StreamingFedAvg
from federated.traffic import Traffic

REFUSALS = 3  # versions refused one after the other, after which a run ends

OnRound = Callable[[dict[str, Any], Float], None]
Review = Callable[[dict[str, Any], Float], str]
"""(record, theta) of a new version -> why it must not become the fleet's; "" if it may."""


def make_server_app(
    initial_theta: Float,
    bundle_digest: str,
    settings: RoundSettings,
    *,
    layout: Sequence[ParameterEntry] = (),
    strategy: Strategy | FedBuff | None = None,
    client_config: Mapping[str, str | int | float] | None = None,
    secure: SecureAggregation | None = None,
    eligible: Eligible | None = None,
    review: Review | None = None,
    on_round: OnRound | None = None,
    save_to: Path | None = None,
    state_dir: Path | None = None,
) -> ServerApp:
    """A ServerApp that starts from `initial_theta` float32 (P,), the weights of the bundle with that digest.

    A reply that is an error, that does not come in time or that `message.unpack` refuses (NaN, wrong size, another
    bundle, an earlier round ...) is left out, its reason recorded, and the round goes on; with fewer than
    `settings.min_replies` good ones the run ends with a FederationError that lists the reasons. After every round the
    weights are written to `save_to` (see FederationResult.save) and `on_round` is called with the round's record and
    theta.

    layout: the bundle's manifest.parameters; devices then refuse weights of another one.
    strategy: any Flower strategy instead of StreamingFedAvg, or FedBuff; Flower's own hold all the replies of a round
        in memory. One that is `Stateful` is part of the checkpoint.
    client_config: goes to the devices with every message: the rule they follow (`federated.rules`), the codec.
    secure: rounds with secure aggregation: the strategy sees the mean, and nobody a single update.
    eligible: see `selection.Eligible`.
    review: looks at every new version before it becomes the fleet's. One that is refused is in the log and nowhere
        else: the fleet goes on from its parent, as after `checkpoint.ServerStore.roll_back`; three in a row end a run.
    state_dir: where the round log and every version are kept (see `checkpoint`). A run that was interrupted goes on
        from there: with devices that answer alike, to the same weights bit for bit.
    """
    flat_array(Array(initial_theta), len(initial_theta))
    plan_of(strategy or StreamingFedAvg(), settings, secure=secure is not None).check()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        downlink = (
            None if settings.downlink == WHOLE else Downlink(parse_codec(settings.downlink), version_of(initial_theta))
        )
        traffic = Traffic(grid, settings.round_timeout, settings.remind_after)
        exchange = Exchange(traffic, bundle_digest, len(initial_theta), downlink)
        run = _Run(exchange, settings, strategy or StreamingFedAvg(), Selection(settings, eligible))
        run.secure = secure
        run.fixed = {**(client_config or {}), DIGEST: bundle_digest}
        if (settings.codec, settings.downlink) != (WHOLE, WHOLE):
            run.fixed[CODEC] = settings.codec
        first = Version(
            secrets.token_hex(8), 0, 0, version_of(initial_theta), "", layout_hash(layout) if layout else ""
        )
        kept = ServerStore(state_dir, bundle_digest) if state_dir is not None else nullcontext()
        with beating(grid), kept as store:
            history = run.start(store, Head(first, initial_theta))
            try:
                while run.head.last < settings.rounds:
                    record = run.round(review)
                    history.append({key: value for key, value in record.items() if key != PER_NODE})
                    if save_to is not None:
                        FederationResult(run.head.theta, history, run.head.seconds).save(save_to, bundle_digest)
                    if on_round is not None:
                        on_round(record, run.head.theta)
            except FederationError as error:
                if store is not None:
                    store.log.append("failed", number=run.head.last + 1, reason=str(error))
                raise

    return app


class _Run:
    """A run between two of its rounds."""

    fixed: dict[str, str | int | float]
    secure: SecureAggregation | None

    def __init__(
        self, exchange: Exchange, settings: RoundSettings, strategy: Strategy | FedBuff, selection: Selection
    ) -> None:
        self._exchange, self._settings, self._strategy, self._selection = exchange, settings, strategy, selection
        self._buffered = Buffered(strategy, settings, selection, exchange) if isinstance(strategy, FedBuff) else None
        parts = {"strategy": strategy, "downlink": exchange.downlink}
        self._stateful = {name: part for name, part in parts.items() if isinstance(part, Stateful)}
        self._store: ServerStore | None = None
        self._refused = 0

    def start(self, store: ServerStore | None, first: Head) -> list[dict[str, Any]]:
        """Take up what the store holds, or begin with `first`; returns the records of earlier rounds."""
        self._store, self._began = store, time.monotonic()
        self.head = first
        if store is None:
            return []
        if (saved := store.load()) is None:
            store.log.append("start", **first.version.config(), seed=self._settings.seed)
            self._write(first)
            return []
        if saved.version.layout != first.version.layout or saved.theta.shape != first.theta.shape:
            raise FederationError(f"{store.directory}: weights of another layout; give another state directory")
        for name, part in self._stateful.items():
            part.load_state(saved.states.get(name, {}))
        self._selection.load_state(saved.states["selection"])
        history = store.rounds(saved)
        version = saved.version
        store.log.append("resume", number=saved.last, version=version.hash, dropped=len(store.log) - saved.lines)
        self._write(saved)
        return history

    def round(self, review: Review | None) -> dict[str, Any]:
        """One round; its record. FederationError without enough good replies."""
        number, began, version = self.head.last + 1, self._exchange.now(), self.head.version
        before = {name: copy.deepcopy(dict(part.state())) for name, part in self._stateful.items()} if review else {}
        if self._buffered is not None:
            theta, metrics = self._buffered.advance(number, self.head.theta, version.hash, self._message(number))
        else:
            theta, metrics = self._synchronous(number)
        tally = self._exchange.finish()
        self._selection.note(number, (int(node) for node in tally.failures if node.isdigit()))
        if theta is None or tally.clients < self._settings.min_replies:
            reasons = "; ".join(f"node {node}: {why}" for node, why in tally.failures.items())
            raise FederationError(
                f"round {number}: {tally.clients} of {tally.asked} replies can be used, "
                f"{self._settings.min_replies} are needed ({reasons}); the weights of round {version.number} stand"
            )
        if not np.isfinite(theta).all():
            raise FederationError(f"round {number}: the strategy made NaN or infinite weights of finite ones")
        if self._exchange.downlink is not None:
            theta = self._exchange.downlink.publish(theta, self.head.theta)
        new = replace(version, number=number, hash=version_of(theta), parent=version.hash)
        record = {
            **metrics,  # first: no client's metric may pass for what the server counted
            **_counts(number, tally),
            "version": new.hash,
            "parent": new.parent,
            "branch": new.branch,
            "seconds": self._exchange.now() - began,
        }
        refusal = review(record, theta) if review else ""
        self._refused = self._refused + 1 if refusal else 0
        if refusal:
            record["refused"] = refusal
            new, theta = replace(version, branch=version.branch + 1), self.head.theta
            for name, part in self._stateful.items():
                part.load_state(unspent(before[name], part.state()))
        if self._store is not None:
            self._store.log.append("refused" if refusal else "round", **record)
        self._write(replace(self.head, version=new, theta=theta, last=number))
        if self._refused == REFUSALS:
            raise FederationError(f"round {number}: {REFUSALS} versions refused one after the other, last: {refusal}")
        return record

    def _synchronous(self, number: int) -> tuple[Float | None, dict[str, Any]]:
        """Ask, collect, aggregate."""
        strategy, version, theta = self._strategy, self.head.version, self.head.theta
        assert isinstance(strategy, Strategy)
        nodes, goal = self._selection.choose(self._exchange, number)
        self._exchange.tally.goal = goal
        arrays = ArrayRecord({THETA: Array(theta)})
        chosen = Chosen(self._exchange.traffic.grid, nodes)
        messages = list(strategy.configure_train(number, arrays, self._config(number), chosen))
        if self.secure is not None:
            assert isinstance(strategy, Streaming)
            return secure_mean(strategy, self.secure, self._exchange, number, theta, messages)
        self._exchange.push(messages, number)
        pairs = self._exchange.collect(number, goal, {version.hash: theta})
        if isinstance(strategy, Streaming):
            return strategy.aggregate(number, theta, (update for _, update in pairs))
        aggregate, metrics = strategy.aggregate_train(number, dense(pairs))
        return None if aggregate is None else flat_array(aggregate[THETA], len(theta)), dict(metrics or {})

    def _config(self, number: int) -> ConfigRecord:
        return ConfigRecord({**self.fixed, **self.head.version.config(), ROUND: number})

    def _message(self, number: int) -> Callable[[int], Message]:
        content = RecordDict({ARRAYS: ArrayRecord({THETA: Array(self.head.theta)}), CONFIG: self._config(number)})
        return lambda node: Message(content, node, MessageType.TRAIN)

    def _write(self, head: Head) -> None:
        """`head` is what the run goes on from, on disk too."""
        states: dict[str, Mapping[str, Any]] = {name: part.state() for name, part in self._stateful.items()}
        states["selection"] = self._selection.state()
        now = time.monotonic()
        lines = len(self._store.log) if self._store is not None else 0
        self.head = replace(head, states=states, seconds=head.seconds + now - self._began, lines=lines)
        self._began = now
        if self._store is not None:
            self._store.write(self.head)


def _counts(number: int, tally: Tally) -> dict[str, Any]:
    return {
        "round": number,
        "asked": tally.asked,
        "goal": tally.goal,
        "clients": tally.clients,
        "failures": tally.failures,
        "late": tally.late,
        "reminded": tally.reminded,
        "examples": tally.examples,
        "bytes_down": tally.bytes_down,
        "bytes_up": tally.bytes_up,
        PER_NODE: tally.devices,
    }
