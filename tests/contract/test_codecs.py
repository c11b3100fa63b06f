"""Every codec: what is kept comes back, and nothing damaged is believed."""

import struct
import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedx_core import plugins
from fedx_core.codec.base import HEADER, Codec, lengths, require_length
from fedx_core.errors import (
    FedXError,
    PayloadError,
    SchemaError,
    TooBigError,
    VersionError,
)
from fedx_core.messages import Entry, Ref, Schema
from fedx_core.state import Payload

NAMES = plugins.names("codec")


def codec_of(name: str) -> Codec:
    codec: Codec = plugins.build("codec", name, {})
    return codec


def sample(codec: Codec, seed: int = 0) -> tuple[Payload, Schema]:
    generator = torch.Generator().manual_seed(seed)
    payload = {
        "model/conv.weight": torch.randn(6, 3, 2, 2, generator=generator),
        "model/conv.bias": torch.randn(6, generator=generator),
        "model/fc.weight": torch.randn(4, 6, generator=generator),
        "model/bn.num_batches_tracked": torch.tensor(41),
        "mask/conv": torch.tensor([True, False, True, True, False, True]),
        "model/half": torch.randn(3, generator=generator).half(),
        "model/nothing": torch.empty(0),
    }
    support = {}
    if codec.mode is not None:
        rows = torch.tensor([True, False, True, True, False, True])
        support = {
            "model/conv.weight": rows.reshape(-1, 1, 1, 1),
            "model/conv.bias": rows,
            "model/fc.weight": torch.tensor([[True], [False], [True], [True]]) & rows[None],
        }
    entries = tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in payload.items())
    return payload, Schema(entries, support)


