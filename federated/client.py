"""A client of a federation: a Learner that takes the fleet's weights, learns on its own memory, and replies.

Only theta leaves the device. The replay memory, the optimizer's moments and whatever else the objective keeps
(momentum teacher, queue, centre, anchor) stay in the Learner's state directory from round to round: for
teachers that is the best simple variant of Zhuang et al., "Divergence-aware federated self-supervised
learning", ICLR 2022 (aggregate the online network, keep the target local).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict

from edgessl.device import Learner
from edgessl.errors import FederationError
from federated.codecs import Codec, parse_codec
from federated.codecs.link import WHOLE, DeviceLink, linked
from federated.lineage import BRANCH, FEDERATION, check_layout
from federated.message import (
    CODEC,
    CONFIG,
    EXAMPLES,
    REFERENCE,
    VERSION,
    Update,
    config_of,
    pack,
    repeated,
    unpack,
    version_of,
)
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.local import protected
from federated.privacy.secure.protocol import MASKED, SECURE, STAGE, secure_config
from federated.rules import Memory, parse_rule

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federated.privacy.secure.device import SecureDevice

Float = npt.NDArray[np.float32]
_CHUNK = 256  # samples embedded at a time

OpenLearner = Callable[[Context], Learner]


def make_client_app(
    open_learner: OpenLearner,
    *,
    local_steps: int = 16,
    privacy: GaussianPrivacy | None = None,
    secure_only: bool = False,
) -> ClientApp:
    """A ClientApp that answers train messages with `train_round`.

    `open_learner` gives the learner of the node a message is for; wrap it in `Learners` to keep learners open
    between messages. There is no evaluate handler: a learner has no held-out data, and its loss comes with
    every reply.
    """
    from flwr.clientapp import ClientApp  # not above: the lean node has the message classes alone

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return train_round(message, open_learner(context), local_steps, privacy, context.state, secure_only=secure_only)

    return app


def train_round(
    message: Message,
    learner: Learner,
    local_steps: int,
    privacy: GaussianPrivacy | None = None,
    vault: RecordDict | None = None,
    *,
    secure_only: bool = False,
) -> Message:
    """Adopt the weights by the rule the message names, take `local_steps` steps on the learner's memory, save, reply.

    The reply's weight, "num-examples", is how many samples the device has ever observed: its memory is a fair
    sample of all of them, so that is what its gradient speaks for. With `privacy`, the device's own, the reply is
    noise around a clipped change, counts for one example and has no metrics. Raises FederationError for a message of
    another model or layout, with an unknown rule or codec, or older than one already answered, when nothing was learned
    (too few samples, or the guard rolled back): such weights must not enter the mean, and when the device's privacy
    budget is spent. InputError and StateError come from the learner. Flower turns all of them into error replies.

    `vault` holds the secrets of a round with secure aggregation between its messages, in memory; None: this device
    takes part in none. With `secure_only` it takes part in no other.
    """
    sealer = _sealer(message, vault, secure_only)
    if sealer is not None and secure_config(message.content)[STAGE] != MASKED:
        return Message(sealer.answer(message.content), reply_to=message)
    manifest, digest = learner.bundle.manifest, learner.bundle.digest
    with (
        linked(config_of(message.content), CODEC, learner.directory, digest) as link,
        protected(privacy, learner.directory, digest) as local,
    ):
        known = _known(learner, link) if link else None
        update = unpack(message.content, bundle_digest=digest, size=manifest.theta_size, references=known)
        check_layout(update.config, manifest.parameters)
        codec = _codec(update)
        rule, memory = parse_rule(update.config), Memory.load(learner.directory)
        memory.meet(update.config, update.round)
        if repeated(message.metadata) and memory.round == update.round:
            raise FederationError(f"round {update.round} was answered before; this message repeats an earlier one")
        rule.adopt(learner, update.theta, update.round, memory)
        before, rollbacks = learner.theta, learner.metrics()["rollbacks"]
        report = learner.learn(max_steps=local_steps)
        if report.steps == 0 or report.rolled_back_to is not None:
            raise FederationError(f"nothing to contribute: {report.steps} steps kept; {report.stopped}")
        learner.save()  # before the reply: what the fleet counts on must survive a power cut here
        if learner.metrics()["rollbacks"] != rollbacks:  # saving examines the past once more
            raise FederationError("nothing to contribute: what was learned harmed the past and was rolled back")
        theta = rule.reply(learner)
        rule.learned(before, learner.theta, memory, manifest.parameters)
        memory.round = update.round
        memory.save(learner.directory)  # a device cut off in between has missed a round, which rules allow for
        numbers = {name.replace("_", "-"): value for name, value in report.metrics.items()}
        numbers |= {EXAMPLES: learner.metrics()["observed"], "steps": report.steps, "rejected": report.rejected}
        if local is not None:
            theta, numbers = local.release(theta, update.theta), {EXAMPLES: 1}
        payload, config = None, dict[str, Any]()
        if link is not None:
            config[VERSION] = update.text(VERSION) or version_of(update.theta)
            lineage = f"{update.config.get(FEDERATION)} {update.config.get(BRANCH)}"
            link.received(update.theta, config[VERSION], lineage, update.round)
            if codec is None:
                link.settle()
            else:
                payload, config[REFERENCE] = link.encode(theta, codec, before), config[VERSION]
        if sealer is not None:
            content = sealer.seal(theta, update.theta, message.content)
            content[CONFIG] = ConfigRecord(config)
        else:
            content = pack(
                theta, bundle_digest=digest, round_number=update.round, metrics=numbers, payload=payload, config=config
            )
        if link is not None:
            link.save()  # last: what a payload left out is owed only once the payload is there
        return Message(content, reply_to=message)


def _known(learner: Learner, link: DeviceLink) -> dict[str, Float]:
    """The weights that a payload may be a difference from: those last received, and the bundle's."""
    factory = learner.bundle.state()["theta"]
    return {version_of(factory): factory, **link.references}


