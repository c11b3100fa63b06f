"""One request to an object store by somebody who was granted it: HTTPS, in bounded time.

A signed URL lets whoever has it do the same. So it is in no message, no traceback and no log, and
plain HTTP is for loopback alone.
"""

import ipaddress
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fedx_core.base.errors import ClockError, ConfigError, StoreError, TooBigError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

Buffer = bytes | bytearray | memoryview

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.2
"""Before the second attempt; each further pause is twice as long."""
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Without a byte."""
WHOLE_SECONDS = 120.0
"""That a request takes at most as a whole, and a second more for each :data:`SLOWEST` bytes."""
SLOWEST = 64 * 1024

_TRY_AGAIN = {408, 409, 429, 500, 502, 503, 504}
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_MOST_OF_A_REFUSAL = 4096


@dataclass(frozen=True)
class Reply:
    """What came of a request.

    Args:
        status: of HTTP.
        data: the body, if the request succeeded.
        code: S3's name for a refusal, such as ``AccessDenied``; empty if it has none.
        repeated: whether an earlier attempt may have succeeded unheard.
    """

    status: int
    data: bytes
    code: str
    repeated: bool


def check_address(url: str, *, plain_http: bool = False) -> None:
    """Refuse an address that others on the way could read or change.

    Args:
        url: of an object or of a server.
        plain_http: somebody has said that this network may be trusted.

    Raises:
        ConfigError: plain HTTP to another machine, or no HTTP at all.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"no address of an object store: {_place(url)}; use https://HOST")
    if not (plain_http or _is_loopback(parts.hostname)):
        raise ConfigError(
            f"{_place(url)} is plain HTTP to another machine, so anybody on the way could read and "
            "change what passes; give the store TLS and its https:// address, or set "
            "FEDX_PLAIN_HTTP=allowed if this network is private"
        )


