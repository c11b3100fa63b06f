"""What a granted store can do on a real S3 server, and what the server refuses."""

import logging
import re
import time
import traceback
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedx_core.base.errors import (
    AlreadyExistsError,
    ConfigError,
    GrantError,
    ObjectMissingError,
    PayloadError,
    StoreError,
    TooBigError,
)
from fedx_core.sites import presigner as presigning
from fedx_core.sites.grants import Grant, GrantedStore
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.presigner import Presigner
from fedx_core.store import FileStore, S3Store, create_once, open_store
from fedx_core.wire.messages import Ref

pytestmark = pytest.mark.integration


@pytest.fixture
def store(s3: str, request: pytest.FixtureRequest) -> S3Store:
    """A part of the bucket for one test alone."""
    found = open_store(f"{s3}/grants/{request.node.name.replace('[', '-').replace(']', '')}")
    assert isinstance(found, S3Store)
    return found


@pytest.fixture
def presigner(store: S3Store) -> Presigner:
    return Presigner(store)


@pytest.fixture
def granted(tmp_path: Path) -> Callable[..., GrantedStore]:
    """A site's store of some grants; it remembers in one folder what it has sent."""

    def of(*grants: Grant) -> GrantedStore:
        return GrantedStore(grants, FileStore(tmp_path / "sent"), HttpClient())

    return of


def status(grant: Grant, verb: str = "", data: bytes | None = None, **headers: str) -> int:
    """Do something with a grant's URL that our own store would not do."""
    request = urllib.request.Request(grant.url, data=data, method=verb or grant.verb.upper())
    for name, value in {
        **grant.headers,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }.items():
        request.add_header(name, value)
    if data is not None:
        # urllib would add one, and what is not signed needs no header.
        request.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


# As any store, as far as it is granted


def test_what_is_granted_can_be_stored_once_and_fetched(
    store: S3Store, presigner: Presigner, granted: Callable[..., GrantedStore]
) -> None:
    site = granted(presigner.put("uplink/a", 5, 60), presigner.get("uplink/a", 5, 60))
    assert site.read("uplink/a") is None
    with pytest.raises(ObjectMissingError, match="uplink/a"):
        site.get(Ref("uplink/a", "0" * 64, 5))
    ref = site.create("uplink/a", b"bytes")
    assert bytes(site.get(ref)) == b"bytes" == bytes(site.read("uplink/a") or b"")
    assert store.read("uplink/a") == b"bytes"
    assert site.create("uplink/a", b"bytes") == ref
    assert create_once(site, "uplink/a", b"bytes") == site.put("uplink/a", b"bytes") == ref
    with pytest.raises(AlreadyExistsError, match="uplink/a"):
        site.create("uplink/a", b"other")
    assert store.read("uplink/a") == b"bytes"


def test_what_is_not_granted_is_not_even_asked_for(
    store: S3Store, presigner: Presigner, granted: Callable[..., GrantedStore]
) -> None:
    ref = store.put("secret", b"bytes")
    site = granted(presigner.put("uplink/a", 5, 60))
    assert site.read("secret") is None
    with pytest.raises(GrantError, match="'secret' is not granted"):
        site.get(ref)
    with pytest.raises(GrantError, match="'uplink/b' is not granted"):
        site.create("uplink/b", b"bytes")
    with pytest.raises(GrantError, match="deleting"):
        site.delete("uplink/a")
    with pytest.raises(TooBigError, match=r"6 bytes.*the grant is for 5"):
        site.create("uplink/a", b"longer")
    assert store.read("uplink/a") is None


def test_changed_truncated_and_long_objects_are_refused(
    store: S3Store, presigner: Presigner, granted: Callable[..., GrantedStore]
) -> None:
    ref = store.put("base", b"what was meant")
    site = granted(presigner.get(ref.key, ref.size, 60))
    store.put("base", b"what was meanT")
    with pytest.raises(PayloadError, match="corrupt"):
        site.get(ref)
    store.put("base", b"what was")
    with pytest.raises(PayloadError, match="8 bytes, wanted 14"):
        site.get(ref)
    store.put("base", b"x" * 1_000_000)
    with pytest.raises(TooBigError, match="1000000 bytes, at most 14"):
        site.get(ref)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300), number=st.integers(0, 10**9))
def test_any_bytes_come_back_as_they_were(
    data: bytes, number: int, presigner: Presigner, granted: Callable[..., GrantedStore]
) -> None:
    key = f"uplink/{number}-{len(data)}-{data[:8].hex()}"
    site = granted(presigner.put(key, len(data), 60), presigner.get(key, len(data), 60))
    try:
        ref = site.create(key, data)
    except AlreadyExistsError:
        return  # hypothesis tried the number before, with other bytes
    assert bytes(site.get(ref)) == data


