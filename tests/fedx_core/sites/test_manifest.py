"""T3 of the threat model: a manifest that is not this site's, on this job, does not count."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import ADMITTED, NORTH, SOUTH, job, ref, report
from fedx_core.base.errors import (
    AlreadyExistsError,
    FedXError,
    PayloadError,
    SignatureError,
    StaleError,
    TooBigError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.sites import keys, manifest
from fedx_core.sites.manifest import MANIFEST_SIZE, read, write
from fedx_core.sites.registry import Admitted
from fedx_core.store import create_once, open_store

WRITTEN = write(report(), job(), NORTH)


def signed(said: bytes, by: keys.Keys = NORTH) -> bytes:
    """Sign what no FedX would write."""
    return by.signed("manifest", said.ljust(MANIFEST_SIZE - len(by.signed("manifest", b""))))


def test_a_manifest_is_the_report_and_always_as_long() -> None:
    assert read(WRITTEN, job(), ADMITTED) == report()
    evaluated = report(purpose="evaluate", uplink=None, memory=None, metrics={"loss": 2.0})
    asked = job(purpose="evaluate")
    data = write(evaluated, asked, NORTH)
    assert len(data) == len(WRITTEN) == MANIFEST_SIZE
    assert read(data, asked, ADMITTED) == evaluated


def test_equal_reports_are_equal_bytes() -> None:
    assert write(report(), job(), NORTH) == WRITTEN


FOREIGN = [
    ("another run", job(run="other"), "E_STALE"),
    ("round r-1, replayed", job(round_index=6, uplink_key="uplink/0006/north.0"), "E_STALE"),
    ("another attempt", job(attempt=1, uplink_key="uplink/0007/north.1"), "E_STALE"),
    ("another purpose", job(purpose="evaluate"), "E_STALE"),
    ("another seed", job(seed=100), "E_STALE"),
    ("another plan", job(plan=ref("plans/a", b"other")), "E_STALE"),
    ("another downlink", job(base=ref("downlink/b", b"other")), "E_STALE"),
    ("no downlink", job(base=None), "E_STALE"),
    ("another mask", job(mask=ref("masks/c", b"other")), "E_STALE"),
    ("no mask", job(mask=None), "E_STALE"),
    ("another schema", job(schema="e" * 64), "E_STALE"),
    ("another memory", job(memory=ref("memory/north/0006.0")), "E_STALE"),
    ("another variant", job(variant="partial"), "E_STALE"),
    ("another key", job(uplink_key="uplink/0007/north.9"), "E_STALE"),
    ("another client's job", job(client="south"), "E_STALE"),
]


@pytest.mark.parametrize(("what", "answered", "code"), FOREIGN, ids=[each[0] for each in FOREIGN])
def test_an_answer_to_another_job_is_refused(what: str, answered: Any, code: str) -> None:
    data = write(report(), answered, NORTH)
    with pytest.raises(StaleError, match="answers another job") as refused:
        read(data, job(), ADMITTED)
    assert refused.value.code == code


LIES = [
    ("another client", {"client": "south"}, "E_STALE"),
    ("another attempt", {"attempt": 1}, "E_STALE"),
    ("another variant", {"variant": "partial"}, "E_STALE"),
    ("another purpose", {"purpose": "evaluate"}, "E_STALE"),
    ("more examples than enrolled", {"examples": 501}, "E_EXAMPLES"),
    ("fewer examples than none", {"examples": -1}, "E_EXAMPLES"),
    ("another site's payload", {"uplink": ref("uplink/0007/south.0")}, "E_ID"),
    ("another site's memory", {"memory": ref("memory/south/0007.0")}, "E_ID"),
    ("a payload out of the store", {"uplink": ref("../../secrets")}, "E_ID"),
    ("a metric that is no name", {"metrics": {"<script>": 1.0}}, "E_ID"),
    ("a metric that is no name, either", {"metrics": {"": 1.0}}, "E_ID"),
    ("a time before it began", {"seconds": -1.0}, "E_PAYLOAD"),
    ("no time", {"seconds": float("nan")}, "E_PAYLOAD"),
    (
        "no hash",
        {"uplink": dataclasses.replace(ref("uplink/0007/north.0"), sha256="x")},
        "E_PAYLOAD",
    ),
    (
        "no length",
        {"uplink": dataclasses.replace(ref("uplink/0007/north.0"), size=-5)},
        "E_PAYLOAD",
    ),
    (
        "all lengths",
        {"uplink": dataclasses.replace(ref("uplink/0007/north.0"), size=2**60)},
        "E_PAYLOAD",
    ),
]


@pytest.mark.parametrize(("what", "changes", "code"), LIES, ids=[each[0] for each in LIES])
def test_a_site_that_signs_a_lie_is_refused(what: str, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FedXError) as refused:
        read(write(report(**changes), job(), NORTH), job(), ADMITTED)
    assert refused.value.code == code


def test_a_site_without_a_bound_may_claim_much_but_not_anything() -> None:
    free = Admitted(NORTH.public, max_examples=0)
    many = report(examples=10_000_000)
    assert read(write(many, job(), NORTH), job(), free) == many
    with pytest.raises(FedXError) as refused:
        read(write(report(examples=2**40), job(), NORTH), job(), free)
    assert refused.value.code == "E_EXAMPLES"


def test_another_sites_signature_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by north") as refused:
        read(write(report(), job(), SOUTH), job(), ADMITTED)
    assert refused.value.code == "E_SIGNATURE"
    renewed = keys.make("north")  # of the same name, but not the key that was admitted
    with pytest.raises(SignatureError):
        read(write(report(), job(), renewed), job(), ADMITTED)


@pytest.mark.parametrize("end", [b"", b"\0" * 64])
def test_a_manifest_without_a_signature_is_refused(end: bytes) -> None:
    bare = WRITTEN[:-64] + end
    with pytest.raises(FedXError) as refused:
        read(bare, job(), ADMITTED)
    assert refused.value.code == ("E_SIGNATURE" if end else "E_PAYLOAD")


@settings(max_examples=500, deadline=None)
@given(position=st.integers(0, MANIFEST_SIZE - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_of_a_manifest_is_refused(position: int, flip: int) -> None:
    changed = bytearray(WRITTEN)
    changed[position] ^= flip
    with pytest.raises(FedXError) as refused:
        read(bytes(changed), job(), ADMITTED)
    assert refused.value.code in {"E_SIGNATURE", "E_VERSION"}


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_manifest(data: bytes) -> None:
    for made in (data, data.ljust(MANIFEST_SIZE, b"\0"), data + bytes(MANIFEST_SIZE)):
        with pytest.raises(FedXError):
            read(made, job(), ADMITTED)


@pytest.mark.parametrize(("cut", "kind"), [(-1, PayloadError), (1, TooBigError)])
def test_another_length_is_refused_before_all_else(cut: int, kind: type[FedXError]) -> None:
    data = WRITTEN[:cut] if cut < 0 else WRITTEN + b" "
    with pytest.raises(kind, match=f"{MANIFEST_SIZE + cut} bytes from north, wanted 8192"):
        read(data, job(), ADMITTED)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"[]", b"{}", b"null", b"[" * 8000, b"\xff", b'{"job":1,"report":2}',
        b'{"job":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_signature_makes_no_report_of_something_else(said: bytes) -> None:
    with pytest.raises(PayloadError):
        read(signed(said), job(), ADMITTED)


def test_a_field_that_is_said_twice_or_otherwise_is_refused() -> None:
    said = canonical(manifest.Manifest(manifest._answered(job()), report()))
    assert read(signed(said), job(), ADMITTED) == report()
    twice = said.replace(b'"examples":480', b'"examples":1,"examples":480')
    spaced = said.replace(b'"examples":480', b'"examples": 480')
    for odd in (twice, spaced):
        assert odd != said
        with pytest.raises(PayloadError, match=r"not written as FedX writes it|stands twice"):
            read(signed(odd), job(), ADMITTED)


def test_another_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(keys, "PROTOCOL", 2)
        data = write(report(), job(), NORTH)
    with pytest.raises(VersionError, match="protocol 2, this is protocol 1"):
        read(data, job(), ADMITTED)


def test_a_report_that_does_not_fit_is_refused_where_it_is_made() -> None:
    with pytest.raises(TooBigError, match="fit into a manifest"):
        write(report(metrics={f"metric_{n}": 0.1 * n for n in range(400)}), job(), NORTH)


def test_a_swapped_payload_is_found_by_its_hash() -> None:
    store = open_store("memory://swapped")
    sent = store.put(job().uplink_key, b"payload")
    said = read(write(report(uplink=sent), job(), NORTH), job(), ADMITTED)
    assert said.uplink is not None
    assert bytes(store.get(said.uplink)) == b"payload"
    store.put(job().uplink_key, b"PAYLOAD")
    with pytest.raises(PayloadError, match="truncated or changed") as refused:
        store.get(said.uplink)
    assert refused.value.code == "E_PAYLOAD"


def test_a_manifest_counts_once_and_a_second_other_one_never() -> None:
    store = open_store("memory://twice")
    first = create_once(store, job().report_key, WRITTEN)
    assert create_once(store, job().report_key, WRITTEN) == first
    with pytest.raises(AlreadyExistsError) as refused:
        create_once(store, job().report_key, write(report(examples=1), job(), NORTH))
    assert refused.value.code == "E_EXISTS"
    assert store.read(job().report_key) == WRITTEN
