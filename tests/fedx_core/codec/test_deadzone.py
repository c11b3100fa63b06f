"""The dead-zone quantiser against a slow restatement, its rate, and tables that can't be."""

import math
import struct

import numpy as np
import pytest
import torch

from fedx_core.base.errors import ConfigError, PayloadError
from fedx_core.codec.deadzone import Codec

TABLE = 4 + 2 * 7 + 2 * 8  # the step, means of seven levels, frequencies of eight


def values(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator) * torch.rand(count, generator=generator) * 1e-3


def coded(codec: Codec, value: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    data, received = codec.compress({"model/w": value}, 1)
    return data, received["model/w"]


@pytest.mark.parametrize(("levels", "dead_zone"), [(7, 0.6), (1, 0.6), (3, 0.5), (7, 1.0)])
def test_a_value_becomes_its_sign_times_the_mean_of_its_level(
    levels: int, dead_zone: float
) -> None:
    codec = Codec(bits=1.5, levels=levels, dead_zone=dead_zone)
    value = values(3000)
    data, received = coded(codec, value)
    (step,) = struct.unpack_from("<f", data)
    of_level: dict[int, list[float]] = {}
    level_of = []
    for v in value.tolist():
        level = min(math.floor(abs(v) / step + 1 - dead_zone), levels)
        level_of.append(level)
        of_level.setdefault(level, []).append(abs(v))
    assert len(of_level) == levels + 1 or levels == 7
    for v, level, found in zip(value.tolist(), level_of, received.tolist(), strict=True):
        mean = sum(of_level[level]) / len(of_level[level]) if level else 0.0
        assert found == pytest.approx(math.copysign(mean, v), rel=1e-3, abs=1e-12)  # float16


@pytest.mark.parametrize("bits", [0.1, 0.64, 1.28, 2.0, 3.0])
def test_a_value_takes_the_bits_that_were_asked_for_and_more_bits_lose_less(bits: float) -> None:
    value = values(100_000)
    data, received = coded(Codec(bits=bits), value)
    assert 8 * (len(data) - TABLE) / len(value) == pytest.approx(bits, rel=0.01, abs=0.002)
    error = float((received - value).norm() / value.norm())
    _, better = coded(Codec(bits=1.3 * bits), value)
    assert float((better - value).norm() / value.norm()) < error < 1


def test_the_bits_are_those_of_the_levels_entropy_and_a_bit_a_sign() -> None:
    value = values(50_000)
    data, received = coded(Codec(bits=1.0), value)
    _, counts = np.unique(received.abs().numpy(), return_counts=True)
    share = counts / counts.sum()
    signs = float((received != 0).float().mean())
    entropy = -float((share * np.log2(share)).sum()) + signs
    assert 8 * (len(data) - TABLE) / len(value) == pytest.approx(entropy, rel=0.01)


def test_a_sample_that_is_unlike_the_whole_does_not_break_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedx_core.codec.deadzone._SAMPLE", 100)
    codec = Codec(bits=3.9)
    value = values(1000)
    value[::10] = 1e-9  # what a sample of every tenth value sees
    data, received = coded(codec, value)
    assert len(data) <= codec.sizes([1000])[1]
    assert torch.equal(codec.expand(memoryview(data), {"model/w": 1000})["model/w"], received)


def test_all_zero_and_all_alike_are_sent_exactly() -> None:
    for value in (torch.zeros(500), torch.full((500,), -0.25), torch.tensor([3.0])):
        _, received = coded(Codec(), value)
        assert torch.equal(received, value) or float((received - value).abs().max()) < 1e-3


def forged(**fields: object) -> bytes:
    data, _ = coded(Codec(), values(600))
    body = bytearray(data)
    places = {"step": ("<f", 0), "mean": ("<e", 4), "share": ("<H", 18)}
    for name, value in fields.items():
        form, place = places[name]
        struct.pack_into(form, body, place, value)
    return bytes(body)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"step": math.nan}, "stands for no number"),
        ({"step": math.inf}, "stands for no number"),
        ({"step": -1.0}, "stands for no number"),
        ({"mean": math.nan}, "stands for no number"),
        ({"mean": -0.5}, "stands for no number"),
        ({"share": 0}, "impossible frequencies"),
        ({"share": 65_535}, "impossible frequencies"),
    ],
)
def test_a_table_that_can_not_be_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(PayloadError, match=says):
        Codec().expand(memoryview(forged(**fields)), {"model/w": 600})


def test_frequencies_that_are_all_zero_are_refused() -> None:
    body = bytearray(forged())
    body[18:TABLE] = bytes(16)
    with pytest.raises(PayloadError, match="impossible frequencies"):
        Codec().expand(memoryview(body), {"model/w": 600})


def test_as_many_values_come_out_as_the_schema_says_whatever_the_bytes_hold() -> None:
    data, _ = coded(Codec(), values(6000))
    with pytest.raises(PayloadError, match="corrupt"):
        Codec().expand(memoryview(data), {"model/w": 600})  # ten times as many were coded
    # A certain level takes no bits: nothing is read, and no more comes out.
    certain = struct.pack("<f7e", 1.0, *[1.0] * 7) + struct.pack("<8H", 65_535, *[0] * 7)
    found = Codec().expand(memoryview(certain), {"model/w": 600})
    assert found["model/w"].shape == (600,)
    for words in (1, 7, 100):
        with pytest.raises(PayloadError, match="corrupt"):
            Codec().expand(memoryview(certain + b"\x55" * 4 * words), {"model/w": 600})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bits": 0}, "bits must be more than 0 and at most 4"),
        ({"bits": 4.5}, "bits must be more than 0"),
        ({"levels": 0}, "levels must be 1 or more"),
        ({"levels": 8}, "levels must be 7 or less"),
        ({"dead_zone": 0.4}, "dead_zone must be 0.5 to 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Codec(**settings)  # type: ignore[arg-type] # as no type would let it


def test_a_layer_of_coarser_steps_is_sent_as_if_its_changes_were_smaller() -> None:
    codec = Codec(bits=2.0, steps={"a": 4.0, "a.fine": 0.5})
    entries = {
        f"model/{name}": values(4000, seed) for seed, name in enumerate(("a", "a.fine", "b"))
    }
    data, received = codec.compress(entries, 1)
    assert codec.expand(memoryview(data), dict.fromkeys(entries, 4000)).keys() == entries.keys()
    again = codec.expand(memoryview(data), dict.fromkeys(entries, 4000))
    assert all(torch.equal(again[name], value) for name, value in received.items())
    factors = {"model/a": 4.0, "model/a.fine": 0.5, "model/b": 1.0}
    scaled = {name: value / factors[name] for name, value in entries.items()}
    plain, of_scaled = Codec(bits=2.0).compress(scaled, 1)
    assert plain == data
    error = {}
    for name, value in entries.items():
        torch.testing.assert_close(received[name], of_scaled[name] * factors[name])
        error[name] = float((received[name] - value).norm() / value.norm())
    assert error["model/a.fine"] < error["model/b"] < error["model/a"]


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_step_of_no_size_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"steps: 'a' must be 0\.01 to 100"):
        Codec(steps={"a": factor})
