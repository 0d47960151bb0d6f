"""A TCP relay between a device and its server that counts what passes, and that can be cut."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Cable:
    """Relays 127.0.0.1:`port` (its own) to 127.0.0.1:`target`; `up` and `down` count the bytes of both directions."""

    def __init__(self, target: int) -> None:
        self.target, self.up, self.down = target, 0, 0
        self._is_cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection and take no new one."""
        self._is_cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def close(self) -> None:
        """Cut it for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target), 5)
            except ConnectionError:  # nobody listens there: the caller gets nothing either
                near.close()
                continue
            except OSError:
                return
            self._ends += [near, far]
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError, ValueError):
            while True:
                for end in select.select([near, far], [], [])[0]:
                    if not (data := end.recv(1 << 16)):
                        return
                    if end is near:
                        self.up += len(data)
                        far.sendall(data)
                    else:
                        self.down += len(data)
                        near.sendall(data)
