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

from fedx_core import domains, seeding, state
from fedx_core.domains import Domain
from fedx_core.errors import ConfigError
from fedx_core.masks import Mask
from fedx_core.messages import Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Turn, Updates, Wire
from fedx_core.methods.fedlp import mean_of_holders
from fedx_core.state import Payload
from fedx_core.structure import Mode


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg over models of unequal depth.

    Args:
        depths: stages that clients hold, 1 to all of the model's, dealt out in turn to the clients
            in their order; empty deals out all there are, the whole model first.
        by_client: the same by client's name, for those that differ.
    """

    says: ClassVar[Mapping[str, Domain]] = {
        **base.Method.says, "client_held_share": domains.SHARE,
    }  # fmt: skip

    depths: tuple[int, ...] = ()
    by_client: Mapping[str, int] = field(default_factory=dict)

    def check(self, info: ModelInfo) -> None:
        """Ask for a ResNet with as many stages as clients are to hold."""
        stages = _stages(info)
        if not stages or "fc.weight" not in info.entries:
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

    def variant(self, turn: Turn, info: ModelInfo) -> str:
        """Name how many stages a client trains, empty for all; all score the whole model."""
        stages = _stages(info)
        dealt = self.depths or tuple(range(stages, 0, -1))
        depth = self.by_client.get(turn.client, dealt[turn.place % len(dealt)])
        return "" if depth == stages or turn.purpose == "evaluate" else str(depth)

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Send the stages that a client holds, both ways."""
        entries = super().schema(info, mask, mode).down.entries
        held = Schema(tuple(e for e in entries if _holds(variant, e.name.removeprefix("model/"))))
        return Wire(down=held, up=held)

    def downlink(self, server: ServerState, info: ModelInfo, variant: str = "") -> Payload:
        """Send the stages that a client holds."""
        whole = super().downlink(server, info)
        return {n: v for n, v in whole.items() if _holds(variant, n.removeprefix("model/"))}

    def train(self, local: Local) -> Update:
        """Train what was sent, behind it the client's own classifier where that is not all."""
        names = [n for n in local.info.graph.parameters if _holds(local.variant, n)]
        sizes = {
            n: torch.Size(local.info.entries[n][1]).numel() for n in local.info.graph.parameters
        }
        said = {"client_held_share": sum(sizes[n] for n in names) / sum(sizes.values())}
        if not local.variant:
            update = super().train(local)
            return replace(update, metrics={**update.metrics, **said})
        small = shallow(local.model, int(local.variant), seeding.derive(local.seed, "head"))
        known = base.sent(local) | {
            f"fc.{name}": value for name, value in state.section(local.memory, "head").items()
        }
        small.load_state_dict({n: known.get(n, v) for n, v in small.state_dict().items()})
        loss = replace(local, model=small).fit()
        trained = state.copy(small.state_dict())
        head = {n.removeprefix("fc."): trained.pop(n) for n in list(trained) if _is_head(n)}
        buffers = {name: value for name, value in trained.items() if name in local.info.local}
        payload = state.as_section(local.info.shared(trained), "model")
        return local.update(payload, loss, {**state.as_section(head, "head"), **buffers}, **said)

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average each layer over those that hold it; keep the server's where none does."""
        held = mean_of_holders(state.section(update.payload, "model") for update in updates)
        return replace(server, round_index=server.round_index + 1, model=server.model | held)

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge the parameters that a client holds, both ways."""
        shapes = (info.graph.shapes[n] for n in info.graph.parameters if _holds(variant, n))
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        small.fc = nn.Linear(norms[-1].num_features, whole.out_features)
    return small


def _stage(name: str) -> int:
    """Number the stage that an entry belongs to, from 1; 0 for the stem and the classifier."""
    found = re.match(r"layer(\d+)\.", name)
    return int(found[1]) if found else 0


def _stages(info: ModelInfo) -> int:
    return max(map(_stage, info.entries), default=0)


def _is_head(name: str) -> bool:
    return name.startswith("fc.")


def _holds(variant: str, name: str) -> bool:
    return not variant or (_stage(name) <= int(variant) and not _is_head(name))
