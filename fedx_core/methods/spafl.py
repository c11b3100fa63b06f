"""Sparse personal models that share nothing but thresholds.

Each client has weights of its own, which never leave it, and a threshold for each filter and
neuron. A unit whose weights are smaller on average than its threshold is left out of the forward
pass. Weights and thresholds are trained together; thresholds alone travel and are averaged, and
tell every client which units the others can do without.

Source: M. Kim, W. Saad, M. Debbah, C. S. Hong, SpaFL: Communication-Efficient Federated Learning
with Sparse Models and Low Computational Overhead, NeurIPS 2024, https://arxiv.org/abs/2406.00431;
details follow the authors' code, https://github.com/news-vt/SpaFL_NeruIPS_2024.
Differs from the paper: the weights' optimiser is a setting (SGD with a falling rate in the preset
``paper``), the thresholds' is SGD with momentum 0.9 as in the code, at a rate that does not fall;
the penalty does not rise. Clients that are not asked receive nothing, and catch up with the
thresholds' change when they are asked again. A client's model is scored as its next round would
begin: with the last mean thresholds, and its weights moved by their change, which costs a downlink
of thresholds. As in the code's ResNet, the classifier has no
thresholds. First weights are sent to a client once, where the paper takes a common seed; its ledger
counts thresholds alone. Differs from the code, unless ``code_compat``: the gradient passes the step
where its argument lies in [-1, 1], where the code's passes outside of it and so lets the penalty
alone move thresholds; a threshold's change is shared out to all weights of a unit, where the code
divides by a convolution's kernel alone; and models are scored behind the mean thresholds, where the
code's clients keep their own for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base import limits, state
from fedx_core.base.state import Payload, StateDict
from fedx_core.learning.training import LocalRule
from fedx_core.methods import base
from fedx_core.methods._averages import Total, weighted_mean
from fedx_core.methods.base import Desk, Local, Turn, Wire
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Mode
from fedx_core.pruning.thresholds import kept_units, sparse, yielded
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Schema, ServerState, Update

MOMENTUM = 0.9
"""Of the thresholds' SGD."""


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Personal models behind common thresholds.

    Args:
        penalty: weight of the sum of exp(-threshold) in the loss (lambda), 0 or more: the larger,
            the sparser the models get.
        threshold_rate: learning rate of the thresholds, positive.
        clip: largest norm of all gradients of a step together, positive.
        average: score the mean of the clients' models on the server's test set too; for
            simulations, whose server can read what clients keep.
        code_compat: do as the authors' code does where it departs from the paper; see above.
    """

    personal: ClassVar[bool] = True

    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers,
        "client_density": domains.SHARE,
    }
    own_exchange: ClassVar[str] = "thresholds"

    penalty: float = 5e-3
    threshold_rate: float = 0.02
    clip: float = 3.0
    average: bool = False
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.at_least(0, penalty=self.penalty)
        limits.positive(threshold_rate=self.threshold_rate, clip=self.clip)

    def variant(self, turn: Turn, desk: Desk) -> str:
        """Send first weights to whom they are new."""
        return "" if turn.returning else "first"

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Name thresholds, one a unit; the model beside them for whom it is new."""
        taus = base.per_unit(desk, "threshold", "torch.float32", domains.WEIGHT)
        model = super().schema(desk, mask, mode).down.entries if variant == "first" else ()
        return Wire(down=Schema((*taus, *model)), up=Schema(taus))

    def downlink(self, server: ServerState, desk: Desk, variant: str = "") -> Payload:
        """Send the thresholds' mean, zero at first."""
        model = super().downlink(server, desk) if variant == "first" else {}
        return {**state.as_section(_thresholds(server, desk), "threshold"), **model}

    def train(self, local: Local) -> Update:
        """Take over what the thresholds' mean has changed, then train weights and thresholds."""
        received = state.section(local.downlink, "threshold")
        own = state.section(local.memory, "weights") or local.sent()
        local.load(self._caught_up(own, state.section(local.memory, "received"), received))
        device = local.desk.device
        taus = {n: tau.to(device, copy=True).requires_grad_() for n, tau in received.items()}
        loss = local.fit(self._step(taus))
        trained = {name: tau.detach().cpu() for name, tau in taus.items()}
        weights = local.trained()
        kept = [float(kept_units(weights[f"{n}.weight"], tau).mean()) for n, tau in trained.items()]
        thresholds = state.as_section(trained, "threshold")
        memory = {
            **state.as_section(weights, "weights"),
            **state.as_section(received, "received"),
            **thresholds,
        }
        return local.update(thresholds, loss, memory, client_density=fmean(kept))

    def _caught_up(self, weights: StateDict, before: StateDict, received: StateDict) -> StateDict:
        """Move weights by what the mean thresholds have changed since a client heard of them."""
        found = dict(weights)
        for name, tau in received.items():
            change = tau - before.get(name, torch.zeros_like(tau))
            weight = weights[f"{name}.weight"]
            found[f"{name}.weight"] = yielded(weight, change, code_compat=self.code_compat)
        return found

    def _step(self, taus: Mapping[str, Tensor]) -> LocalRule:
        optimiser = torch.optim.SGD(taus.values(), lr=self.threshold_rate, momentum=MOMENTUM)

        def effective(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
            return sparse(parameters, taus, code_compat=self.code_compat)

        def penalty(model: nn.Module) -> Tensor:
            return self.penalty * torch.stack([(-tau).exp().sum() for tau in taus.values()]).sum()

        def move(model: nn.Module) -> None:
            nn.utils.clip_grad_norm_([*model.parameters(), *taus.values()], self.clip)
            optimiser.step()
            optimiser.zero_grad()

        return LocalRule(effective=effective, penalty=penalty, before_step=move)

    def change(self, server: ServerState, update: Update, desk: Desk) -> Payload:
        """Measure the thresholds."""
        before = state.as_section(_thresholds(server, desk), "threshold")
        return {name: value - before[name] for name, value in update.payload.items()}

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Add the thresholds, each client counting the same."""
        return 1, state.section(update.payload, "threshold")

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Average the thresholds; the first weights stay."""
        return replace(before, round_index=before.round_index + 1, memory=total.mean())

    def measured(self, before: ServerState, after: ServerState, desk: Desk) -> dict[str, float]:
        """Say how high the thresholds are on average, and by how much they moved."""
        old, new = _thresholds(before, desk), _thresholds(after, desk)
        return {
            "threshold": float(torch.cat([tau.double() for tau in new.values()]).mean()),
            "threshold_step": state.norm(state.subtract(new, old)),
        }

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge the thresholds, both ways."""
        return 4 * 2 * sum(layer.units for layer in desk.graph.layers)

    def evaluated(self, local: Local) -> None:
        """Load the client's own sparse model, once the last thresholds are taken over."""
        received = state.section(local.downlink, "threshold")
        own = state.section(local.memory, "weights") or local.sent()
        weights = self._caught_up(own, state.section(local.memory, "received"), received)
        kept = state.section(local.memory, "threshold") if self.code_compat else {}
        with torch.no_grad():
            local.load(sparse(weights, state.copy(kept or received)))

    def averaged(self, server: ServerState, memories: Iterable[StateDict]) -> StateDict | None:
        """Average the personal weights, and leave out what lies below the mean thresholds."""
        if not self.average or not server.memory:  # or nobody has trained yet
            return None
        weights = weighted_mean(
            (
                1,
                self._caught_up(
                    state.section(memory, "weights"),
                    state.section(memory, "received"),
                    server.memory,
                ),
            )
            for memory in memories
        )
        return sparse(weights, state.copy(server.memory))


def _thresholds(server: ServerState, desk: Desk) -> StateDict:
    return {x.name: server.memory.get(x.name, torch.zeros(x.units)) for x in desk.graph.layers}
