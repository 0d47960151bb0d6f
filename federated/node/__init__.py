"""The lean node: a device's side of a federation in one process and under 100 MB.

Names load on first use, and the first of them decides how Flower is loaded: call
`federated.compat.lean.use_lean_flower()` before, in a process that does nothing else with Flower.
"""

from typing import TYPE_CHECKING

from edgessl import on_first_use

if TYPE_CHECKING:
    from federated.node.gates import Battery, Command, Gate, Interfaces, TimeWindow
    from federated.node.identity import Identity
    from federated.node.letters import Letters
    from federated.node.link import Link, LinkError, RefusedError, trust
    from federated.node.node import Node
    from federated.node.settings import NodeSettings, message_bytes

_HOME = {
    "Battery": "gates",
    "Command": "gates",
    "Gate": "gates",
    "Identity": "identity",
    "Interfaces": "gates",
    "Letters": "letters",
    "Link": "link",
    "LinkError": "link",
    "Node": "node",
    "NodeSettings": "settings",
    "RefusedError": "link",
    "TimeWindow": "gates",
    "message_bytes": "settings",
    "trust": "link",
}
__all__ = [
    "Battery",
    "Command",
    "Gate",
    "Identity",
    "Interfaces",
    "Letters",
    "Link",
    "LinkError",
    "Node",
    "NodeSettings",
    "RefusedError",
    "TimeWindow",
    "message_bytes",
    "trust",
]


__getattr__ = on_first_use(__name__, _HOME)
