"""Level A in a process of its own: `python -m edgessl.bench.federated.in_process`.

JSON lines: `{"clients", "parameters"}` in, a row (or `{"error": text}`) out.

Real: the ServerApp with its rounds, selection and streaming mean; Flower's messages, of which every one of the clients
decodes its own from wire bytes and encodes a reply of its own, no two alike; every check of a reply that the server
makes. Not real: training (a client adds a number to the weights), the check of the version's SHA-256 that a device
makes, the network.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from edgessl.machine import peak_rss_mb
from federated import RoundSettings, compat, make_server_app, run_local
from federated.message import (
    ARRAYS,
    CONFIG,
    DIGEST,
    EXAMPLES,
    METRICS,
    ROUND,
    THETA,
    config_of,
    flat_array,
    flower_array,
    records,
)

_DIGEST = "ab" * 32
_STEP = 2.0**-20  # exact in float32: the mean can be told to the last bit but one


def main() -> None:
    """Answer questions on stdin until it ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    for line in sys.stdin:
        try:
            answer = measure(**json.loads(line))
        except Exception as error:  # a failed level is a row of its own
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


def measure(clients: int, parameters: int) -> dict[str, Any]:
    """One round of all clients."""
    history: list[dict[str, Any]] = []
    theta = np.zeros(parameters, np.float32)

    def client(message: Message, context: Context) -> Message:
        theta = flat_array(records(message.content, ArrayRecord)[ARRAYS][THETA], parameters)
        theta += np.float32(_STEP * int(context.node_config["partition-id"]))
        config = ConfigRecord({DIGEST: _DIGEST, ROUND: config_of(message.content)[ROUND]})
        metrics = MetricRecord({EXAMPLES: 1, "loss": 1.0})
        content = RecordDict({ARRAYS: ArrayRecord({THETA: flower_array(theta)}), CONFIG: config, METRICS: metrics})
        return Message(content, reply_to=message)

    def on_round(record: dict[str, Any], now: Any) -> None:
        nonlocal theta
        theta = now
        history.append(record)

    run_local(make_server_app(theta[:8], _DIGEST, RoundSettings(1)), _small, 2)  # what is loaded on first use
    server = make_server_app(theta, _DIGEST, RoundSettings(1), on_round=on_round)
    began = time.perf_counter()
    with compat.quiet():
        grid = run_local(server, client, clients)
    seconds = time.perf_counter() - began
    wrong = float(np.abs(theta - np.float32(_STEP * (clients - 1) / 2)).max())
    if history[0]["clients"] != clients or wrong > 1e-6:
        raise ArithmeticError(f"{history[0]['clients']} of {clients} replies, the mean is off by {wrong:g}")
    return {
        "level": "A",
        "clients": clients,
        "registered": clients,
        "parameters": parameters,
        "seconds": round(seconds, 2),
        "updates_per_second": round(clients / seconds, 1),
        "bytes_up_per_update": grid.bytes_up // clients,
        "bytes_down_per_update": grid.bytes_down // clients,
        "server_peak_rss_mb": round(peak_rss_mb()),
        "node_peak_rss_mb": None,  # in the server's process
    }


def _small(message: Message, context: Context) -> Message:
    config = ConfigRecord({DIGEST: _DIGEST, ROUND: config_of(message.content)[ROUND]})
    theta = flower_array(np.zeros(8, np.float32))
    content = RecordDict({ARRAYS: ArrayRecord({THETA: theta}), CONFIG: config, METRICS: MetricRecord({EXAMPLES: 1})})
    return Message(content, reply_to=message)


if __name__ == "__main__":
    main()
