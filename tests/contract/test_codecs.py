"""Every codec: what is kept comes back, and nothing damaged is believed."""

import struct
import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedx_core.base import plugins
from fedx_core.base.errors import (
    FedXError,
    NonFiniteError,
    PayloadError,
    SchemaError,
    TooBigError,
    VersionError,
)
from fedx_core.base.state import Payload
from fedx_core.codec.base import Codec, is_compressed
from fedx_core.wire.frame import HEADER, Buffer, require_length
from fedx_core.wire.messages import Entry, Ref, Schema

NAMES = plugins.names("codec")
LOSSY = [name for name in NAMES if plugins.load("codec", name).lossy]
LOSSLESS = [name for name in NAMES if name not in LOSSY]


def codec_of(name: str) -> Codec:
    codec: Codec = plugins.build("codec", name, {})
    return codec


def sent(codec: Codec, payload: Payload, schema: Schema) -> Buffer:
    return codec.encode(payload, schema, {}, 1)[0]


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


@pytest.mark.parametrize("name", LOSSLESS)
def test_kept_values_come_back_and_the_others_are_zero(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    decoded = codec.decode(sent(codec, payload, schema), schema)
    assert list(decoded) == list(payload)
    for key, value in payload.items():
        kept = schema.support.get(key)
        wanted = value if kept is None else torch.where(kept, value, value.new_zeros(()))
        assert torch.equal(decoded[key], wanted)
        assert decoded[key].dtype == value.dtype


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_length_is_the_header_and_the_kept_values(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    widths = {"torch.float32": 4, "torch.float16": 2, "torch.int64": 8}
    body = 0
    for entry in schema.entries:
        count = schema.kept(entry)
        body += (count + 7) // 8 if entry.dtype == "torch.bool" else count * widths[entry.dtype]
    assert len(sent(codec, payload, schema)) == HEADER.size + body


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_length_is_known_and_checked_before_a_payload_is_fetched(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    size = len(sent(codec, payload, schema))
    wanted = codec.lengths(schema)
    assert wanted == (size, size)
    require_length(Ref("uplink/a", "", size), wanted)
    with pytest.raises(TooBigError, match=f"{size + 1} bytes, wanted {size}; not fetched"):
        require_length(Ref("uplink/a", "", size + 1), wanted)
    with pytest.raises(PayloadError, match=f"{size - 1} bytes, wanted {size}; not fetched"):
        require_length(Ref("uplink/a", "", size - 1), wanted)


def test_where_senders_choose_the_length_lies_between_nothing_and_all() -> None:
    entries = (Entry("sent/w", "torch.bool", (4, 1)), Entry("w", "torch.float32", (4, 3)))
    schema = Schema(
        entries, {"w": torch.tensor([[True], [False], [True], [True]])}, {"w": "sent/w"}
    )
    codec = codec_of("sliced")
    wanted = least, most = codec.lengths(schema)
    assert (least, most) == (HEADER.size + 1, HEADER.size + 1 + 48)
    for bits in range(16):
        flipped = torch.tensor([[bool(bits >> place & 1)] for place in range(4)])
        payload = {"sent/w": flipped, "w": torch.ones(4, 3)}
        require_length(Ref("uplink/a", "", len(sent(codec, payload, schema))), wanted)
    for size in (least - 1, most + 1):
        with pytest.raises(PayloadError, match=f"wanted {least} to {most}"):
            require_length(Ref("uplink/a", "", size), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_are_left_as_they_are_and_equal_payloads_give_equal_bytes(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    before = {key: value.clone() for key, value in payload.items()}
    first, second = sent(codec, payload, schema), sent(codec, payload, schema)
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
    damaged = bytearray(sent(codec, payload, schema))
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
    good = bytes(sent(codec, payload, schema))
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
        sent(codec, payload | {"model/conv.bias": torch.zeros(6, dtype=torch.float64)}, schema)
    with pytest.raises(SchemaError, match=r"\(5,\).*wanted"):
        sent(codec, payload | {"model/conv.bias": torch.zeros(5)}, schema)
    with pytest.raises(SchemaError, match="foreign"):
        sent(codec, payload | {"model/foreign": torch.zeros(5)}, schema)


def test_a_payload_of_another_codec_is_refused() -> None:
    payload, schema = sample(codec_of("dense"))
    with pytest.raises(SchemaError, match="codec"):
        codec_of("masked").decode(sent(codec_of("dense"), payload, schema), schema)


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


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_sender_may_depart_from_what_both_sides_expect_by_saying_so(name: str) -> None:
    codec = codec_of(name)
    payload, schema = departing(codec)
    data = sent(codec, payload, schema)
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
    unmoved = sent(codec, still, schema)
    mask_bytes = (6 * 3 * 2 * 2 + 7) // 8
    values = int(kept.expand(6, 3, 2, 2).sum()) - int((wanted != 0).sum())
    assert len(data) - len(unmoved) == mask_bytes - 4 * values
    assert torch.equal(
        codec.decode(unmoved, schema)["model/conv.weight"], payload["model/conv.weight"] * kept
    )
    with pytest.raises(SchemaError, match="another schema"):
        codec.decode(data, Schema(schema.entries, schema.support))


@pytest.mark.parametrize("name", LOSSLESS)
def test_choices_that_do_not_add_up_to_the_payload_are_refused(name: str) -> None:
    codec = codec_of(name)
    payload, schema = departing(codec)
    good = bytearray(sent(codec, payload, schema))
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


# Lossy codecs


def compressed(schema: Schema) -> list[str]:
    return [entry.name for entry in schema.entries if is_compressed(entry)]


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("form", [sample, departing])
def test_what_is_sent_and_what_is_left_out_are_together_what_was_meant(
    name: str, form: Any
) -> None:
    codec: Codec = plugins.build("codec", name, {"feedback": True})
    payload, schema = form(codec)
    before = {key: torch.full_like(payload[key], 0.25) for key in compressed(schema)}
    data, residual = codec.encode(payload, schema, before, 1)
    decoded = codec.decode(data, schema)
    assert list(decoded) == list(payload)
    assert list(residual) == compressed(schema)
    for entry in schema.entries:
        known = schema.settled(entry, payload)
        kept = known.support.get(entry.name, torch.ones((), dtype=torch.bool))
        value = payload[entry.name]
        found = decoded[entry.name]
        if entry.name in residual:
            assert torch.allclose(found + residual[entry.name], (value + 0.25) * kept, atol=1e-6)
            assert not found[~kept.expand(value.shape)].any()
            assert not residual[entry.name][~kept.expand(value.shape)].any()
        else:
            assert torch.equal(found, torch.where(kept, value, value.new_zeros(())))
    least, most = codec.lengths(schema)
    assert least <= len(data) <= most


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_left_out_comes_later(name: str) -> None:
    codec: Codec = plugins.build("codec", name, {"feedback": True})
    value = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    schema = Schema((Entry("model/w", "torch.float32", (4000,)),))
    received, residual = torch.zeros(4000), {}
    errors = []
    for turn in range(1, 201):
        data, residual = codec.encode({"model/w": value}, schema, residual, turn)
        received += codec.decode(data, schema)["model/w"]
        errors.append(float((received / turn - value).norm() / value.norm()))
    assert errors[-1] < min(0.5, errors[9])  # the mean of what comes is what was meant


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_values_of_any_number_fit_the_lengths_that_are_said(name: str, data: Any) -> None:
    codec = codec_of(name)
    sizes = data.draw(st.lists(st.integers(0, 300), max_size=3))
    scale = data.draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e15]))
    share = data.draw(st.sampled_from([0.01, 0.5, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    payload = {
        f"model/{place}": scale
        * torch.randn(size, generator=generator)
        * (torch.rand(size, generator=generator) < share)
        for place, size in enumerate(sizes)
    }
    schema = Schema(tuple(Entry(n, "torch.float32", tuple(v.shape)) for n, v in payload.items()))
    bytes_, _ = codec.encode(payload, schema, {}, 1)
    least, most = codec.lengths(schema)
    assert least <= len(bytes_) <= most
    decoded = codec.decode(bytes_, schema)
    assert all(decoded[key].shape == value.shape for key, value in payload.items())
    assert all(bool(value.isfinite().all()) for value in decoded.values())


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_not_finite_does_not_travel(name: str) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    payload["model/conv.bias"][0] = float("nan")
    with pytest.raises(NonFiniteError, match="what is to be sent"):
        sent(codec, payload, schema)


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_forged_body_is_refused_or_holds_as_many_values_as_the_schema_says(
    name: str, data: Any
) -> None:
    codec = codec_of(name)
    payload, schema = sample(codec)
    forged = bytearray(sent(codec, payload, schema))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(HEADER.size, len(forged) - 1))
        forged[at] = data.draw(st.integers(0, 255))
    struct.pack_into("<I", forged, 56, zlib.crc32(memoryview(forged)[HEADER.size :]))
    try:
        found = codec.decode(forged, schema)
    except FedXError:
        return
    assert [(n, v.shape, v.dtype) for n, v in found.items()] == [
        (n, v.shape, v.dtype) for n, v in payload.items()
    ]
