"""A codec that is this file alone: it sends few values exactly, and remembers the others.

The file is put beside FedX's codecs under a name of its own, and nothing else is changed.
"""

import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import fedx_core.codec
from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError, PayloadError
from fedx_core.codec import base
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import Entry, Schema


@dataclass(frozen=True, kw_only=True)
class Codec(base.Lossy):
    """Some values of each entry in float32, at places that follow from a seed of eight bytes.

    Args:
        share: of the values, in (0, 1].
    """

    name: ClassVar[str] = "drawn"

    share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must lie in (0, 1], got {self.share}")

    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        size = 8 + 4 * sum(map(self._sent, counts))
        return size, size

    def compress(self, values: Mapping[str, Tensor], seed: int) -> tuple[bytes, dict[str, Tensor]]:
        drawn = self._places({name: len(value) for name, value in values.items()}, seed)
        sent = {name: value[drawn[name]] for name, value in values.items()}
        data = b"".join(value.numpy().astype("<f4").tobytes() for value in sent.values())
        return struct.pack("<Q", seed % 2**64) + data, self._put(values, drawn, sent)

    def expand(self, data: memoryview, counts: Mapping[str, int]) -> dict[str, Tensor]:
        (seed,) = struct.unpack_from("<Q", data)
        values = torch.from_numpy(np.frombuffer(data, "<f4", offset=8).copy())
        if not bool(values.isfinite().all()):
            raise PayloadError("a value that is not finite")
        sent = dict(zip(counts, values.split([*map(self._sent, counts.values())]), strict=True))
        return self._put(counts, self._places(counts, seed), sent)

    def _sent(self, count: int) -> int:
        return round(self.share * count)

    def _places(self, counts: Mapping[str, int], seed: int) -> dict[str, Tensor]:
        random = np.random.default_rng(seed % 2**64)
        return {
            name: torch.from_numpy(random.permutation(count)[: self._sent(count)])
            for name, count in counts.items()
        }

    def _put(
        self, sizes: Mapping[str, Any], places: Mapping[str, Tensor], sent: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        found = {}
        for name, size in sizes.items():
            found[name] = torch.zeros(size if isinstance(size, int) else len(size))
            found[name][places[name]] = sent[name]
        return found


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this file beside the codecs that there are, as ``drawn.py``."""
    folder = tmp_path / "codec"
    folder.mkdir()
    shutil.copy(__file__, folder / "drawn.py")
    monkeypatch.setattr(fedx_core.codec, "__path__", [*fedx_core.codec.__path__, str(folder)])
    yield
    sys.modules.pop("fedx_core.codec.drawn", None)
    vars(fedx_core.codec).pop("drawn", None)


DRAWN = {"codec": {"name": "drawn", "share": 0.1}, "federation__first_model": "seed"}


def test_both_directions_are_as_short_as_it_says_and_both_sides_remember_the_rest(
    bed: Bed,
) -> None:
    settings = tiny(method__name="fedavg", **DRAWN)
    reports = list(federate(settings, bed.setting(), InProcess(1)))
    whole = 4 * 314_954
    assert reports[0].downlink_bytes == 0
    assert all(report.uplink_bytes < 3 * 0.11 * whole for report in reports)
    assert all(report.downlink_bytes < 3 * 0.11 * whole for report in reports[1:])
    store = open_store(bed.setting().place.store)
    last = Journal(store).commits()[-1]
    after = checkpoint.unpack_server_state(store.get(last.state))
    sent = after.held["model/conv1.weight"]
    assert not torch.equal(sent, after.model["conv1.weight"])  # the rest comes with the next one
    memory = last.holdings["client-00"].memory
    assert memory is not None
    kept, _ = checkpoint.unpack_state(open_store(bed.setting().place.memory).get(memory))
    left = state.section(kept, "residual")["model/layer1.0.conv1.weight"]
    assert 0.05 < float((left == 0).float().mean()) < 0.2
    assert torch.equal(state.section(kept, "held")["model/conv1.weight"], sent)


def test_a_run_that_was_stopped_remembers_and_ends_as_one_that_was_not(bed: Bed) -> None:
    settings = tiny(**DRAWN)
    ends = []
    for name, after in (("whole", 0), ("stopped", 1)):
        if after:
            going = federate(settings, bed.setting(name), InProcess(1))
            next(going)
            going.close()
        for _ in federate(settings, bed.setting(name), InProcess(1), resume=bool(after)):
            pass
        journal = Journal(open_store(bed.setting(name).place.store))
        last = journal.commits()[-1]
        memories = {c: h.memory.sha256 for c, h in last.holdings.items() if h.memory}
        ends.append((last.state.sha256, memories))
    assert ends[0] == ends[1]


def test_what_was_left_out_is_sent_the_next_time() -> None:
    codec = plugins.build("codec", "drawn", {"share": 0.5})
    schema = Schema((Entry("model/w", "torch.float32", (400,)),))
    value = torch.randn(400, generator=torch.Generator().manual_seed(1))
    data, residual = codec.encode({"model/w": value}, schema, {}, 1)
    received = codec.decode(data, schema)["model/w"]
    assert torch.equal(received + residual["model/w"], value)
    data, left = codec.encode({"model/w": torch.zeros(400)}, schema, residual, 2)
    received += codec.decode(data, schema)["model/w"]
    assert torch.equal(received + left["model/w"], value)
    assert 0 < int((left["model/w"] != 0).sum()) < int((residual["model/w"] != 0).sum())
