"""A site's first letter: where its orders will lie. It is carried by people, as its keys were."""

from fedx_core.base import strict_json
from fedx_core.base.errors import IdentifierError, PayloadError, TooBigError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites.grants import Grant
from fedx_core.sites.keys import Keys, Public, seal, unsigned
from fedx_core.sites.orders import MAX_ORDER, inbox_prefix

_KIND = "invitation"


def write(inbox: Grant, keys: Keys, site: Public) -> bytes:
    """Sign an invitation as the coordinator, and seal it to its site."""
    return seal(site, keys.signed(_KIND, canonical(inbox)))


def read(data: bytes, keys: Keys, coordinator: Public) -> Grant:
    """Read where this site's orders will lie.

    Raises:
        TooBigError: it is longer than any letter.
        SignatureError: it is not for this site, or not from its coordinator.
        VersionError: the coordinator speaks another protocol.
        IdentifierError: it is about somebody else's inbox.
        PayloadError: it is malformed.
    """
    if len(data) > MAX_ORDER:
        raise TooBigError(f"an invitation of {len(data)} bytes, wanted {MAX_ORDER} at most")
    said = unsigned(coordinator, _KIND, keys.open(data))
    try:
        inbox = parse(Grant, strict_json.loads(said, MAX_ORDER))
    except PayloadError:
        raise
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"an invitation that is signed but malformed: {error}") from error
    if inbox.verb != "get" or not inbox.key.startswith(inbox_prefix(keys.name)):
        raise IdentifierError(
            f"an invitation to {inbox.verb} {inbox.key[:80]!r}, wanted get under "
            f"{inbox_prefix(keys.name)}"
        )
    return inbox