def _codec(update: Update) -> Codec | None:
    """How the reply is to be encoded; None for weights whole."""
    name = update.config.get(CODEC, WHOLE)
    return None if name == WHOLE else parse_codec(str(name))


def _sealer(message: Message, vault: RecordDict | None, secure_only: bool) -> SecureDevice | None:
    """This device's part in the secure round that the message belongs to; None for a plain message."""
    if SECURE not in message.content:
        if secure_only:
            raise FederationError("this device takes part only in rounds with secure aggregation")
        return None
    if vault is None:
        raise FederationError("this device takes no part in secure aggregation")
    from federated.privacy.secure.device import SecureDevice  # not above: its primitives are a part of Flower by itself

    sealer = SecureDevice(vault, message.metadata.dst_node_id)
    if secure_config(message.content).get(STAGE) == MASKED:
        sealer.begin(message.content)
    return sealer


def catch_up(learner: Learner, stream: npt.NDArray[np.float32]) -> int:
    """Observe what of `stream` (N, *shape) the learner has not seen yet, in order; returns how many.

    The learner's own count of observed samples is the position, so a stream that grew, or a device that
    restarted, goes on where it was.
    """
    seen = int(learner.metrics()["observed"])
    for i in range(seen, len(stream), _CHUNK):
        learner.observe(np.ascontiguousarray(stream[i : i + _CHUNK]))
    return max(0, len(stream) - seen)


class Learners:
    """Learners kept open between messages, one per node; a context manager that closes them at the end."""

    def __init__(self, open_learner: OpenLearner) -> None:
        self._open_learner = open_learner
        self._open: dict[int, Learner] = {}

    def __call__(self, context: Context) -> Learner:
        """The learner of the context's node, opened when first asked for."""
        if context.node_id not in self._open:
            self._open[context.node_id] = self._open_learner(context)
        return self._open[context.node_id]

    def close(self) -> None:
        """Close all of them (every answered round is saved); may be called again."""
        for learner in self._open.values():
            learner.close()
        self._open.clear()

    def __enter__(self) -> Learners:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
