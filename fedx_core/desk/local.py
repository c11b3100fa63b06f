"""One client's place at a desk: its turn in a round, its images, and what it keeps for itself."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from fedx_core.base import state
from fedx_core.base.state import Payload, StateDict
from fedx_core.desk.desk import Desk
from fedx_core.images.examples import Examples
from fedx_core.learning import training
from fedx_core.learning.training import LocalRule, hold
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.shrink.values import cut, grow
from fedx_core.pruning.structure import Cut
from fedx_core.wire.messages import Schema, Update


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One client's part in a round, as far as the server knows it before anything is sent.

    Args:
        client: its name.
        place: among all clients of the run, from 0.
        round_index: from 1.
        purpose: what it is asked: a file of ``fedx_core/asks``.
        returning: it has kept something for itself when it last counted, and still holds it.
    """

    client: str
    place: int
    round_index: int
    purpose: str
    returning: bool


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What both directions hold."""

    down: Schema
    up: Schema


@dataclass(frozen=True, kw_only=True)
class Local:
    """A desk at a client: with its job, its images and its memory.

    Args:
        desk: of the plan.
        client: its name.
        round_index: from 1.
        model: the desk's, or a smaller one; weights arbitrary: ``train`` loads what it needs.
        downlink: decoded payload.
        mask: what is kept.
        memory: what this client kept for itself; empty at first.
        examples: its training part.
        seed: of all draws in this round.
        moments: of the optimiser, which ``fit`` goes on from and changes in place; None where each
            round starts afresh.
        beside: what the client keeps of the objective, such as a momentum encoder; ``fit`` goes on
            from it and changes it in place.
        cuts: what ``model`` lacks of the dense model; nothing where it is the dense one.
        variant: which of the method's payloads this client exchanges.
    """

    desk: Desk
    client: str
    round_index: int
    model: nn.Module
    downlink: Payload
    mask: Mask | None
    memory: StateDict
    examples: Examples
    seed: int
    moments: StateDict | None = None
    beside: StateDict = field(default_factory=dict)
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    variant: str = ""

    def fit(self, rule: LocalRule | None = None) -> float:
        """Train ``model`` in place on ``examples``; see :meth:`Desk.fit`."""
        if self.desk.existing:
            rule = hold(cut(self.desk.existing, self.cuts), rule)
        return self.desk.fit(
            self.model,
            self.examples,
            seed=self.seed,
            rule=rule,
            moments=self.moments,
            round_index=self.round_index,
            beside=self.beside,
        )

    def sent(self) -> StateDict:
        """Return the dense model that was sent.

        What does not travel is what the client kept for itself, or else what it began with.
        """
        own = {name: self.memory.get(name, value) for name, value in self.desk.first.items()}
        return {**own, **state.section(self.downlink, "model")}

    def as_sent(self) -> nn.Module:
        """Return a copy of the network as it was sent, frozen, in train mode.

        It normalises by the batch, since BatchNorm's statistics may not have travelled.
        """
        twin = copy.deepcopy(self.model).requires_grad_(False).train()
        state.load_(twin, cut(self.sent(), self.cuts))
        if self.desk.plan.training.memory_format == "channels_last":
            twin.to(memory_format=torch.channels_last)  # whatever trained in this process before
        return twin

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load a dense model into ``model``, as far as that has its rows and columns."""
        state.load_(self.model, cut(weights, self.cuts))

    def trained(self, dead: Mapping[str, Tensor] | None = None) -> StateDict:
        """Return a copy of ``model``'s entries, dense again.

        Args:
            dead: where values come from that ``model`` lacks; None makes them zero.
        """
        return grow(state.copy(self.model.state_dict()), self.cuts, dead)

    def update(
        self, payload: Payload, loss: float, memory: StateDict | None = None, **numbers: float
    ) -> Update:
        """Return what this client learned.

        Args:
            payload: what is sent; see ``Method.schema``.
            loss: of training.
            memory: what the client keeps; None or empty for nothing.
            numbers: more for the report; they become curves.
        """
        return Update(
            client=self.client,
            payload=payload,
            examples=training.seen_in_epoch(
                len(self.examples),
                self.desk.plan.training.batch_size,
                self.desk.least_batch,
            ),
            metrics={"train_loss": loss, **numbers},
            memory=memory or None,
        )


class Updates(Protocol):
    """A round's updates in cohort order: decoded one by one, as often as they are iterated."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Update]: ...
