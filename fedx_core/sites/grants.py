"""One object each: a URL that fetches it, or stores it once, and ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Grant:
    """What one site may do with one object, for a while.

    Args:
        verb: ``get`` fetches it, ``put`` stores it if its key is free.
        key: of the object in the coordinator's store.
        size: bytes that are fetched at most, or stored exactly.
        url: signed; whoever has it may do the same, so it is never shown.
        headers: to be sent along, as they were signed.
        expires: seconds since 1970, by the coordinator's clock.
    """

    verb: Literal["get", "put"]
    key: str
    size: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    expires: float
