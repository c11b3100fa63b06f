"""FedAvg whose clients send their change of the model, rounded at random to a few levels.

A change v becomes its Euclidean norm and, for each value, a sign and a level of 0 to s. Rounding
up or down is drawn so that the mean of what is sent is v (QSGD). What the server sends is whole.

Source: A. Reisizadeh et al., FedPAQ: A Communication-Efficient Federated Learning Method with
Periodic Averaging and Quantization, AISTATS 2020, https://arxiv.org/abs/1909.13014, algorithm 1 and
example 1; D. Alistarh et al., QSGD, NeurIPS 2017, https://arxiv.org/abs/1610.02132, section 3.1.
Differs from the paper: a norm for every 512 values of a tensor (QSGD's buckets) instead of one for
all, since noise grows with the root of that number; Adam instead of SGD. BatchNorm's statistics are
no weights: they travel as they are and are averaged.
Nothing is pruned, so there are no masks. Any codec packs levels into their bits.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fedx_core import domains, limits, seeding, state
from fedx_core.aggregate import weighted_mean
from fedx_core.domains import Domain
from fedx_core.errors import ConfigError
from fedx_core.masks import Mask
from fedx_core.messages import Entry, Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Updates, Wire
from fedx_core.state import Payload, StateDict
from fedx_core.structure import Mode

Weights = Literal["equal", "examples"]


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with quantised uplinks; clients say how large the noise is beside their change.

    Args:
        levels: s, 1 to 32,767; a value takes 1 + ceil(log2(s + 1)) bits, so 7 takes 4 bits and 127
            takes 8.
        bucket: values of a tensor that share a norm; 0 gives each tensor one. With 127 levels and
            ResNet18 the noise is 0.07 of the change at 512 and 2.6 times the change at 0.
        weights: of the clients in the mean: ``equal`` as in the paper, whose clients hold equally
            much, or by ``examples`` as in FedAvg.
    """

    says: ClassVar[Mapping[str, Domain]] = {**base.Method.says, "noise": domains.RATIO}

    levels: int = 127
    bucket: int = 512
    weights: Weights = "equal"

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 32767:
            raise ConfigError(f"levels must be 1 to 32767, got {self.levels}")
        limits.at_least(0, bucket=self.bucket)
        limits.one_of(get_args(Weights), weights=self.weights)

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Send a norm and levels up in place of each parameter."""
        down = super().schema(info, mask, mode, variant).down
        return Wire(down=down, up=Schema(tuple(self._entries(down, info))))

    def _entries(self, down: Schema, info: ModelInfo) -> Iterator[Entry]:
        for entry in down.entries:
            name = entry.name.removeprefix("model/")
            if name in info.graph.parameters:
                norms = self._norms(math.prod(entry.shape))
                yield Entry(f"norm/{name}", "torch.float32", (norms,), domain=domains.POSITIVE)
                whole = Domain(least=-self.levels, most=self.levels, whole=True)
                yield Entry(f"level/{name}", "torch.int16", entry.shape, self.levels, whole)
            else:
                yield entry

    def _norms(self, size: int) -> int:
        return math.ceil(size / self.bucket) if self.bucket else 1

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge float32 down, and up a norm a bucket and the bits of each level."""
        sizes = [math.prod(info.graph.shapes[name]) for name in info.graph.parameters]
        bits = kept * (2 * self.levels).bit_length() + 32 * sum(map(self._norms, sizes))
        return 4 * kept + math.ceil(bits / 8)

    def finish(self, local: Local, loss: float) -> Update:
        """Quantise the change of each parameter (algorithm 1, line 10)."""
        update = super().finish(local, loss)
        sent = state.section(local.downlink, "model")
        payload: Payload = {}
        changes: StateDict = {}
        for name, value in state.section(update.payload, "model").items():
            if name in local.info.graph.parameters:
                changes[name] = value - sent[name]
                random = seeding.torch_generator(seeding.derive(local.seed, "quantise", name))
                norm, level = quantise(changes[name], self.levels, self.bucket, random)
                payload |= {f"norm/{name}": norm, f"level/{name}": level}
            else:
                payload[f"model/{name}"] = value
        received = self._received(payload)
        errors = {name: received[name] - change for name, change in changes.items()}
        noise = state.norm(errors) / max(state.norm(changes), 1e-30)
        return replace(update, payload=payload, metrics={**update.metrics, "noise": noise})

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Add the mean of the quantised changes (algorithm 1, line 13)."""
        mean = weighted_mean(
            (update.examples if self.weights == "examples" else 1, self._received(update.payload))
            for update in updates
        )
        model = {
            name: value + mean[name] if name in info.graph.parameters else mean.get(name, value)
            for name, value in server.model.items()
        }
        return replace(server, round_index=server.round_index + 1, model=model)

    def change(self, server: ServerState, update: Update, info: ModelInfo) -> Payload:
        """Measure what the levels stand for; half as long norms halve it."""
        received = state.as_section(self._received(update.payload), "norm")
        model = state.section(update.payload, "model")
        plain = replace(update, payload=state.as_section(model, "model"))
        return super().change(server, plain, info) | {
            name: value for name, value in received.items() if name in update.payload
        }

    def shortened(self, update: Update, change: Payload, factors: Mapping[str, float]) -> Update:
        """Shorten the norms."""
        plain = {name: value for name, value in change.items() if name.startswith("model/")}
        short = super().shortened(update, plain, factors)
        norms = {
            name: value * factors[name]
            for name, value in update.payload.items()
            if name.startswith("norm/") and factors.get(name, 1.0) != 1.0
        }
        return replace(short, payload=short.payload | norms)

    def _received(self, payload: Payload) -> StateDict:
        norms = state.section(payload, "norm")
        changes = {
            name: dequantise(norms[name], level, self.levels, self.bucket)
            for name, level in state.section(payload, "level").items()
        }
        return changes | state.section(payload, "model")


def quantise(
    value: Tensor, levels: int, bucket: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Round values at random to levels of their norm, so that their mean stays.

    Args:
        value: float, any shape; left as it is.
        levels: s.
        bucket: values that share a norm; 0 for all.
        random: decides which way each value is rounded.

    Returns:
        Euclidean norms, float32 (buckets,), and levels in -s to s, int16 of the value's shape.
    """
    rows = _in_buckets(value.double(), bucket)
    norms = torch.linalg.vector_norm(rows, dim=1).float()
    exact = levels * rows.abs() / norms.double()[:, None]
    draw = torch.rand(exact.shape, generator=random, dtype=torch.float64)
    level = (exact.floor() + (draw < exact.frac())).clamp(max=levels) * rows.sign()
    # Not a number: a norm of zero, or one that is not finite, which the server refuses.
    return norms, _out_of_buckets(level.nan_to_num().to(torch.int16), value.shape)


def dequantise(norms: Tensor, level: Tensor, levels: int, bucket: int) -> Tensor:
    """Return what was sent: norm times level over s, float32 of the level's shape."""
    rows = _in_buckets(level.double(), bucket) * norms.double()[:, None] / levels
    return _out_of_buckets(rows.float(), level.shape)


def _in_buckets(value: Tensor, bucket: int) -> Tensor:
    flat = value.reshape(-1)
    size = bucket or len(flat)
    return functional.pad(flat, (0, -len(flat) % size)).reshape(-1, size)


def _out_of_buckets(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows.reshape(-1)[: shape.numel()].reshape(shape)
