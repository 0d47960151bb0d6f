"""The heartbeat of a ServerApp, which must outlive a SuperLink's bad moments."""

from typing import Any

import httpx
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from federated.compat import temporary


def keep_beating(grid: Grid) -> None:
    """Have Flower's heartbeat try again where it would die; a grid that speaks with no SuperLink has none.

    Flower's thread retries when the link fails, and ends with any other error: of HTTP 500 once, while the SuperLink's
    database was locked, and a minute later the SuperLink ends the run, "No heartbeat received from the task".
    """
    if not isinstance(grid, HttpGrid):
        return
    client: Any = grid._runtime_client  # the one that Flower's thread speaks through
    beat = client.SendTaskHeartbeat

    def send(request: Any) -> Any:
        try:
            return beat(request)
        except httpx.HTTPStatusError as error:
            if not temporary(error):
                raise
            raise httpx.TransportError(str(error)) from None

    client.SendTaskHeartbeat = send
