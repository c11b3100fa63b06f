import pickle
import stat
from pathlib import Path

import pytest

from fedx_core.base.errors import IdentifierError, SignatureError, SiteError, VersionError
from fedx_core.base.frozen_json import canonical
from fedx_core.sites import key_files, keys
from fedx_core.sites.keys import Keys, Public

NORTH = keys.make("north")
SOUTH = keys.make("south")


def test_what_is_signed_is_read_with_the_right_public_key_alone() -> None:
    letter = NORTH.signed("order", b"train")
    assert letter.startswith(b"FEDX/order/1\0train")
    assert keys.unsigned(NORTH.public, "order", letter) == b"train"
    with pytest.raises(SignatureError, match=f"not signed by south.*{SOUTH.public.fingerprint}"):
        keys.unsigned(SOUTH.public, "order", letter)


def test_an_order_is_no_manifest_though_the_same_key_signed_it() -> None:
    with pytest.raises(SignatureError, match="no FedX manifest"):
        keys.unsigned(NORTH.public, "manifest", NORTH.signed("order", b"x"))
    with pytest.raises(SignatureError, match="this manifest is not signed by north"):
        keys.verify(NORTH.public, "manifest", b"x", NORTH.sign("order", b"x"))
    keys.verify(NORTH.public, "order", b"x", NORTH.sign("order", b"x"))


def test_another_protocol_is_named_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(keys, "PROTOCOL", 7)
        later.setattr(key_files, "PROTOCOL", 7)
        letter, card = NORTH.signed("order", b"x"), key_files.write_public(NORTH.public)
    for read in (
        lambda: keys.unsigned(NORTH.public, "order", letter),
        lambda: key_files.read_public(card),
    ):
        with pytest.raises(VersionError, match="protocol 7, this is protocol 1"):
            read()


def test_a_sealed_letter_opens_for_its_owner_alone() -> None:
    letter = keys.seal(NORTH.public, b"only for north")
    assert b"north" not in letter
    assert NORTH.open(letter) == b"only for north"
    assert keys.seal(NORTH.public, b"only for north") != letter
    for foreign in (letter[:-1], letter + b"\0", b"", b"x" * 47):
        with pytest.raises(SignatureError, match="can't be opened with the keys of north"):
            NORTH.open(foreign)
    with pytest.raises(SignatureError, match="keys of south"):
        SOUTH.open(letter)


def test_keys_are_kept_for_their_owner_and_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    path = key_files.save(NORTH, folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert key_files.load(folder) == NORTH
    with pytest.raises(SiteError, match="holds keys already"):
        key_files.save(SOUTH, folder)
    assert key_files.load(folder) == NORTH
    assert [each.name for each in folder.iterdir()] == ["keys.json"]


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = key_files.save(NORTH, tmp_path)
    path.chmod(0o640)
    with pytest.raises(SiteError, match=r"mode 640.*chmod 600"):
        key_files.load(tmp_path)


def test_missing_keys_say_how_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="fedx site enroll") as refused:
        key_files.load(tmp_path)
    assert refused.value.code == "E_SITE"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b'{"name":"north"}', b"\xff",
        b'{"name":"north","sealing":"00","signing":"00"}',
        b'{"name":"../x","sealing":"' + b"1" * 64 + b'","signing":"' + b"1" * 64 + b'"}',
        b'{"name":7,"sealing":"' + b"1" * 64 + b'","signing":"' + b"1" * 64 + b'"}',
    ],
)  # fmt: skip
def test_damaged_keys_are_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / key_files.FILE
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(SiteError, match="is damaged"):
        key_files.load(tmp_path)


def test_secret_keys_are_neither_shown_nor_pickled(tmp_path: Path) -> None:
    secrets = (NORTH.signing, NORTH.sealing)
    shown = repr(NORTH) + str(NORTH) + repr([NORTH]) + f"{NORTH!s}"
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    with pytest.raises(TypeError, match="stay in their process"):
        pickle.dumps(NORTH)
    with pytest.raises(TypeError):
        canonical(NORTH)


@pytest.mark.parametrize("name", ["", "North", "a b", "../x", "-a", "a" * 64, "ä", "a\n", "a/b"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(IdentifierError, match="impossible name"):
        keys.make(name)
    with pytest.raises(IdentifierError):
        Public(name, "0" * 64, "0" * 64)


def test_public_keys_travel_with_their_fingerprint() -> None:
    public = NORTH.public
    assert key_files.read_public(key_files.write_public(public)) == public
    groups = public.fingerprint.split()
    assert [len(group) for group in groups] == [4] * 8
    assert public.fingerprint != SOUTH.public.fingerprint
    # Whoever swaps a key cannot leave the fingerprint that people compare.
    swapped = key_files.write_public(public).replace(
        public.seal.encode(), SOUTH.public.seal.encode()
    )
    with pytest.raises(SignatureError, match=f"the fingerprint of north is .*{groups[0]}"):
        key_files.read_public(swapped)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'"x"', b"[" * 100_000, b"\xff\xfe"])
def test_something_else_is_no_public_key(data: bytes) -> None:
    with pytest.raises(SiteError, match="no public keys of FedX"):
        key_files.read_public(data)


def test_a_key_that_is_no_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="not 64 hexadecimal digits"):
        Public("north", "zz", "0" * 64)
    # Of the right form, but the neutral element: it would check anything.
    weak = Public("north", "01" + "00" * 31, NORTH.public.seal)
    with pytest.raises(SignatureError):
        keys.verify(weak, "order", b"x", b"\1" + b"\0" * 63)


def test_two_keys_of_one_name_differ() -> None:
    assert keys.make("north") != keys.make("north")
    assert isinstance(keys.make("north"), Keys)
