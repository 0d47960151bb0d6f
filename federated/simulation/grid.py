"""A federation in this process: real ServerApp, real ClientApps, Flower's own records; no Ray, no network."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from federated import compat

FIRST_NODE = 100  # node ids are FIRST_NODE + partition, so that no test mistakes one for the other

Client = ClientApp | Callable[[Message, Context], Message]
Drop = Callable[[int, Message], bool]


@dataclass(frozen=True)
class Letter:
    """A message on its way: its content as Flower's wire bytes, as it was when it was sent."""

    message: Message
    content: bytes

    @property
    def partition(self) -> int:
        """Whom it is for."""
        return int(self.message.metadata.dst_node_id) - FIRST_NODE


class LocalGrid(Grid):
    """A Grid whose nodes are contexts in this process; a client runs when its reply is pulled.

    Every message and reply goes through Flower's wire format, so that no two clients share an object and
    `bytes_down` and `bytes_up` count what was really encoded. `drop(partition, message)` true: the node never
    answers and the server gets NODE_UNAVAILABLE, as from a SuperLink whose node died. What a client raises
    becomes an error reply with the code and the words that Flower uses.
    """

    lossless = True  # a node that is silent is at work

    def __init__(
        self,
        client: Client,
        num_nodes: int,
        run_config: Mapping[str, Any] | None = None,
        drop: Drop | None = None,
    ) -> None:
        self.client, self.num_nodes, self.drop = client, num_nodes, drop
        self.run_config = dict(run_config or {})
        self.bytes_down = self.bytes_up = 0
        self._contexts: dict[int, Context] = {}
        self._sent: dict[str, Letter] = {}
        self._run = compat.empty_run()
        self._encode = _Encoder()

    def set_run(self, run: Run) -> None:
        """Another description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message; Flower keeps this beside Message() for old strategies."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The node ids, in partition order."""
        return [FIRST_NODE + i for i in range(self.num_nodes)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages; their names, in order."""
        names = []
        for message in messages:
            names.append(compat.stamp(message))
            self._sent[names[-1]] = Letter(message, self._encode(message.content))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run the clients that these messages are for, one after the other, and give their replies."""
        for name in list(message_ids):
            if name in self._sent:
                letter = self._sent.pop(name)
                lost = self.drop is not None and self.drop(letter.partition, letter.message)
                reply = unavailable(letter) if lost else self._answer(letter)
                compat.stamp(reply)
                yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies; `timeout` has no meaning here."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, letter: Letter) -> Message:
        reply, up = self._run_client(letter)
        if up is not None:
            reply.content = compat.decode(up)
        return reply

    def _run_client(self, letter: Letter) -> tuple[Message, bytes | None]:
        """What the client answers, and the content of its reply as wire bytes; None in place of an error's."""
        self.bytes_down += len(letter.content)
        received = copy.copy(letter.message)
        received.content = compat.decode(letter.content)
        context = self._context(letter.partition)
        try:
            reply = self.client(received, context)
        except Exception as error:  # the client's code may raise anything; Flower catches the same
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(compat.CLIENT_RAISED, reason), reply_to=letter.message), None
        finally:
            if len(context.state):
                self._contexts[letter.partition] = context
        up = compat.encode(reply.content)
        self.bytes_up += len(up)
        return reply, up

    def _context(self, partition: int) -> Context:
        """A node's context; kept only once there is something in it, since ten thousand take 40 MB."""
        if partition in self._contexts:
            return self._contexts[partition]
        return Context(
            run_id=1,
            node_id=FIRST_NODE + partition,
            node_config={"partition-id": partition, "num-partitions": self.num_nodes},
            state=RecordDict(),
            run_config=dict(self.run_config),
        )


def unavailable(letter: Letter) -> Message:
    """What a SuperLink answers for a node that died."""
    return Message(Error(compat.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=letter.message)


class _Encoder:
    """`compat.encode` that gives the same object for what was encoded last.

    All messages of a round carry the same arrays. A change in between is seen: an array's bytes are immutable, so that
    the same object says the same, and everything else is small and looked at again.
    """

    def __init__(self) -> None:
        self._arrays: list[bytes] = []
        self._rest, self._whole = "", b""

    def __call__(self, content: RecordDict) -> bytes:
        arrays: list[bytes] = []
        rest: list[Any] = []
        for key, record in content.items():
            if isinstance(record, ArrayRecord):
                arrays += [array.data for array in record.values()]
                rest.append((key, [(name, a.dtype, a.shape, a.stype) for name, a in record.items()]))
            else:
                rest.append((key, type(record).__name__, dict(record)))
        said = repr(rest)  # not ==, for which True is 1
        same = len(arrays) == len(self._arrays) and all(a is b for a, b in zip(arrays, self._arrays, strict=True))
        if not same or said != self._rest:
            self._arrays, self._rest, self._whole = arrays, said, compat.encode(content)
        return self._whole
