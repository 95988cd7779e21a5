"""A TCP proxy between client and server that breaks what passes through it, in the ways that networks do."""

import contextlib
import socket
import struct
import threading
from typing import Any


class Proxy:
    """Passes bytes on between those who connect to `address` and `target`, until it is told otherwise.

    with Proxy("127.0.0.1:50051") as proxy:
        Client(proxy.address)
    """

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, as a firewall does; new ones are passed on."""
        cut, self._sockets = self._sockets, []
        for each in cut:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RD)
            each.close()

    def stall(self) -> None:
        """Pass nothing on, in either direction, and tell nobody: a cable pulled, a peer without power."""
        self._flows.clear()

    def flow(self) -> None:
        """Pass on again, with what waited."""
        self._flows.set()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: Any) -> None:
        self._listening.close()
        self.cut()
        self.flow()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