# Misuse, each refused by the server itself


def test_a_sites_grants_do_not_reach_another_sites_objects(
    store: S3Store, presigner: Presigner
) -> None:
    store.put("uplink/0001/b.0", b"of b")
    put, get = presigner.put("uplink/0001/a.0", 4, 60), presigner.get("uplink/0001/a.0", 4, 60)
    for grant in (put, get):
        moved = replace(grant, url=grant.url.replace("a.0", "b.0"))
        assert status(moved, data=b"of a" if grant.verb == "put" else None) == 403
    assert store.read("uplink/0001/b.0") == b"of b"


def test_a_grant_is_of_one_verb(store: S3Store, presigner: Presigner) -> None:
    store.put("base", b"base")
    get, put = presigner.get("base", 4, 60), presigner.put("uplink", 4, 60)
    assert status(get, "PUT", b"mine") == 403
    assert status(get, "DELETE") == 403
    assert status(put, "GET") == 403
    assert status(put, "DELETE") == 403
    assert store.read("base") == b"base"
    assert status(get) == 200


def test_a_grant_to_store_is_for_one_object_of_one_length(
    store: S3Store, presigner: Presigner
) -> None:
    grant = presigner.put("uplink", 4, 60)
    assert status(grant, data=b"x" * 50) == 403
    assert status(grant, data=b"x") == 403
    assert status(replace(grant, headers={}), data=b"four") == 403  # without if-none-match
    assert store.read("uplink") is None
    assert status(grant, data=b"four") == 200
    assert status(grant, data=b"five") == 412
    assert store.read("uplink") == b"four"


def test_an_altered_url_is_refused(store: S3Store, presigner: Presigner) -> None:
    store.put("base", b"base")
    url = presigner.get("base", 4, 60).url
    for old, new in (
        ("X-Amz-Expires=", "X-Amz-Expires=9"),
        ("X-Amz-Date=2", "X-Amz-Date=3"),
        (url[-6:], "000000"),
        ("fedx%2F", "other%2F"),
    ):
        assert old in url
        assert status(Grant("get", "base", 4, url.replace(old, new), {}, 0.0)) in (400, 403)
    assert status(Grant("get", "base", 4, url.partition("?")[0], {}, 0.0)) == 403


def test_an_expired_grant_is_refused_in_words_and_can_be_given_anew(
    store: S3Store,
    presigner: Presigner,
    granted: Callable[..., GrantedStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.put("base", b"base")
    monkeypatch.setattr(presigning, "MARGIN_SECONDS", -60.0)
    old = presigner.get("base", 4, 61)  # one second
    put = presigner.put("uplink", 4, 61)
    time.sleep(2.1)
    site = granted(old, put)
    with pytest.raises(GrantError, match=r"get 'base' \(HTTP 403.*expired.*grants it anew"):
        site.read("base")
    with pytest.raises(GrantError, match=r"put 'uplink' \(HTTP 403"):
        site.create("uplink", b"four")
    monkeypatch.undo()
    again = granted(presigner.get("base", 4, 60), presigner.put("uplink", 4, 60))
    assert again.read("base") == b"base"
    assert again.create("uplink", b"four").size == 4


def test_a_key_that_somebody_else_took_is_not_taken_for_ones_own(
    store: S3Store, presigner: Presigner, granted: Callable[..., GrantedStore]
) -> None:
    store.put("uplink", b"mine")
    with pytest.raises(AlreadyExistsError, match="did not store"):
        granted(presigner.put("uplink", 4, 60)).create("uplink", b"mine")


# Words


def test_only_s3_can_hold_others_to_a_grant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s3://BUCKET"):
        Presigner(open_store(str(tmp_path)))


def test_no_signature_is_in_a_log_or_a_message(
    store: S3Store,
    presigner: Presigner,
    granted: Callable[..., GrantedStore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        store.put("base", b"base")
        grant = presigner.get("base", 4, 60)
        put = presigner.put("uplink", 4, 60)
        site = granted(grant, put)
        site.read("base")
        site.create("uplink", b"four")
        dead = replace(grant, url=re.sub(r"127.0.0.1:\d+", "127.0.0.1:9", grant.url))
        with pytest.raises(StoreError, match=r"failed 1 times.*NewConnectionError") as refused:
            GrantedStore([dead], None, HttpClient(attempts=1)).read("base")
    for secret in (g.url.rpartition("=")[2] for g in (grant, put)):
        assert len(secret) == 64
        assert secret not in caplog.text
        assert secret not in repr((grant, put))
        assert secret not in str(refused.value)
        assert secret not in _whole(refused.value)


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
