"""T17 of the threat model, in small: whatever is shown, refused or logged, no secret is in it."""

import base64
import dataclasses
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asked import ADMITTED, COORDINATOR, NORTH, SOUTH, grant, job, order, report
from fedx_core.base.errors import FedXError
from fedx_core.base.frozen_json import canonical, plain
from fedx_core.sites import invitation, key_files, keys, manifest, notes
from fedx_core.sites.grants import GrantedStore
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.keys import Keys
from fedx_core.sites.orders import issue, open_order
from fedx_core.sites.registry import Registry

SECRETS = tuple(
    said
    for owner in (COORDINATOR, NORTH, SOUTH)
    for half in (owner.signing, owner.sealing)
    for said in (half.hex(), base64.b64encode(half).decode(), repr(half)[2:-1])
)
SIGNED = "canary"
"""In the signature of each granted URL."""


def require_clean(said: str) -> None:
    assert said
    assert not [secret for secret in (*SECRETS, SIGNED) if secret in said]


def sealed(said: bytes, kind: str = "order", by: Keys = COORDINATOR) -> bytes:
    return keys.seal(NORTH.public, by.signed(kind, said))


def ask(data: bytes, **changes: Any) -> Callable[[], object]:
    return lambda: open_order(data, NORTH, COORDINATOR.public, **changes)


def answer(data: bytes) -> Callable[[], object]:
    return lambda: manifest.read(data, job(), ADMITTED)


SAID = canonical(order())
REFUSALS: dict[str, Callable[[], object]] = {
    "sealed to another": ask(issue(order(), COORDINATOR, SOUTH.public)),
    "signed by another": ask(issue(order(), SOUTH, NORTH.public)),
    "flipped": ask(b"\1" + issue(order(), COORDINATOR, NORTH.public)[1:]),
    "late": ask(issue(order(), COORDINATOR, NORTH.public), now=1e11),
    "another site's": ask(issue(order(job(client="south")), COORDINATOR, NORTH.public)),
    "a path for a run": ask(issue(order(job(run="../x")), COORDINATOR, NORTH.public)),
    "a foreign grant": ask(issue(order(grants=(grant("put", "x"),)), COORDINATOR, NORTH.public)),
    "a foreign inbox": ask(
        issue(order(inbox=grant("get", "inbox/south/1")), COORDINATOR, NORTH.public)
    ),
    "too long a grant": ask(
        issue(order(grants=(grant("get", "plans/a", 9),)), COORDINATOR, NORTH.public)
    ),
    "no order": ask(sealed(SAID[:-1])),
    "an inbox that fits nothing": ask(sealed(SAID.replace(b'"verb":"get"', b'"verb":"set"'))),
    "an url that is no text": ask(sealed(SAID.replace(b'"url":"', b'"url":0,"x":"'))),
    "an invitation elsewhere": lambda: invitation.read(
        invitation.write(grant("get", "inbox/south/1"), COORDINATOR, NORTH.public),
        NORTH,
        COORDINATOR.public,
    ),
    "an odd invitation": lambda: invitation.read(
        sealed(canonical(grant("get", "inbox/north/1")).replace(b'"get"', b'"set"'), "invitation"),
        NORTH,
        COORDINATOR.public,
    ),
    "a foreign manifest": answer(manifest.write(report(), job(), SOUTH)),
    "a stale manifest": answer(manifest.write(report(), job(run="old"), NORTH)),
    "a foreign note": lambda: notes.read(notes.write("taken", job(), SOUTH), job(), NORTH.public),
    "nothing granted": lambda: GrantedStore(order().grants, None, HttpClient()).create("x", b"y"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_shows_no_secret_in_message_or_traceback(
    refusal: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(FedXError) as refused:
        refusal()
    said = "".join(traceback.format_exception(refused.value))
    require_clean(said + repr(refused.value) + str(refused.value) + caplog.text)


def test_what_is_printed_shows_no_secret(tmp_path: Path) -> None:
    key_files.save(NORTH, tmp_path / "site")
    registry = Registry(tmp_path / "sites")
    registry.admit(NORTH.public)
    home = Home(tmp_path / "site")
    for value in (
        NORTH, NORTH.public, [COORDINATOR], {"keys": SOUTH}, home, home.keys, home.approvals,
        registry, registry.site("north"), order(), order().grants, grant("put", "x"),
        GrantedStore(order().grants, None, HttpClient()), plain(NORTH.public),
    ):  # fmt: skip
        shown = f"{value!r} {value} {value!a}"
        require_clean(shown)


def test_damaged_keys_are_refused_without_a_word_of_them(tmp_path: Path) -> None:
    path = key_files.save(NORTH, tmp_path)
    text = path.read_text()
    for damaged in (
        text[:-2], text.replace('"name":"north"', '"name":"North"'),
        text.replace(NORTH.sealing.hex(), NORTH.sealing.hex() + "zz"), text.replace("name", "mane"),
    ):  # fmt: skip
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises(FedXError) as refused:
            key_files.load(tmp_path)
        require_clean("".join(traceback.format_exception(refused.value)))


def test_files_beside_the_keys_hold_no_secret(tmp_path: Path) -> None:
    key_files.save(NORTH, tmp_path / "site")
    home = Home(tmp_path / "site")
    home.enroll("north")
    home.trust(COORDINATOR.public)
    key_files.save(COORDINATOR, tmp_path / "sites")
    Registry(tmp_path / "sites").admit(NORTH.public)
    seen = 0
    for path in tmp_path.rglob("*.json"):
        if path.name != key_files.FILE:
            seen += 1
            require_clean(path.read_text())
        else:
            assert any(secret in path.read_text() for secret in SECRETS)
    assert seen == 3


def test_what_travels_is_opaque_or_public() -> None:
    letters = (
        issue(order(), COORDINATOR, NORTH.public),
        invitation.write(grant("get", "inbox/north/1"), COORDINATOR, NORTH.public),
        manifest.write(report(), job(), NORTH),
        notes.write("taken", job(), NORTH),
    )
    for letter in letters:
        require_clean(letter.decode("latin-1"))
        for owner in (COORDINATOR, NORTH):
            assert owner.signing not in letter
            assert owner.sealing not in letter


def test_the_check_itself_finds_a_secret() -> None:
    for leak in (NORTH.signing.hex(), repr(dataclasses.astuple(SOUTH)), order().grants[0].url):
        with pytest.raises(AssertionError):
            require_clean(leak)
