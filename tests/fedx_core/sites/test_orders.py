import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import COORDINATOR, NORTH, NOW, SOUTH, grant, job, order, ref
from fedx_core.base.errors import (
    FedXError,
    IdentifierError,
    PayloadError,
    SignatureError,
    StaleError,
    TooBigError,
    UnknownSiteError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.sites import keys, orders
from fedx_core.sites.orders import Order, issue, open_order

ISSUED = issue(order(), COORDINATOR, NORTH.public)


def opened(asked: Order, signed_by: keys.Keys = COORDINATOR, now: float | None = None) -> Order:
    return open_order(issue(asked, signed_by, NORTH.public), NORTH, COORDINATOR.public, now=now)


def test_a_site_reads_what_its_coordinator_asks() -> None:
    assert open_order(ISSUED, NORTH, COORDINATOR.public) == order()
    assert opened(order(inbox=None)) == order(inbox=None)
    evaluate = job(purpose="evaluate", mask=None, uplink_key="evaluate/0007/north.0")
    assert opened(order(evaluate)) == order(evaluate)


def test_nobody_else_can_read_an_order() -> None:
    assert b"canary" not in ISSUED
    assert b"uplink" not in ISSUED
    with pytest.raises(SignatureError, match="keys of south"):
        open_order(ISSUED, SOUTH, COORDINATOR.public)


def test_nobody_else_can_write_an_order() -> None:
    with pytest.raises(SignatureError, match="not signed by coordinator"):
        opened(order(), signed_by=SOUTH)
    plain = keys.seal(NORTH.public, canonical(order()))
    with pytest.raises(SignatureError, match="no FedX order"):
        open_order(plain, NORTH, COORDINATOR.public)
    as_manifest = keys.seal(NORTH.public, COORDINATOR.signed("manifest", canonical(order())))
    with pytest.raises(SignatureError, match="no FedX order"):
        open_order(as_manifest, NORTH, COORDINATOR.public)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(ISSUED) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_of_an_order_is_refused(position: int, flip: int) -> None:
    changed = bytearray(ISSUED)
    changed[position] ^= flip
    with pytest.raises(SignatureError):
        open_order(bytes(changed), NORTH, COORDINATOR.public)


LETTER = COORDINATOR.signed("order", canonical(order()))


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(LETTER) - 1), flip=st.integers(1, 255))
def test_whoever_can_seal_still_cannot_change_an_order(position: int, flip: int) -> None:
    changed = bytearray(LETTER)
    changed[position] ^= flip
    with pytest.raises(FedXError) as refused:
        open_order(keys.seal(NORTH.public, bytes(changed)), NORTH, COORDINATOR.public)
    assert refused.value.code in {"E_SIGNATURE", "E_VERSION"}


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_as_an_order(data: bytes) -> None:
    with pytest.raises(SignatureError):
        open_order(data, NORTH, COORDINATOR.public)
    with pytest.raises(SignatureError):
        open_order(keys.seal(NORTH.public, data), NORTH, COORDINATOR.public)


