"""What a codec is, and the bases of those that lose nothing and of those that compress."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from fedx_core.base import state
from fedx_core.base.errors import PayloadError
from fedx_core.base.state import Payload
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains, frame
from fedx_core.wire.frame import Buffer
from fedx_core.wire.messages import Entry, Schema


class Codec(Protocol):
    """A wire format, or a compressor with memory.

    A lossy codec is given *changes* of what the receiver holds (:mod:`fedx_core.clients.exchange`),
    and what it fails to send comes back to it as the residual of the next time.
    """

    mode: ClassVar[Mode | None]
    """Which support its schemas carry; None for whole tensors."""
    lossy: ClassVar[bool]
    """Whether what is decoded only comes near to what was encoded."""

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Turn a payload into the bytes that travel.

        Args:
            payload: in the schema's order.
            schema: that both sides derive.
            residual: what was not sent the last time; empty at first, and for lossless codecs.
            seed: of random rounding.

        Returns:
            The bytes, and what they leave out.
        """

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; values that did not travel are zero."""

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return the fewest and the most bytes that :meth:`encode` makes of a schema's payloads."""


@dataclass(frozen=True)
class Lossless:
    """What a schema keeps, as it is: the base of all codecs that lose nothing."""

    name: ClassVar[str]
    mode: ClassVar[Mode | None] = None
    lossy: ClassVar[bool] = False

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Frame the values that the schema keeps; nothing is left out."""
        return frame.encode(payload, schema, self.name), {}

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; values that did not travel are zero."""
        return frame.decode(data, schema, self.name)

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return one number twice, unless senders choose what they send (``Schema.flips``)."""
        return frame.lengths(schema)


@dataclass(frozen=True)
class Whole(Lossless):
    """What a lossy codec's receiver is sent where no change will do."""

    name: ClassVar[str] = "whole"


@dataclass(frozen=True, kw_only=True)
class Lossy(ABC):
    """Fewer bits for each value: the base of all compressors.

    A file names its compressor, and says how values become bytes, how those become values again and
    how many they are. Entries of float32 whose values may be anything are compressed
    (:func:`is_compressed`); all others, such as masks and BatchNorm's statistics, travel as they
    are, before them.

    Args:
        feedback: add what was not sent to what is sent the next time (error feedback; S. P.
            Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019,
            https://arxiv.org/abs/1901.09847).
    """

    name: ClassVar[str]
    mode: ClassVar[Mode | None] = "slices"
    lossy: ClassVar[bool] = True

    feedback: bool = True

    @abstractmethod
    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytes | bytearray, Mapping[str, Tensor]]:
        """Turn values into bytes.

        Args:
            values: float32 (n,) by entry; n may be 0.
            seed: of random rounding.

        Returns:
            The bytes, and what :meth:`expand` makes of them, to the bit.
        """

    @abstractmethod
    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Undo :meth:`compress`; the bytes may be anybody's.

        Args:
            data: whose number is one of :meth:`sizes`.
            counts: values by entry; as many come out, whatever the bytes say.

        Raises:
            PayloadError: :meth:`compress` makes no such bytes.
        """

    @abstractmethod
    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the fewest and the most bytes of so many values an entry."""

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Compress what the schema keeps; see :class:`Codec`.

        Raises:
            SchemaError: the payload's names, shapes or dtypes are not the schema's.
            NonFiniteError: a value is NaN or infinite.
        """
        frame.require_entries(payload, schema)
        entries = {e.name: (e, schema.settled(e, payload)) for e in schema.entries}
        values = {}
        for name, (entry, known) in entries.items():
            if is_compressed(entry):
                value = frame.kept_values(payload[name], entry, known)
                values[name] = value if name not in residual else value + frame.kept_values(
                    residual[name], entry, known
                )  # fmt: skip
        state.require_finite(values, "what is to be sent")
        data, received = self.compress(values, seed)
        left: Payload = {}
        if self.feedback:
            left = {n: frame.in_place(v - received[n], *entries[n]) for n, v in values.items()}
        rest = frame.written(payload, schema, [e for e in schema.entries if not is_compressed(e)])
        return frame.framed(rest + data, schema, self.name), left

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode` but for what it leaves out; see :class:`Codec`."""
        view = frame.body(data, schema, self.name, self.lengths(schema))
        payload, coded = frame.read(
            view, schema, [e for e in schema.entries if not is_compressed(e)]
        )
        entries = {e.name: (e, schema.settled(e, payload)) for e in schema.entries}
        counts = {n: known.kept(e) for n, (e, known) in entries.items() if is_compressed(e)}
        least, most = self.sizes(list(counts.values()))
        if not least <= len(coded) <= most:
            raise PayloadError(f"{len(coded)} compressed bytes, wanted {least} to {most}")
        values = self.expand(coded, counts)
        return {
            name: frame.in_place(values[name], *entry) if name in values else payload[name]
            for name, entry in entries.items()
        }

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return the fewest and the most bytes of a schema's payloads."""
        least, most = frame.lengths(schema, [e for e in schema.entries if not is_compressed(e)])
        coded = [entry for entry in schema.entries if is_compressed(entry)]
        fewest = [0 if e.name in schema.flips else schema.kept(e) for e in coded]
        every = [math.prod(e.shape) if e.name in schema.flips else schema.kept(e) for e in coded]
        return least + self.sizes(fewest)[0], most + self.sizes(every)[1]


def is_compressed(entry: Entry) -> bool:
    """Tell whether a lossy codec may change an entry's values a little."""
    anything = entry.domain in (None, domains.WEIGHT)
    return entry.dtype == "torch.float32" and anything and not entry.exact


def whole(codec: Codec) -> Codec:
    """Return the lossless codec for the same schemas: itself, if it loses nothing."""
    return Whole() if codec.lossy else codec
