"""Promises of a store that all rounds rely on are looked at before they are needed."""

import errno
import os
import threading
from pathlib import Path

import pytest

import plain_s3
from fedx_core.base.errors import AlreadyExistsError, StoreError
from fedx_core.store import FileStore, S3Store, open_store


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "x")


@pytest.mark.parametrize("refusal", [0, 400, 501])
def test_a_server_without_conditional_writes_is_refused_before_anything_is_created(
    refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain_s3.serving(conditional=False, refusal=refusal) as (url, kept):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        store = open_store("s3://bucket/run")
        for _ in range(2):
            with pytest.raises(StoreError, match="does not know conditional writes"):
                store.create("journal/0001/commit", b"first")
        assert kept == {}


def test_a_server_with_them_is_tried_once_and_keeps_no_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with plain_s3.serving(conditional=True) as (url, kept):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        store = open_store("s3://bucket/run")
        store.create("journal/0001/commit", b"first")
        assert list(kept) == ["/bucket/run/journal/0001/commit"]
        with pytest.raises(AlreadyExistsError):
            store.create("journal/0001/commit", b"second")
        monkeypatch.setattr(S3Store, "_put_if_free", None)  # not called again
        open_store("s3://bucket/another").create("a", b"1")


def test_who_may_write_no_trial_is_not_stopped_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_s3.serving(conditional=True, refusal=403) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        store = open_store("s3://bucket/run")
        assert isinstance(store, S3Store)
        store.check()


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP])
def test_of_eight_racers_one_creates_a_key_where_there_are_no_hard_links(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(error, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    wins: list[int] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        try:
            FileStore(tmp_path).create("journal/0001/open", b"%d" % number)
            wins.append(number)
        except AlreadyExistsError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert FileStore(tmp_path).read("journal/0001/open") == b"%d" % wins[0]
    left = [path.name for path in (tmp_path / "journal" / "0001").iterdir()]
    assert sorted(left) == [".once.lock", "open"]
