"""The store and whole rounds on a real S3 server."""

import threading
from dataclasses import replace

import pytest

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PayloadError,
    StoreError,
    TooBigError,
)
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import create_once, open_store, put_by_hash

pytestmark = pytest.mark.integration


def test_the_verbs_mean_on_s3_what_they_mean_on_files(s3: str) -> None:
    store = open_store(f"{s3}/verbs")
    ref = put_by_hash(store, "states", b"what was meant")
    assert bytes(store.get(ref)) == b"what was meant"
    store.put(ref.key, b"what was meanT")
    with pytest.raises(PayloadError, match="corrupt"):
        store.get(ref)
    store.delete(ref.key)
    assert store.read(ref.key) is None
    with pytest.raises(ObjectMissingError):
        store.get(ref)
    store.create("journal/0001/open", b"first")
    with pytest.raises(AlreadyExistsError):
        store.create("journal/0001/open", b"second")
    assert create_once(store, "journal/0001/open", b"first").size == 5


def test_no_more_is_fetched_than_a_reference_or_a_limit_allows(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.response import StreamingBody

    store = open_store(f"{s3}/large")
    meant = put_by_hash(store, "uplink", b"meant")
    store.put(meant.key, bytes(5_000_000))
    with pytest.raises(TooBigError, match="5000000 bytes, wanted 4999999 at most"):
        store.read(meant.key, 4_999_999)
    assert store.read(meant.key, 5_000_000) == bytes(5_000_000)

    def touched(*_: object) -> bytes:
        raise AssertionError("the body was read")

    monkeypatch.setattr(StreamingBody, "read", touched)
    with pytest.raises(TooBigError, match="5000000 bytes, wanted 5 at most; it was not fetched"):
        store.get(meant)


def test_of_eight_racers_one_creates_the_key(s3: str) -> None:
    store = open_store(f"{s3}/race")
    wins: list[int] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        try:
            store.create("journal/0001/closed", b"%d" % number)
            wins.append(number)
        except AlreadyExistsError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("journal/0001/closed") == b"%d" % wins[0]


def test_a_wrong_secret_and_a_dead_server_are_clear_errors(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(StoreError, match=r"s3://fedx/x/a.*SignatureDoesNotMatch"):
        open_store(f"{s3}/x").put("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL_S3.*fedx resume"):
        open_store(f"{s3}/x").put("a", b"1")


def test_rounds_on_s3_give_the_bytes_of_rounds_on_files_and_resume(s3: str, bed: Bed) -> None:
    files = bed.setting("files")
    remote = replace(files, place=replace(files.place, store=f"{s3}/run"))
    on_files = list(federate(tiny(), files, InProcess(2)))
    first = federate(tiny(), remote, InProcess(2))
    reports = [next(first)]
    first.close()
    reports += list(federate(tiny(), remote, InProcess(2), resume=True))
    assert [r.traffic for r in reports] == [r.traffic for r in on_files]
    models = [final_model(open_store(s.place.store)) for s in (files, remote)]
    assert state.equal(*models)