def test_another_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(keys, "PROTOCOL", 2)
        issued = issue(order(), COORDINATOR, NORTH.public)
    with pytest.raises(VersionError, match="protocol 2, this is protocol 1"):
        open_order(issued, NORTH, COORDINATOR.public)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"client": "south"}, UnknownSiteError, "'south', this is north"),
        ({"run": "../../etc"}, IdentifierError, "run names match"),
        ({"run": ""}, IdentifierError, "run names match"),
        ({"round_index": -1}, IdentifierError, "round -1"),
        ({"attempt": -1}, IdentifierError, "attempt -1"),
        ({"memory": ref("memory/south/0006.0")}, IdentifierError, "as memory of north"),
        ({"plan": dataclasses.replace(ref("plans/a"), sha256="a")}, PayloadError, "malformed"),
        ({"base": dataclasses.replace(ref("downlink/b"), size=-1)}, PayloadError, "malformed"),
        (
            {"changes": (ref("changes/a"), dataclasses.replace(ref("changes/b"), size=-1))},
            PayloadError,
            "malformed",
        ),
    ],
)
def test_a_job_that_leads_elsewhere_is_refused(
    changes: dict[str, Any], kind: type[FedXError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        opened(order(job(**changes)))


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (grant("get", "uplink/0007/south.0"), IdentifierError),
        (grant("get", "run.json"), IdentifierError),
        (grant("get", "uplink/0007/north.0"), IdentifierError),
        (grant("put", "downlink/b"), IdentifierError),
        (grant("put", "uplink/0007/south.0"), IdentifierError),
        (grant("put", "uplink/0007/north.0"), IdentifierError),
        (grant("put", "../x"), IdentifierError),
        (grant("put", "uplink/0007/north.0.report.intent", size=-1), PayloadError),
        (grant("put", "uplink/0007/north.0.report.intent", expires=float("inf")), PayloadError),
    ],
)
def test_a_grant_that_the_job_does_not_name_is_refused(extra: Any, kind: type[FedXError]) -> None:
    with pytest.raises(kind, match=r"grant|malformed"):
        opened(order(grants=(*order().grants, extra)))


def test_changes_since_what_a_client_holds_may_be_granted_where_the_job_names_them() -> None:
    change = ref("changes/0007/c")
    granted = (grant("get", change.key, change.size),)
    assert opened(order(job(changes=(change,)), grants=granted)).grants == granted
    with pytest.raises(IdentifierError, match="does not name"):
        opened(order(grants=granted))


def test_a_payload_may_be_announced_before_it_is_stored() -> None:
    announced = grant("put", orders.intent_key(job()), 8192)
    assert opened(order(grants=(announced,))).grants == (announced,)


def test_more_bytes_of_the_plan_than_it_has_are_refused() -> None:
    with pytest.raises(PayloadError, match="5000 bytes of 'plans/a', which has 4"):
        opened(order(grants=(grant("get", "plans/a", 5000),)))


@pytest.mark.parametrize(
    "inbox",
    [grant("get", "inbox/south/1"), grant("put", "inbox/north/1"), grant("get", "run.json")],
)
def test_an_inbox_elsewhere_is_refused(inbox: Any) -> None:
    with pytest.raises(IdentifierError, match=r"wanted get under inbox/north/"):
        opened(order(inbox=inbox))


def test_an_old_order_is_refused_where_that_matters() -> None:
    assert opened(order(), now=NOW) == order()
    with pytest.raises(StaleError, match=r"expired 100 s ago.*fedx doctor --site") as refused:
        opened(order(), now=NOW + 1000)
    assert refused.value.code == "E_STALE"
    with pytest.raises(PayloadError, match="malformed"):
        opened(order(expires=float("nan")))


def test_an_order_longer_than_any_is_refused_before_it_is_opened() -> None:
    long = order(job(schema="d" * orders.MAX_ORDER))
    with pytest.raises(TooBigError):
        issue(long, COORDINATOR, NORTH.public)
    with pytest.raises(TooBigError):
        open_order(b"x" * (orders.MAX_ORDER + 1), NORTH, COORDINATOR.public)


@pytest.mark.parametrize("said", [b"", b"[]", b"{}", b"[" * 40_000, b"\xff", b'{"job": {}}'])
def test_what_the_coordinator_signs_must_be_an_order(said: bytes) -> None:
    letter = keys.seal(NORTH.public, COORDINATOR.signed("order", said))
    with pytest.raises(PayloadError, match="signed but malformed"):
        open_order(letter, NORTH, COORDINATOR.public)


def test_a_malformed_order_is_refused_without_showing_its_urls() -> None:
    said = canonical(order()).replace(b'"expires":', b'"expired":', 1)
    with pytest.raises(PayloadError) as refused:
        open_order(
            keys.seal(NORTH.public, COORDINATOR.signed("order", said)), NORTH, COORDINATOR.public
        )
    assert refused.value.__cause__ is None
    assert "canary" not in str(refused.value)
    assert "canary" not in repr(order())
