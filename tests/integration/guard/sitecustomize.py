"""Refuse every contact with anybody but this machine, and write down who tried.

Python loads this file at its start where the folder is in PYTHONPATH. What a process looks up or
connects to goes to the file that NETWORK_GUARD names, one JSON line each, after a line on itself.
"""

import ipaddress
import json
import os
import sys
from typing import Any

_WHERE = os.environ.get("NETWORK_GUARD", "")


def _is_here(host: Any) -> bool:
    if isinstance(host, bytes | bytearray):
        host = host.decode()
    if not host or host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    # Nobody is reached at 0.0.0.0; servers ask for it before they listen.
    return address.is_loopback or address.is_unspecified


def _asked_for(event: str, arguments: tuple[Any, ...]) -> Any:
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return arguments[0]
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        return address[0] if isinstance(address, tuple) else None
    return None


def _note(**what: Any) -> None:
    line = json.dumps({**what, "process": sys.orig_argv[1:6]}) + "\n"
    descriptor = os.open(_WHERE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and not _is_here(host := _asked_for(event, arguments)):
        _note(refused=f"{event} {host!r}")
        raise OSError(f"the network guard refuses {event} {host!r}")


if _WHERE:
    _note(guarded=os.getpid())
    sys.addaudithook(_guard)
