"""Wait until services answer, or until time is up; see to it first that their ports are free."""

import errno
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import psutil

from fedx_core.base.errors import ConfigError, RunError
from infra.stack import processes
from infra.stack.services import Service

PATIENCE_SECONDS = 180.0
NEWS_SECONDS = 10.0
_LAST_LINES = 15
_http = build_opener(ProxyHandler({}))


def check_ports(services: Iterable[Service]) -> None:
    """Look whether ports are free.

    Raises:
        ConfigError: one is taken; it says which, by whom if that can be seen, and what to do.
    """
    for service in services:
        for port in service.ports:
            if not is_free(port):
                base = f"{service.port_name}={service.ports[0]}"
                raise ConfigError(
                    f"port {port}, which {service.name} needs, is taken{_holder(port)}; end that "
                    f"program, or put another number for {base} into .env"
                )


def is_free(port: int) -> bool:
    """Say whether a program may listen on a port of this machine."""
    with socket.socket() as probe:
        # As servers do; connections that have ended just now don't count then.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigError(f"port {port} can't be used: {error.strerror}") from error
    return True


def answers(service: Service) -> bool:
    """Ask a server for its health; S3's refusal of strangers is an answer too."""
    try:
        with _http.open(service.health, timeout=5) as answer:
            return int(answer.status) == 200
    except HTTPError as refusal:
        with refusal:
            return refusal.code == 403
    except (URLError, OSError):
        return False


def until(
    services: Iterable[Service],
    ready: Callable[[Service], bool],
    var: Path,
    say: Callable[[str], None],
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Wait for services, and say which are ready and which are still waited for.

    Args:
        services: that have been started.
        ready: asks one.
        var: folder of logs.
        say: takes lines.
        patience: seconds for all together.

    Raises:
        RunError: one has ended, or time is up; with the last lines of its log.
    """
    began = news = time.monotonic()
    waiting = list(services)
    while waiting:
        for service in list(waiting):
            if ready(service):
                waiting.remove(service)
                say(f"{service.name} is ready")
            elif processes.find(service.name, var) is None:
                raise RunError(f"{service.name} ended as it started{_last_words(service, var)}")
        if not waiting:
            return
        now = time.monotonic()
        if now - began > patience:
            late = waiting[0]
            raise RunError(
                f"{late.name} does not answer after {patience:.0f} s; `make down up` may help"
                f"{_last_words(late, var)}"
            )
        if now - news > NEWS_SECONDS:
            news = now
            say(f"waiting for {', '.join(s.name for s in waiting)} ({now - began:.0f} s)")
        time.sleep(0.2)


def _last_words(service: Service, var: Path) -> str:
    log = processes.log_of(service.name, var)
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        return ""
    return "".join(f"\n    {line}" for line in [f"the end of {log}:", *lines])


def _holder(port: int) -> str:
    """Name who listens on a port, where this user may know it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                if connection.pid is None:
                    return ""
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""
