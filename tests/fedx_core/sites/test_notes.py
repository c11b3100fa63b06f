from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import ADMITTED, COORDINATOR, NORTH, SOUTH, job
from fedx_core.base.errors import FedXError, PayloadError, SignatureError, StaleError
from fedx_core.sites import manifest, notes
from fedx_core.sites.manifest import MANIFEST_SIZE
from fedx_core.sites.notes import NOTE_SIZE

READY = notes.write("ready", job(), NORTH, size=4711)


def test_a_coordinator_reads_what_a_site_says() -> None:
    note = notes.read(READY, job(), NORTH.public)
    assert (note.word, note.size, note.code) == ("ready", 4711, "")
    assert len(READY) == NOTE_SIZE
    refused = notes.write("refused", job(), NORTH, code="E_DATA")
    assert len(refused) == MANIFEST_SIZE  # it lies where the report would
    assert notes.read(refused, job(), NORTH.public).code == "E_DATA"


def test_a_refusal_and_a_manifest_are_told_apart_by_their_beginning() -> None:
    assert notes.is_note(notes.write("refused", job(), NORTH))
    assert not notes.is_note(b"FEDX/manifest/1\0")
    with pytest.raises(SignatureError, match="no FedX manifest"):
        manifest.read(notes.write("refused", job(), NORTH), job(), ADMITTED)


def test_a_note_is_of_one_site_and_one_job() -> None:
    with pytest.raises(SignatureError, match="not signed by south"):
        notes.read(READY, job(), SOUTH.public)
    with pytest.raises(SignatureError):
        notes.read(notes.write("taken", job(), COORDINATOR), job(), NORTH.public)
    for other in (replace(job(), attempt=1), replace(job(), run="other"), replace(job(), seed=2)):
        with pytest.raises(StaleError, match="another job"):
            notes.read(READY, other, NORTH.public)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (notes.write("ready", job(), NORTH, size=-1), PayloadError),
        (notes.write("refused", job(), NORTH, code="no code; rm -rf"), PayloadError),
        (
            NORTH.signed("note", b"{}".ljust(NOTE_SIZE - len(NORTH.signed("note", b"")))),
            PayloadError,
        ),
        (NORTH.signed("note", b"[" * (NOTE_SIZE - len(NORTH.signed("note", b"")))), PayloadError),
        (READY[:-1], PayloadError),
        (READY + b" ", PayloadError),
        (b"", PayloadError),
    ],
)
def test_what_is_no_note_is_refused(said: bytes, error: type[FedXError]) -> None:
    with pytest.raises(error):
        notes.read(said, job(), NORTH.public)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(READY) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_of_a_note_is_refused(position: int, flip: int) -> None:
    changed = bytearray(READY)
    changed[position] ^= flip
    with pytest.raises(FedXError):
        notes.read(bytes(changed), job(), NORTH.public)
