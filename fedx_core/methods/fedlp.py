"""Layer-wise pruning: each client sends each layer with some probability only.

Clients are sent and train the whole model. Which layers they send back is drawn anew in every
round; the server averages each layer over the clients that sent it, and keeps its own where none
did.

Source: Z. Zhu, Y. Shi, J. Luo, F. Wang, C. Peng, P. Fan, K. B. Letaief, FedLP: Layer-wise Pruning
Mechanism for Communication-Computation Efficient Federated Learning, ICC 2023,
https://arxiv.org/abs/2303.06360; details follow the authors' code,
https://github.com/Zhuzzq/FedLP.
Differs from the paper: one probability for all clients. A layer is all that a module owns; the
code, and ``code_compat``, draw for every tensor apart, so that a weight can come without its bias.
Clients count equally, as in the code. This is the homogeneous scheme; the heterogeneous one is
``fedlp_hetero``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedx_core import domains, limits, seeding, state
from fedx_core.domains import Domain
from fedx_core.errors import DomainError
from fedx_core.masks import Mask
from fedx_core.messages import Entry, Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Updates, Wire
from fedx_core.state import Payload, StateDict
from fedx_core.structure import Mode


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with uplinks of some layers.

    Args:
        send_share: probability that a client sends a layer (the paper's LPR), in (0, 1].
        code_compat: draw for every tensor instead of every layer.
    """

    says: ClassVar[Mapping[str, Domain]] = {
        **base.Method.says, "client_sent_share": domains.SHARE,
    }  # fmt: skip

    send_share: float = 0.5
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.within("(0, 1]", send_share=self.send_share)

    def layer(self, name: str) -> str:
        """Name the layer that an entry belongs to."""
        return name if self.code_compat else name.rpartition(".")[0] or name

    def layers(self, info: ModelInfo) -> list[str]:
        """Name all layers, in the model's order."""
        return list(dict.fromkeys(self.layer(n) for n in info.entries if n not in info.local))

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Let clients say which layers stay away, a byte each."""
        down = super().schema(info, mask, mode, variant).down
        said = tuple(
            Entry(f"dropped/{layer}", "torch.bool", (1,), domain=domains.FLAG)
            for layer in self.layers(info)
        )
        names = (entry.name.removeprefix("model/") for entry in down.entries)
        flips = {f"model/{name}": f"dropped/{self.layer(name)}" for name in names}
        return Wire(down=down, up=Schema((*said, *down.entries), flips=flips if mode else {}))

    def finish(self, local: Local, loss: float) -> Update:
        """Draw which layers go."""
        update = super().finish(local, loss)
        layers = self.layers(local.info)
        random = seeding.numpy_generator(seeding.derive(local.seed, "layers"))
        draws = random.random(len(layers))
        dropped = {
            layer: torch.from_numpy(np.array([draw >= self.send_share]))
            for layer, draw in zip(layers, draws, strict=True)
        }
        model = state.section(update.payload, "model")
        away = {n: bool(dropped[self.layer(n)]) for n in model}
        sent = {n: torch.zeros_like(v) if away[n] else v for n, v in model.items()}
        share = sum(v.numel() for n, v in model.items() if not away[n]) / state.count(model)
        return replace(
            update,
            payload=state.as_section(dropped, "dropped") | state.as_section(sent, "model"),
            metrics={**update.metrics, "client_sent_share": share},
        )

    def check_update(self, server: ServerState, update: Update, info: ModelInfo) -> None:
        """Refuse values of layers that are said to stay away."""
        dropped = state.section(update.payload, "dropped")
        for name, value in state.section(update.payload, "model").items():
            if dropped[self.layer(name)] and bool(value.any()):
                raise DomainError(
                    f"{update.client} sends {name!r} and says that it does not; wanted zeros"
                )

    def change(self, server: ServerState, update: Update, info: ModelInfo) -> Payload:
        """Leave out what stays away."""
        dropped = state.section(update.payload, "dropped")
        return {
            name: torch.zeros_like(value)
            if dropped[self.layer(name.removeprefix("model/"))]
            else value
            for name, value in super().change(server, update, info).items()
        }

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average each layer over those that sent it, each client counting the same."""

        def sent() -> Iterator[StateDict]:
            for update in updates:
                dropped = state.section(update.payload, "dropped")
                model = state.section(update.payload, "model")
                yield {n: v for n, v in model.items() if not dropped[self.layer(n)]}

        model = server.model | mean_of_holders(sent())
        return replace(server, round_index=server.round_index + 1, model=model)

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge the share that is expected to be sent, as the paper does."""
        return 4 * (kept + round(self.send_share * kept))


def mean_of_holders(states: Iterable[StateDict]) -> StateDict:
    """Average each entry over those that hold it, all counting the same.

    Sums in float64 and divides last; integer entries are the first holder's, since a mean of
    counters means nothing.

    Args:
        states: parts of models, in cohort order; consumed once.
    """
    sums: StateDict = {}
    first: StateDict = {}
    counts: dict[str, int] = {}
    for part in states:
        for name, value in part.items():
            counts[name] = counts.get(name, 0) + 1
            if name not in first:
                first[name], sums[name] = value, value.to(torch.float64, copy=True)
            elif value.is_floating_point():
                sums[name] += value
    return {
        name: (sums[name] / counts[name]).to(value.dtype) if value.is_floating_point() else value
        for name, value in first.items()
    }