class HttpClient:
    """Requests that are tried again a few times, and then fail in words.

    Args:
        plain_http: see :func:`check_address`.
        attempts: in all.
        first_pause: seconds before the second attempt.
        whole: seconds for one attempt of nothing; see :data:`WHOLE_SECONDS`.
    """

    def __init__(
        self,
        *,
        plain_http: bool = False,
        attempts: int = ATTEMPTS,
        first_pause: float = FIRST_PAUSE_SECONDS,
        whole: float = WHOLE_SECONDS,
    ) -> None:
        self.plain_http = plain_http
        self.attempts = attempts
        self.first_pause = first_pause
        self.whole = whole
        self._pools: dict[str, PoolManager] = {}

    def get(self, url: str, most: int, what: str, headers: dict[str, str] | None = None) -> Reply:
        """Fetch an object.

        Args:
            url: signed.
            most: bytes that are read at most.
            what: names the object in messages.
            headers: as they were signed.

        Raises:
            StoreError: no answer, after all attempts.
            TooBigError: it is longer; it was not read.
            ConfigError: see :func:`check_address`.
        """
        return self._request("GET", url, what, headers or {}, most=most)

    def put(self, url: str, data: Buffer, what: str, headers: dict[str, str]) -> Reply:
        """Store an object.

        Raises:
            StoreError: no answer, after all attempts.
            ConfigError: see :func:`check_address`.
        """
        return self._request("PUT", url, what, headers, body=bytes(data))

    def _request(
        self,
        verb: str,
        url: str,
        what: str,
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        most: int = 0,
    ) -> Reply:
        from urllib3.exceptions import HTTPError, SSLError

        from fedx_core.sites import deadline

        check_address(url, plain_http=self.plain_http)
        reason = ""
        repeated = False
        seconds = self.whole + (len(body or b"") + most) / SLOWEST
        for number in range(self.attempts):
            if number:
                time.sleep(self.first_pause * 2 ** (number - 1))
            try:
                with deadline.within(seconds) as watch:
                    reply = self._once(verb, url, what, headers, body, most)
                    if watch.expired.is_set():  # it ended then, and did not say how long it is
                        raise TimeoutError
            except (HTTPError, OSError, ValueError) as error:
                if watch.expired.is_set():
                    raise StoreError(
                        f"{verb} {what} at {_place(url)} was given up after {seconds:.0f} s as a "
                        "whole; check the network, it is tried again when the next order asks"
                    ) from None
                if not isinstance(error, HTTPError):
                    raise
                if not isinstance(error, SSLError):
                    # Its words, and what it was caused by, hold the URL.
                    reason, repeated = type(error).__name__, True
                    continue
                raise StoreError(
                    f"{_place(url)} can't be trusted: {error}; name the authority that signed its "
                    "certificate in SSL_CERT_FILE, or have the certificate renewed"
                ) from None
            if reply.status not in _TRY_AGAIN:
                return Reply(reply.status, reply.data, reply.code, repeated)
            reason = f"HTTP {reply.status} {reply.code}".rstrip()
            repeated = repeated or reply.status >= 500
        raise StoreError(
            f"{verb} {what} at {_place(url)} failed {self.attempts} times, last with {reason}; "
            "check the network, it is tried again when the next order asks for it"
        )

    def _once(
        self,
        verb: str,
        url: str,
        what: str,
        headers: dict[str, str],
        body: bytes | None,
        most: int,
    ) -> Reply:
        response = self._pool(url).request(
            verb, url, body=body, headers=headers, preload_content=False, redirect=False
        )
        whole = False
        try:
            if response.status in (200, 201, 204):
                data = _read(response, most, what)
                code = ""
            else:
                found = _CODE.search(response.read(_MOST_OF_A_REFUSAL))
                data, code = b"", found[1].decode() if found else ""
                if code == "RequestTimeTooSkewed":
                    raise ClockError(
                        f"{_place(url)} calls {what} signed at another time than it is (its clock "
                        f"says {response.headers.get('Date', '?')}); set the coordinator's clock"
                    )
            whole = not response.read(1)
            return Reply(response.status, data, code, repeated=False)
        finally:
            # What was not read to its end would come before the next answer.
            response.release_conn() if whole else response.close()

    def _pool(self, url: str) -> "PoolManager":
        import ssl
        from urllib.request import getproxies, proxy_bypass

        from urllib3 import PoolManager, ProxyManager, Timeout

        from fedx_core.sites.deadline import watched

        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = None if _is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)
        if (pool := self._pools.get(proxy or "")) is not None:
            return pool
        keep_signatures_out_of_logs()
        timeout = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        trusted = ssl.create_default_context()  # heeds SSL_CERT_FILE
        pool = watched(
            ProxyManager(proxy, retries=False, timeout=timeout, ssl_context=trusted)
            if proxy
            else PoolManager(retries=False, timeout=timeout, ssl_context=trusted)
        )
        self._pools[proxy or ""] = pool
        return pool


def keep_signatures_out_of_logs() -> None:
    """Have urllib3 and botocore, which log whole URLs at level DEBUG, leave signed ones out."""
    for name in ("urllib3.connectionpool", "botocore.auth"):
        logging.getLogger(name).addFilter(_is_harmless)  # adding it again changes nothing


def _is_harmless(record: logging.LogRecord) -> bool:
    return record.name != "botocore.auth" and "x-amz-" not in record.getMessage().lower()


def _read(response: "BaseHTTPResponse", most: int, what: str) -> bytes:
    """Read a body of at most so many bytes, and none of a longer one that says so."""
    said = response.headers.get("Content-Length", "")
    if said.isdecimal() and int(said) > most and most:
        raise TooBigError(f"{what} has {said} bytes, at most {most} were agreed on; not fetched")
    data = response.read(most + 1, decode_content=False) if most else b""
    if len(data) > most:
        raise TooBigError(f"{what} has more than the {most} bytes that were agreed on")
    return data


def _place(url: str) -> str:
    """Name a server without what a URL asks it for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
