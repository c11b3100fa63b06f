"""Layer-wise pruning for unequal clients: each holds as many stages of the model as it can.

A client that holds the first stages only puts a classifier of its own behind them and trains that
small model. The server averages each layer over the clients that hold it, and so has the whole.

Source: Z. Zhu, Y. Shi, J. Luo, F. Wang, C. Peng, P. Fan, K. B. Letaief, FedLP: Layer-wise Pruning
Mechanism for Communication-Computation Efficient Federated Learning, ICC 2023,
https://arxiv.org/abs/2303.06360, the heterogeneous scheme; details follow the authors' code,
https://github.com/Zhuzzq/FedLP.
Differs from the paper: its networks are cut behind any convolution, ours behind a ResNet's stages,
and how deep a client goes is said or dealt out in turn, not drawn. A small model's classifier stays
with its client, since nobody else could use it; the code sends it and drops it. As in the code,
clients count equally, and the server scores the whole model.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import Payload, StateDict
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Turn, Wire
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Schema, ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg over models of unequal depth.

    Args:
        depths: stages that clients hold, 1 to all of the model's, dealt out in turn to the clients
            in their order; empty deals out all there are, the whole model first.
        by_client: the same by client's name, for those that differ.
    """

    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers, "client_held_share": domains.SHARE,
    }  # fmt: skip
    own_exchange: ClassVar[str] = "stages of models"

    depths: tuple[int, ...] = ()
    by_client: Mapping[str, int] = field(default_factory=dict)

    def check(self, desk: Desk) -> None:
        """Ask for a ResNet with as many stages as clients are to hold."""
        if not desk.objective.answers or desk.plan.label_kind == "pixels":
            raise ConfigError(
                "fedlp_hetero puts a classifier behind each depth, and training.objective "
                f"{desk.plan.training.objective.name} has none of whole images; choose supervised, "
                "or another method, such as fedlp"
            )
        stages = _stages(desk)
        if not stages or "fc.weight" not in desk.entries:
            raise ConfigError(
                "fedlp_hetero cuts models behind the stages of a ResNet, and this is none; choose "
                "a ResNet, or fedlp for other models"
            )
        for depth in (*self.depths, *self.by_client.values()):
            if not 1 <= depth <= stages:
                raise ConfigError(
                    f"depths and by_client must lie in 1 to {stages}, the stages of this model, "
                    f"got {depth}"
                )

    def variant(self, turn: Turn, desk: Desk) -> str:
        """Name how many stages a client trains, empty for all; all score the whole model."""
        stages = _stages(desk)
        dealt = self.depths or tuple(range(stages, 0, -1))
        depth = self.by_client.get(turn.client, dealt[turn.place % len(dealt)])
        return "" if depth == stages or turn.purpose == "evaluate" else str(depth)

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Send the stages that a client holds, both ways."""
        entries = super().schema(desk, mask, mode).down.entries
        held = Schema(tuple(e for e in entries if _holds(variant, e.name.removeprefix("model/"))))
        return Wire(down=held, up=held)

    def downlink(self, server: ServerState, desk: Desk, variant: str = "") -> Payload:
        """Send the stages that a client holds."""
        whole = super().downlink(server, desk)
        return {n: v for n, v in whole.items() if _holds(variant, n.removeprefix("model/"))}

    def train(self, local: Local) -> Update:
        """Train what was sent, behind it the client's own classifier where that is not all."""
        names = [n for n in local.desk.graph.parameters if _holds(local.variant, n)]
        sizes = {
            n: torch.Size(local.desk.entries[n][1]).numel() for n in local.desk.graph.parameters
        }
        said = {"client_held_share": sum(sizes[n] for n in names) / sum(sizes.values())}
        if not local.variant:
            update = super().train(local)
            return replace(update, metrics={**update.metrics, **said})
        small = shallow(local.model, int(local.variant), seeding.derive(local.seed, "head"))
        known = local.sent() | {
            f"fc.{name}": value for name, value in state.section(local.memory, "head").items()
        }
        small.load_state_dict({n: known.get(n, v) for n, v in small.state_dict().items()})
        loss = self.fitted(replace(local, model=small), None)
        trained = state.copy(small.state_dict())
        head = {n.removeprefix("fc."): trained.pop(n) for n in list(trained) if _is_head(n)}
        buffers = {name: value for name, value in trained.items() if name in local.desk.local}
        payload = state.as_section(local.desk.shared(trained), "model")
        return local.update(payload, loss, {**state.as_section(head, "head"), **buffers}, **said)

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Add the layers that the client holds, each client counting the same.

        Each layer is so averaged over those that hold it, and stays the server's where none does.
        """
        return 1, state.section(update.payload, "model")

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge the parameters that a client holds, both ways."""
        shapes = (desk.graph.shapes[n] for n in desk.graph.parameters if _holds(variant, n))
        return 4 * 2 * sum(torch.Size(shape).numel() for shape in shapes)


def shallow(model: nn.Module, depth: int, seed: int) -> nn.Module:
    """Return a copy of a ResNet's first stages behind a new classifier.

    Args:
        model: left as it is.
        depth: stages that are kept.
        seed: of the classifier's first weights.
    """
    small = copy.deepcopy(model)
    for name, _ in model.named_children():
        if _stage(f"{name}.") > depth:
            setattr(small, name, nn.Identity())
    norms = [m for m in small.get_submodule(f"layer{depth}").modules()
             if isinstance(m, nn.BatchNorm2d)]  # fmt: skip
    whole = small.get_submodule("fc")
    assert isinstance(whole, nn.Linear)
    with seeding.initial_weights(seed):
        small.fc = nn.Linear(norms[-1].num_features, whole.out_features)
    return small


def _stage(name: str) -> int:
    """Number the stage that an entry belongs to, from 1; 0 for the stem and the classifier."""
    found = re.match(r"layer(\d+)\.", name)
    return int(found[1]) if found else 0


def _stages(desk: Desk) -> int:
    return max(map(_stage, desk.entries), default=0)


def _is_head(name: str) -> bool:
    return name.startswith("fc.")


def _holds(variant: str, name: str) -> bool:
    return not variant or (_stage(name) <= int(variant) and not _is_head(name))
