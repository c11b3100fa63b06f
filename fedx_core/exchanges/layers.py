"""Each client sends each layer with some probability only.

Which layers go is drawn anew in every round; the server averages each layer over the clients that
sent it, and keeps its own where none did.

Source: Z. Zhu, Y. Shi, J. Luo, F. Wang, C. Peng, P. Fan, K. B. Letaief, FedLP: Layer-wise Pruning
Mechanism for Communication-Computation Efficient Federated Learning, ICC 2023,
https://arxiv.org/abs/2303.06360; details follow the authors' code,
https://github.com/Zhuzzq/FedLP.
Differs from the paper: one probability for all clients. A layer is all that a module owns; the
code, and ``code_compat``, draw for every tensor apart, so that a weight can come without its bias.
Clients count equally, as in the code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedx_core.base import limits, seeding, state
from fedx_core.base.errors import DomainError
from fedx_core.base.state import Payload, StateDict
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local, Wire
from fedx_core.exchanges import base
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Entry, Schema, Update


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of which layers are sent.

    Args:
        send_share: probability that a client sends a layer (the paper's LPR), in (0, 1].
        code_compat: draw for every tensor instead of every layer.
    """

    send_share: float = 0.5
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.within("(0, 1]", send_share=self.send_share)


@dataclass(frozen=True, kw_only=True)
class Exchange(Settings, base.Exchange):
    """The model down, some layers up."""

    dense: ClassVar[bool] = True
    says: ClassVar[Mapping[str, Domain]] = {"client_sent_share": domains.SHARE}

    def layer(self, name: str) -> str:
        """Name the layer that an entry belongs to."""
        return name if self.code_compat else name.rpartition(".")[0] or name

    def layers(self, desk: Desk) -> list[str]:
        """Name all layers, in the model's order."""
        return list(dict.fromkeys(self.layer(n) for n in desk.entries if n not in desk.staying))

    def schema(self, desk: Desk, model: Schema, mode: Mode | None) -> Wire:
        """Let clients say which layers stay away, a byte each."""
        said = tuple(
            Entry(f"dropped/{layer}", "torch.bool", (1,), domain=domains.FLAG)
            for layer in self.layers(desk)
        )
        names = (entry.name.removeprefix("model/") for entry in model.entries)
        flips = {f"model/{name}": f"dropped/{self.layer(name)}" for name in names}
        up = Schema((*said, *model.entries), flips=flips if mode else {})
        return Wire(down=model, up=up)

    def packed(self, local: Local, update: Update) -> Update:
        """Draw which layers go."""
        layers = self.layers(local.desk)
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

    def check(self, update: Update) -> None:
        """Refuse values of layers that are said to stay away."""
        dropped = state.section(update.payload, "dropped")
        for name, value in state.section(update.payload, "model").items():
            if dropped[self.layer(name)] and bool(value.any()):
                raise DomainError(
                    f"{update.client} sends {name!r} and says that it does not; wanted zeros"
                )

    def change(self, update: Update, change: Payload) -> Payload:
        """Leave out what stays away."""
        dropped = state.section(update.payload, "dropped")
        return {
            name: torch.zeros_like(value)
            if dropped[self.layer(name.removeprefix("model/"))]
            else value
            for name, value in change.items()
        }

    def contribution(self, update: Update) -> tuple[float, StateDict]:
        """Add the layers that were sent, each client counting the same.

        Each layer is so averaged over those that sent it, and stays the server's where none did.
        """
        dropped = state.section(update.payload, "dropped")
        model = state.section(update.payload, "model")
        return 1, {n: v for n, v in model.items() if not dropped[self.layer(n)]}

    def paper_bytes(self, kept: int) -> int:
        """Charge the share that is expected to be sent, as the paper does."""
        return 4 * (kept + round(self.send_share * kept))
