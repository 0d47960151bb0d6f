"""The heartbeat of a ServerApp, which must outlive a SuperLink's bad moments."""

import contextlib
from collections.abc import Callable, Iterator

import httpx
from flwr.serverapp import Grid
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.superlink.grid.http_grid import HttpGrid

from federated.compat import temporary


@contextlib.contextmanager
def beating(grid: Grid) -> Iterator[None]:
    """Beats beside Flower's own thread; a grid that speaks with no SuperLink needs it not.

    Flower's retries when the link fails, and ends with any other error: of HTTP 500 once, while the SuperLink's
    database was locked, and a minute later the SuperLink ends the run, "No heartbeat received from the task".
    """
    if not isinstance(grid, HttpGrid):
        yield
        return
    sender = HeartbeatSender(steadfast(grid))
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()


def steadfast(grid: HttpGrid) -> Callable[[], bool]:
    """One beat as Flower makes it, but False, which means again, where the SuperLink failed for the moment."""
    beat = make_task_heartbeat_fn_http(grid._runtime_client)

    def again() -> bool:
        try:
            return beat()
        except httpx.HTTPStatusError as error:
            if not temporary(error):
                raise
            return False

    return again
