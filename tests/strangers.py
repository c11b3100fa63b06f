"""Who has no secret: finds every socket on which processes listen, and tries what it answers.

A door is closed to strangers in one of these ways, and a socket of no known way fails the test that
looks at it:

    password   HTTP: 401 or 403 to everything but what it is healthy by
    signature  S3: 403 to what is not signed, but for its health
    tls        a certificate first: no byte of an answer without one
    file       a socket in a file that its owner alone may open
"""

import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

FOREIGN = "http://evil.example"
_ACCEPTS = 0x10000  # of /proc/net/unix: somebody listens
_GRPC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def ports(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Return addresses and ports on which processes listen."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


def files(processes: Iterable[psutil.Process]) -> set[Path]:
    """Return files in which processes listen; an abstract name counts as one."""
    listening = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and int(words[3], 16) & _ACCEPTS:
            listening[words[6]] = words[7]
    found = set()
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
                if inode in listening:
                    found.add(Path(process.cwd()) / listening[inode])
    return found


def is_its_owners(path: Path) -> bool:
    """Say whether nobody but its owner may connect to a socket in a file."""
    return path.is_socket() and not stat.S_IMODE(path.stat().st_mode) & 0o077


def let_in(port: int) -> Iterator[tuple[str, int]]:
    """Ask a door for what strangers and foreign pages would; yield what it did not refuse."""
    here = f"127.0.0.1:{port}"
    for host in (here, f"localhost:{port}", "evil.example"):
        for origin in ("", FOREIGN, "http://127.0.0.1:1", "null"):
            for verb, path in (
                ("GET", "/"),
                ("GET", "/fedx/runs/x"),
                ("GET", "/api/flow_runs/count"),
                ("POST", "/api/flow_runs/filter"),
                ("POST", "/api/2.0/mlflow/experiments/search"),
                ("POST", "/ajax-api/2.0/mlflow/runs/search"),
                ("GET", "/api/2.0/mlflow-artifacts/artifacts?path="),
                ("GET", "/get-artifact?path=x&run_uuid=y"),
                ("POST", "/v1/traces"),
                ("PUT", "/fedx/runs/x"),
                ("DELETE", "/fedx/runs/x"),
                ("POST", "/?Action=ListUsers&Version=2010-05-08"),
                ("POST", "/?Action=AssumeRole&Version=2011-06-15"),
                ("OPTIONS", "/fedx/runs/x"),
            ):
                lines = [f"{verb} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
                if origin:
                    lines += [f"Origin: {origin}", "Access-Control-Request-Method: PUT"]
                body = b"{}" if verb in ("POST", "PUT") else b""
                lines += ["Content-Type: text/plain", f"Content-Length: {len(body)}", "", ""]
                answer = say(port, "\r\n".join(lines).encode() + body)
                code = status(answer)
                allowed = b"access-control-allow-origin" in answer.lower()
                if not 400 <= code < 500 and (verb != "OPTIONS" or allowed):
                    yield f"{verb} {path} of {host} from {origin}", code


def status(answer: bytes) -> int:
    """Return the status of an HTTP answer; 0 if it is none."""
    words = answer[:32].split()
    return int(words[1]) if answer.startswith(b"HTTP/1") else 0


def answers_without_certificate(port: int) -> list[str]:
    """Try a door that wants a certificate; return what it said to whom shows none of its own."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    heard = []
    # Of HTTP in the clear it may say that TLS is spoken here, which is Go's own word.
    plain = say(port, request)
    if plain and status(plain) != 400:
        heard.append(f"HTTP: {plain[:80]!r}")
    answer = say(port, _GRPC)
    # A frame of HTTP/2 is gRPC's; an alert of TLS or a 400 says nothing.
    if answer[3:4] == b"\x04" and answer[:1] == b"\x00":
        heard.append(f"gRPC: {answer[:80]!r}")
    for what, data in (("HTTPS", request), ("gRPC over TLS", _GRPC)):
        if answer := say(port, data, tls=["h2"] if "gRPC" in what else ["http/1.1"]):
            heard.append(f"{what}: {answer[:80]!r}")
    return heard


def say(port: int, data: bytes, tls: list[str] | None = None) -> bytes:
    """Send bytes, and return what comes back until the other side has nothing more to say."""
    answer = b""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        line = opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        if tls is not None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(tls)
            line = opened.enter_context(context.wrap_socket(line, server_hostname="localhost"))
        line.settimeout(1.0 if data == _GRPC else 20.0)
        line.sendall(data)
        while len(answer) < 4096 and (more := line.recv(4096)):
            answer += more
    return answer


def as_nobody() -> dict[str, int]:
    """Return what subprocess needs to run a program as somebody else, where we may."""
    return {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
