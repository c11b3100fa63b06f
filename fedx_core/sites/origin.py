"""Where a site's requests may go: to one store, which its people know of, with S3's own headers.

An order names addresses and headers, and its coordinator chooses them. Without bounds it could have
a site call any service that the site can reach, one of its own machine among them, with an
``Authorization`` of the coordinator's choice.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fedx_core.base.errors import ConfigError, OriginError
from fedx_core.sites.grants import Grant

HEADERS = frozenset({
    "content-md5",
    "content-type",
    "if-none-match",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
})  # fmt: skip
"""What S3 lets a presigned URL's holder send; a site sends no other header that it is told."""

_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,254}[\x21-\x7e])?")
_PORTS = {"http": 80, "https": 443}


def of(url: str) -> str:
    """Return an address's scheme, host and port, spelt in one way.

    Raises:
        ConfigError: it is none of HTTP, or holds a user's name.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in _PORTS or "@" in parts.netloc or not host.isascii():
        raise ConfigError("no address of a store; use https://HOST or https://HOST:PORT")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or _PORTS[parts.scheme]}"


def is_safe_unasked(origin: str) -> bool:
    """Say whether an address can be taken from a coordinator without a word of the site's people.

    It is if it speaks TLS, and is none of this machine or of a network that only it may see.
    """
    parts = urlsplit(origin)
    host = (parts.hostname or "").rstrip(".")
    try:
        return parts.scheme == "https" and ipaddress.ip_address(host).is_global
    except ValueError:
        # A name that leads here has no certificate of that name here.
        is_local = host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
        return parts.scheme == "https" and "." in host and not is_local


def check(grants: Iterable[Grant], known: str | None) -> str | None:
    """Refuse grants that lead elsewhere than to the site's store, or carry foreign headers.

    Args:
        grants: of one letter.
        known: where the store is; None where the site was not told yet.

    Returns:
        Where the store is; None if that is still open, since nothing was granted.

    Raises:
        OriginError: one of them does; nothing was sent.
    """
    for grant in grants:
        for name, value in grant.headers.items():
            if name.lower() not in HEADERS or not _VALUE.fullmatch(value):
                raise OriginError(
                    f"the coordinator wants the header {name[:40]!r} sent with {grant.key[:80]!r}; "
                    f"a site sends no others than {', '.join(sorted(HEADERS))}. Ask the "
                    "coordinator's people what this is"
                )
        try:
            asked = of(grant.url)
        except ConfigError as error:
            raise OriginError(f"{grant.key[:80]!r} is granted at {error}") from None
        if known is None and not is_safe_unasked(asked):
            raise OriginError(
                f"the coordinator says that its store is at {asked}, on this machine, in a "
                "private network or without TLS; if the store really is there, say so: `fedx site "
                f"trust coordinator.json --store {asked}`"
            )
        known = known or asked
        if asked != known:
            raise OriginError(
                f"{grant.key[:80]!r} is granted at {asked}, and the store of this site's "
                f"coordinator is at {known}; if it has moved, people say so here: `fedx site trust "
                f"coordinator.json --store {asked}`"
            )
    return known
