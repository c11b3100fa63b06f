"""A server that speaks a little of S3, and knows conditional writes or not."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(
    *, conditional: bool | None, refusal: int = 0
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serve objects from memory.

    Args:
        conditional: whether ``If-None-Match`` is heeded.
        refusal: status with which writes with that header are refused; 0 for none.

    Yields:
        Its address, and what it keeps.
    """
    kept: dict[str, bytes] = {}

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = self.headers.get("If-None-Match") == "*"
            if asked and refusal:
                self.answer(refusal, b"<Error><Code>Refused</Code></Error>")
            elif asked and conditional and self.path in kept:
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            else:
                kept[self.path] = body
                self.answer(200)

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(200)
            elif self.path in kept:
                self.answer(200, kept[self.path])
            else:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def do_DELETE(self) -> None:
            kept.pop(self.path, None)
            self.answer(204)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
