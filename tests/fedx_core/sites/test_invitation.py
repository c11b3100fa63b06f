import pytest

from asked import COORDINATOR, NORTH, SOUTH
from fedx_core.base.errors import (
    FedXError,
    IdentifierError,
    PayloadError,
    SignatureError,
    TooBigError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.sites import invitation
from fedx_core.sites.grants import Grant
from fedx_core.sites.keys import seal

INBOX = Grant("get", "inbox/north/5d", 65536, "https://store.example/x?X-Amz-a=b", {}, 1e9)


def test_a_site_reads_where_its_orders_will_lie() -> None:
    letter = invitation.write(INBOX, COORDINATOR, NORTH.public)
    assert b"store.example" not in letter
    assert invitation.read(letter, NORTH, COORDINATOR.public) == INBOX


def test_an_invitation_is_for_one_site_from_its_coordinator() -> None:
    letter = invitation.write(INBOX, COORDINATOR, NORTH.public)
    with pytest.raises(SignatureError, match="keys of south"):
        invitation.read(letter, SOUTH, COORDINATOR.public)
    with pytest.raises(SignatureError, match="not signed by coordinator"):
        invitation.read(invitation.write(INBOX, SOUTH, NORTH.public), NORTH, COORDINATOR.public)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (canonical(Grant("get", "inbox/south/5d", 1, "", {}, 1.0)), IdentifierError),
        (canonical(Grant("put", "inbox/north/5d", 1, "", {}, 1.0)), IdentifierError),
        (canonical(Grant("get", "plans/5d", 1, "", {}, 1.0)), IdentifierError),
        (b"{}", PayloadError),
        (b"[" * 60_000, PayloadError),
        (b"\xff", PayloadError),
    ],
)
def test_what_is_no_invitation_is_refused(said: bytes, error: type[FedXError]) -> None:
    letter = seal(NORTH.public, COORDINATOR.signed("invitation", said))
    with pytest.raises(error):
        invitation.read(letter, NORTH, COORDINATOR.public)


def test_a_letter_that_is_too_long_is_not_opened() -> None:
    with pytest.raises(TooBigError):
        invitation.read(bytes(65_537), NORTH, COORDINATOR.public)
