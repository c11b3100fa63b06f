import errno
import os
import threading
from pathlib import Path

import pytest

from fedx_core.base.errors import (
    AlreadyExistsError,
    ConfigError,
    ObjectMissingError,
    PayloadError,
    StoreError,
)
from fedx_core.store import (
    FileStore,
    S3Store,
    Store,
    create_once,
    open_store,
    put_by_hash,
    reference,
)
from fedx_core.store.files import _explained
from fedx_core.wire.messages import Ref


@pytest.fixture(params=["memory", "file"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return open_store(f"memory://{tmp_path.name}")
    return open_store(str(tmp_path / "store"))


def test_what_is_put_can_be_got_by_its_reference(any_store: Store) -> None:
    ref = any_store.put("states/one", b"bytes")
    assert (ref.key, ref.size) == ("states/one", 5)
    assert bytes(any_store.get(ref)) == b"bytes"
    any_store.delete("states/one")
    any_store.delete("states/one")
    assert any_store.read("states/one") is None
    with pytest.raises(ObjectMissingError, match="states/one"):
        any_store.get(ref)


def test_a_key_can_be_created_once(any_store: Store) -> None:
    any_store.create("journal/0001/open", b"first")
    with pytest.raises(AlreadyExistsError, match="journal/0001/open"):
        any_store.create("journal/0001/open", b"second")
    assert bytes(any_store.read("journal/0001/open") or b"") == b"first"


def test_creating_the_same_bytes_again_is_no_conflict(any_store: Store) -> None:
    first = create_once(any_store, "uplink/a", b"same")
    assert create_once(any_store, "uplink/a", b"same") == first
    with pytest.raises(AlreadyExistsError):
        create_once(any_store, "uplink/a", b"other")


def test_of_many_threads_that_create_a_key_one_wins(any_store: Store) -> None:
    wins: list[int] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        try:
            any_store.create("journal/0001/closed", b"%d" % number)
            wins.append(number)
        except AlreadyExistsError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert bytes(any_store.read("journal/0001/closed") or b"") == b"%d" % wins[0]


def test_changed_and_truncated_objects_are_refused(any_store: Store) -> None:
    ref = put_by_hash(any_store, "states", b"what was meant")
    any_store.put(ref.key, b"what was meanT")
    with pytest.raises(PayloadError, match="corrupt"):
        any_store.get(ref)
    any_store.put(ref.key, b"what was")
    with pytest.raises(PayloadError, match="8 bytes, wanted 14"):
        any_store.get(ref)


@pytest.mark.parametrize(
    "key", ["../x", "/x", "a//b", "a/../b", "", "a\\b", "a b", ".hidden", "a/"]
)
def test_a_key_that_could_leave_its_folder_is_refused(any_store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="impossible key"):
        any_store.put(key, b"")
    with pytest.raises(StoreError, match="impossible key"):
        any_store.read(key)


def test_the_same_memory_is_opened_by_the_same_name() -> None:
    open_store("memory://shared-by-name").put("a", b"1")
    assert open_store("memory://shared-by-name").read("a") == b"1"
    assert open_store("memory://another").read("a") is None


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="ftp"):
        open_store("ftp://host/path")


def test_a_full_disk_leaves_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FileStore(tmp_path)
    files.put("states/a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left.*fedx resume"):
        files.put("states/a", b"new")
    with pytest.raises(StoreError, match="No space left"):
        files.create("states/b", b"new")
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["a"]
    assert files.read("states/a") == b"old"


def test_what_need_not_last_is_not_forced_onto_the_disk_but_never_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    passing = open_store(str(tmp_path), durable=False)
    ref = passing.put("uplink/a", b"update")
    passing.create("uplink/b", b"update")
    assert forced == []
    assert sorted(path.name for path in (tmp_path / "uplink").iterdir()) == ["a", "b"]
    open_store(str(tmp_path)).create("journal/0001/open", b"record")
    assert len(forced) == 2  # the file and its folder
    assert bytes(open_store(str(tmp_path)).get(ref)) == b"update"


def test_a_really_full_disk_is_named(tmp_path: Path) -> None:
    # /dev/full refuses every byte as a full disk does.
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full on this system")
    files = FileStore(tmp_path)
    with device.open("wb", buffering=0) as target, pytest.raises(OSError, match="No space") as full:
        target.write(b"x")
    explained = _explained(full.value, tmp_path / "a")
    assert "No space left" in str(explained)
    assert files.read("a") is None


def test_a_folder_that_is_a_file_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("in the way")
    with pytest.raises(StoreError, match=r"can't write or read.*--run-root"):
        FileStore(tmp_path).put("states/a", b"x")


def test_an_unwritable_folder_is_refused_clearly(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere (root)")
    with pytest.raises(StoreError, match="Permission denied"):
        FileStore(folder).put("a", b"x")


def test_a_reference_names_content(tmp_path: Path) -> None:
    ref = put_by_hash(FileStore(tmp_path), "plans", b"content")
    assert ref == Ref(f"plans/{ref.sha256}", ref.sha256, 7)


def test_what_is_kept_under_its_hash_has_the_reference_of_its_bytes(any_store: Store) -> None:
    ref = put_by_hash(any_store, "states", b"weights")
    assert ref == reference(f"states/{ref.sha256}", b"weights")
    assert bytes(any_store.get(ref)) == b"weights"


def test_stores_on_s3_share_a_client_as_long_as_the_environment_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "c",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    def opened(port: int) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        return S3Store("bucket", "run")

    first, again, elsewhere = opened(1), opened(1), opened(2)
    assert first._client is again._client
    assert first._client is not elsewhere._client
    assert elsewhere.endpoint == "http://127.0.0.1:2"
