"""What an operator says to a SuperLink: Flower's Control API, as far as its command line would be slow to ask.

`flwr` starts a second of Python for every question; a thousand devices are registered through here in a few seconds.
"""

from dataclasses import dataclass
from typing import Any

from flwr.proto import control_pb2

from federated.compat.fleet import Call, call

_PREFIX = "/v1/control/"
COMPLETED = "finished:completed"


@dataclass(frozen=True)
class RunStatus:
    """How a run is: "pending", "starting", "running", "finished:completed", ":failed", ":stopped"; why; its traffic."""

    status: str
    details: str
    bytes_sent: int
    bytes_received: int
    client_seconds: float

    @property
    def over(self) -> bool:
        """Whether it is finished, however."""
        return self.status.startswith("finished")


@dataclass(frozen=True)
class Registered:
    """A device that the SuperLink knows, with its public key in PEM; `status`: "online", "offline" and so on."""

    node: int
    name: str
    status: str
    public_key: bytes


def register(public_key: bytes, name: str) -> Call[int]:
    """Let the device with that public key (PEM) in; its node number."""
    request = control_pb2.RegisterNodeRequest(public_key=public_key, name=name)
    return _call("register-node", request, control_pb2.RegisterNodeResponse, lambda answer: int(answer.node_id))


def unregister(node: int) -> Call[None]:
    """Let a device in no longer."""
    request = control_pb2.UnregisterNodeRequest(node_id=node)
    return _call("unregister-node", request, control_pb2.UnregisterNodeResponse, lambda answer: None)


def devices() -> Call[list[Registered]]:
    """The devices that are let in."""

    def read(answer: Any) -> list[Registered]:
        return [Registered(n.node_id, n.name, n.status, n.public_key) for n in answer.nodes_info]

    return _call("list-nodes", control_pb2.ListNodesRequest(), control_pb2.ListNodesResponse, read)


def run_status(run: int) -> Call[RunStatus | None]:
    """How a run is; None for one that the SuperLink does not know."""

    def read(answer: Any) -> RunStatus | None:
        found = answer.run_dict.get(run)
        if found is None:
            return None
        status = ":".join(part for part in (found.status.status, found.status.sub_status) if part)
        return RunStatus(status, found.status.details, found.bytes_sent, found.bytes_recv, found.clientapp_runtime)

    return _call("list-runs", control_pb2.ListRunsRequest(run_id=run), control_pb2.ListRunsResponse, read)


def stop_run(run: int) -> Call[bool]:
    """End a run; whether the SuperLink did."""
    request = control_pb2.StopRunRequest(run_id=run)
    return _call("stop-run", request, control_pb2.StopRunResponse, lambda answer: bool(answer.success))


def _call(path: str, request: Any, answer: Any, value: Any) -> Call[Any]:
    return call(_PREFIX + path, request, answer, value)
