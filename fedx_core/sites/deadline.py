"""An end to one HTTP request as a whole, however slowly the other side goes on.

Time-outs of sockets begin anew with each byte. Here a watch cuts the connection when time is up, be
it amid a handshake, a request that nobody takes, or an answer that comes byte by byte.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_mine = threading.local()


class Watch:
    """The line that carries a request, by a handle of its own, and whether its time was up."""

    def __init__(self) -> None:
        self.expired = threading.Event()
        self._line: socket.socket | None = None
        self._lock = threading.Lock()

    def carried_by(self, line: socket.socket) -> None:
        """Note a line; TLS and http.client each take the one that they are given apart."""
        with self._lock:
            self._close()
            self._line = socket.socket(fileno=os.dup(line.fileno()))

    def cut(self) -> None:
        """End the request; whoever waits for a byte of it hears that there are no more."""
        self.expired.set()
        with self._lock, contextlib.suppress(OSError):
            if self._line is not None:
                self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the line."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


@contextmanager
def within(seconds: float) -> Iterator[Watch]:
    """Cut the request that this thread makes when so much time has passed.

    Yields:
        Tells whether that has happened.
    """
    watch = Watch()
    timer = threading.Timer(seconds, watch.cut)
    timer.daemon = True
    _mine.watch = watch
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()
        watch.close()
        _mine.watch = None


def watched(pool: PoolManager) -> PoolManager:
    """Have a pool's connections say which request they carry."""
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
    return pool


class _Says(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        line = super()._new_conn()
        _say(line)
        return line

    def request(self, *arguments: Any, **named: Any) -> None:
        if self.sock is not None:  # it is used again
            _say(self.sock)
        super().request(*arguments, **named)


def _say(line: socket.socket) -> None:
    if (watch := getattr(_mine, "watch", None)) is not None:
        watch.carried_by(line)


class _SaysTls(_Says, HTTPSConnection): ...


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Says


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _SaysTls
