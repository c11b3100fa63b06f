"""An HTTP proxy before a real S3 server: does on purpose what networks do by chance.

The kinds of fault are named after toxiproxy's. Every request gets a connection of its own, so that
a fault hits that request alone. What passed is written down, for tests that check a history.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["delay", "error", "reset", "lose", "cut", "down"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Args:
        kind: ``delay`` waits up to ``seconds``; ``error`` answers with ``status`` and ``code``, and
            the server sees nothing; ``reset`` passes half of what is sent on and hangs up; ``lose``
            passes all on and hangs up instead of answering; ``cut`` hangs up amid the answer;
            ``down`` hangs up at once.
        match: pattern that the method and the path must hold, such as ``PUT .*/commit$``.
        rate: share of those requests that are hit, in [0, 1].
        times: hits at most; 0 for any number.
        seconds: longest delay; how long a request takes is drawn between half of it and all.
        status: of an error.
        code: of an error, as S3 names it.
    """

    kind: Kind
    match: str = ""
    rate: float = 1.0
    times: int = 0
    seconds: float = 0.0
    status: int = 500
    code: str = "InternalError"


@dataclass(frozen=True)
class Exchange:
    """A request that came, and what was answered; the status is 0 where nothing was.

    Args:
        request: method and path.
        once: whether it was to create an object only if there is none.
        status: of the server's own answer, whether or not it was passed on.
        fault: that hit it, if any.
    """

    request: str
    once: bool
    status: int
    fault: Kind | None


@dataclass
class FaultProxy:
    """Passes requests on to a server, but for faults; runs in a thread while it is entered.

    Args:
        upstream: URL of the server.
        faults: that may happen now; may be set at any time.
        seed: of the draws.
        bandwidth: bytes a second of what is sent, each request for itself; 0 for no limit.
        watch: called with every request's method and path, and the bytes of it that have come; an
            OSError that it raises ends the connection.
    """

    upstream: str
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    bandwidth: float = 0.0
    watch: Callable[[str, int], None] = lambda request, size: None
    exchanges: list[Exchange] = field(default_factory=list)

    def __enter__(self) -> "FaultProxy":
        self._draws = random.Random(self.seed)
        self._hits: dict[Fault, int] = {}
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    def hits(self, fault: Fault) -> int:
        """Say how often a fault has happened."""
        return self._hits.get(fault, 0)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._begin, sock=self._socket)
        await self._ended.wait()
        server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._pass(reader, writer)
        finally:
            writer.close()
            self._open.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        request = first.rpartition(" ")[0]
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        fault = await self._drawn(request)
        kind = fault.kind if fault else None
        size = int(headers.get("content-length", 0))
        status = 0
        try:
            if kind == "down":
                return _hang_up(writer)
            if "expect" in headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if fault is not None and kind == "error":
                await self._body(reader, size, request, None)
                status = fault.status
                writer.write(_error(fault))
                return await writer.drain()
            # Neither line is signed. Without the first one, an answer ends with its connection.
            kept = [n for n in lines if not n.lower().startswith(("connection:", "expect:"))]
            sent = "\r\n".join([first, *kept, "Connection: close"]).encode("latin-1")
            parts = urlsplit(self.upstream)
            answers, asking = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                asking.write(sent + b"\r\n\r\n")
                await self._body(reader, size // 2 if kind == "reset" else size, request, asking)
                if kind == "reset":
                    _hang_up(asking)
                    return _hang_up(writer)
                answer = await answers.read()
            except BaseException:
                _hang_up(asking)
                raise
            finally:
                asking.close()
            status = int(answer.split(b" ", 2)[1])
            if kind == "lose":
                return _hang_up(writer)
            half = (answer.index(b"\r\n\r\n") + 4 + len(answer)) // 2
            writer.write(answer[:half] if kind == "cut" else answer)
            await writer.drain()
        finally:
            once = headers.get("if-none-match") == "*"
            self.exchanges.append(Exchange(request, once, status, kind))

    async def _drawn(self, request: str) -> Fault | None:
        """Draw what happens to a request; delays come on top of it."""
        drawn = None
        for fault in self.faults:
            if fault.times and self.hits(fault) >= fault.times:
                continue
            if not re.search(fault.match, request) or self._draws.random() >= fault.rate:
                continue
            if fault.kind == "delay":
                await asyncio.sleep(self._draws.uniform(0.5, 1.0) * fault.seconds)
            elif drawn is None:
                drawn = fault
            else:
                continue
            self._hits[fault] = self.hits(fault) + 1
        return drawn

    async def _body(
        self,
        reader: asyncio.StreamReader,
        size: int,
        request: str,
        asking: asyncio.StreamWriter | None,
    ) -> None:
        """Take so many bytes of what is sent, and pass them on as they come."""
        left = size
        while left:
            self.watch(request, size - left)
            part = await reader.readexactly(min(left, 65_536))
            left -= len(part)
            if asking is not None:
                asking.write(part)
                await asking.drain()
            if self.bandwidth:
                await asyncio.sleep(len(part) / self.bandwidth)
        self.watch(request, size)


def _error(fault: Fault) -> bytes:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>on purpose</Message></Error>"
    )
    return (
        f"HTTP/1.1 {fault.status} {fault.code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, as a machine does that has gone away."""
    plain = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