@pytest.mark.parametrize("name", NAMES)
def test_kept_values_come_back_and_the_others_are_zero(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    decoded = codec.decode(codec.encode(payload, schema), schema)
    assert list(decoded) == list(payload)
    for key, value in payload.items():
        kept = schema.support.get(key)
        wanted = value if kept is None else torch.where(kept, value, value.new_zeros(()))
        assert torch.equal(decoded[key], wanted)
        assert decoded[key].dtype == value.dtype


@pytest.mark.parametrize("name", NAMES)
def test_the_length_is_the_header_and_the_kept_values(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    widths = {"torch.float32": 4, "torch.float16": 2, "torch.int64": 8}
    body = 0
    for entry in schema.entries:
        count = schema.kept(entry)
        body += (count + 7) // 8 if entry.dtype == "torch.bool" else count * widths[entry.dtype]
    assert len(codec.encode(payload, schema)) == HEADER.size + body


@pytest.mark.parametrize("name", NAMES)
def test_the_length_is_known_and_checked_before_a_payload_is_fetched(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    size = len(codec.encode(payload, schema))
    assert lengths(schema) == (size, size)
    require_length(Ref("uplink/a", "", size), schema)
    with pytest.raises(TooBigError, match=f"{size + 1} bytes, wanted {size}; not fetched"):
        require_length(Ref("uplink/a", "", size + 1), schema)
    with pytest.raises(PayloadError, match=f"{size - 1} bytes, wanted {size}; not fetched"):
        require_length(Ref("uplink/a", "", size - 1), schema)


def test_where_senders_choose_the_length_lies_between_nothing_and_all() -> None:
    entries = (Entry("sent/w", "torch.bool", (4, 1)), Entry("w", "torch.float32", (4, 3)))
    schema = Schema(
        entries, {"w": torch.tensor([[True], [False], [True], [True]])}, {"w": "sent/w"}
    )
    least, most = lengths(schema)
    assert (least, most) == (HEADER.size + 1, HEADER.size + 1 + 48)
    codec = codec_of("sliced")
    for bits in range(16):
        flipped = torch.tensor([[bool(bits >> place & 1)] for place in range(4)])
        payload = {"sent/w": flipped, "w": torch.ones(4, 3)}
        require_length(Ref("uplink/a", "", len(codec.encode(payload, schema))), schema)
    for size in (least - 1, most + 1):
        with pytest.raises(PayloadError, match=f"wanted {least} to {most}"):
            require_length(Ref("uplink/a", "", size), schema)


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_are_left_as_they_are_and_equal_payloads_give_equal_bytes(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    before = {key: value.clone() for key, value in payload.items()}
    first, second = codec.encode(payload, schema), codec.encode(payload, schema)
    assert bytes(first) == bytes(second)
    codec.decode(first, schema)["model/conv.bias"].fill_(7)
    assert bytes(first) == bytes(second)
    assert all(torch.equal(payload[key], before[key]) for key in payload)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_payload_is_refused_and_never_decoded(name: str, data: Any) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    damaged = bytearray(codec.encode(payload, schema))
    match data.draw(st.sampled_from(["cut", "flip", "grow"])):
        case "cut":
            del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
        case "flip":
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] ^= data.draw(st.integers(1, 255))
        case "grow":
            damaged += data.draw(st.binary(min_size=1, max_size=9))
    with pytest.raises(FedXError):
        codec.decode(damaged, schema)


@pytest.mark.parametrize("name", NAMES)
def test_errors_say_what_is_wrong(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    good = bytes(codec.encode(payload, schema))
    with pytest.raises(PayloadError, match="truncated"):
        codec.decode(good[:40], schema)
    with pytest.raises(PayloadError, match="not a FedX payload"):
        codec.decode(b"PK\x03\x04" + good[4:], schema)
    with pytest.raises(PayloadError, match="checksum"):
        codec.decode(good[:-1] + bytes([good[-1] ^ 1]), schema)
    with pytest.raises(VersionError, match="protocol 9"):
        codec.decode(good[:4] + struct.pack("<H", 9) + good[6:], schema)
    other = Schema(schema.entries[:-1], schema.support)
    with pytest.raises(SchemaError, match="another schema"):
        codec.decode(good, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_name_shape_or_dtype_is_refused_before_it_travels(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    with pytest.raises(SchemaError, match=r"float64.*wanted torch\.float32"):
        codec.encode(payload | {"model/conv.bias": torch.zeros(6, dtype=torch.float64)}, schema)
    with pytest.raises(SchemaError, match=r"\(5,\).*wanted"):
        codec.encode(payload | {"model/conv.bias": torch.zeros(5)}, schema)
    with pytest.raises(SchemaError, match="foreign"):
        codec.encode(payload | {"model/foreign": torch.zeros(5)}, schema)


def test_a_payload_of_another_codec_is_refused() -> None:
    payload, schema = sample(codec_of("dense"))
    with pytest.raises(SchemaError, match="codec"):
        codec_of("masked").decode(codec_of("dense").encode(payload, schema), schema)


def test_an_unknown_parameter_is_refused() -> None:
    for name in NAMES:
        with pytest.raises(ValueError, match="no parameter 'level'"):
            plugins.build("codec", name, {"level": 3})


def departing(codec: Codec) -> tuple[Payload, Schema]:
    """A payload whose sender says which values travel: other weights, and no second layer."""
    payload, schema = sample(codec)
    flipped = torch.zeros(6, 3, 2, 2, dtype=torch.bool)
    flipped[0, 0, 0, 0] = flipped[1, 2, 1, 1] = True
    chosen = {
        "still/all": torch.tensor([False]),
        "moved/conv.weight": flipped,
        "dropped/fc": torch.tensor([True]),
        "dropped/bn": torch.tensor([True]),
    }
    entries = tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in chosen.items())
    flips = {
        "moved/conv.weight": "still/all",
        "model/conv.weight": "moved/conv.weight",
        "model/fc.weight": "dropped/fc",
        "model/bn.num_batches_tracked": "dropped/bn",
    }
    return chosen | payload, Schema((*entries, *schema.entries), schema.support, flips)


@pytest.mark.parametrize("name", NAMES)
def test_a_sender_may_depart_from_what_both_sides_expect_by_saying_so(name: str) -> None:
    codec = codec_of(name)
    payload, schema = departing(codec)
    data = codec.encode(payload, schema)
    decoded = codec.decode(data, schema)
    kept = schema.support.get("model/conv.weight", torch.ones(1, dtype=torch.bool))
    wanted = payload["model/conv.weight"] * (kept ^ payload["moved/conv.weight"])
    assert torch.equal(decoded["model/conv.weight"], wanted)
    # All that the support keeps is flipped away, so what it leaves out travels.
    expected = schema.support.get("model/fc.weight")
    if expected is None:
        assert not decoded["model/fc.weight"].any()
    else:
        assert torch.equal(decoded["model/fc.weight"], payload["model/fc.weight"] * ~expected)
    assert int(decoded["model/bn.num_batches_tracked"]) == 0
    still = payload | {
        "still/all": torch.tensor([True]),
        "moved/conv.weight": torch.zeros(6, 3, 2, 2, dtype=torch.bool),
    }
    unmoved = codec.encode(still, schema)
    mask_bytes = (6 * 3 * 2 * 2 + 7) // 8
    values = int(kept.expand(6, 3, 2, 2).sum()) - int((wanted != 0).sum())
    assert len(data) - len(unmoved) == mask_bytes - 4 * values
    assert torch.equal(
        codec.decode(unmoved, schema)["model/conv.weight"], payload["model/conv.weight"] * kept
    )
    with pytest.raises(SchemaError, match="another schema"):
        codec.decode(data, Schema(schema.entries, schema.support))


@pytest.mark.parametrize("name", NAMES)
def test_choices_that_do_not_add_up_to_the_payload_are_refused(name: str) -> None:
    codec = codec_of(name)
    payload, schema = departing(codec)
    good = bytearray(codec.encode(payload, schema))
    forged = bytearray(good)
    forged[HEADER.size] = 0x80  # says that no mask moved, and yet sends one
    struct.pack_into("<I", forged, 56, zlib.crc32(memoryview(forged)[HEADER.size :]))
    with pytest.raises(FedXError):
        codec.decode(forged, schema)
    short = good[:-4]
    struct.pack_into("<Q", short, 48, len(short) - HEADER.size)
    struct.pack_into("<I", short, 56, zlib.crc32(memoryview(short)[HEADER.size :]))
    with pytest.raises(PayloadError, match="ends before"):
        codec.decode(short, schema)
    long = good + b"1234"
    struct.pack_into("<Q", long, 48, len(long) - HEADER.size)
    struct.pack_into("<I", long, 56, zlib.crc32(memoryview(long)[HEADER.size :]))
    with pytest.raises(PayloadError, match="follow its last"):
        codec.decode(long, schema)
