"""The stages of a federated method, and FedAvg's answer to each.

A method is made of four parts, each a plug-in that settings may swap: what is added to a client's
steps (:mod:`fedx_core.local_rules`), what clients send (:mod:`fedx_core.exchanges`), the server's
step (:mod:`fedx_core.server_steps`) and what the model loses (:mod:`fedx_core.pruners`). It
overrides only the stages in which it differs. It keeps nothing in ``self``: what must
survive a round goes into ``ServerState.memory`` at the server or ``Update.memory`` at the client,
so a retried round is the same round. Its dataclass fields are its settings.

    own        its parts                           train         at a client
    start      once, at the server                 contribution  what an update adds to a sum
    cohort     who takes part in a round           settle        what the sum leads to
    variant    who is sent what                    schema        what payloads hold, for both sides
    downlink   what a client is sent               evaluated     the model that a client scores
                                                   measured      its own numbers, for the curves
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from fedx_core.base import seeding, state
from fedx_core.base.config import Plugin
from fedx_core.base.errors import ConfigError
from fedx_core.base.parsing import Slot
from fedx_core.base.state import Payload, StateDict
from fedx_core.desk.conversation import Answers as Answers
from fedx_core.desk.conversation import Question as Question
from fedx_core.desk.desk import Desk as Desk
from fedx_core.desk.local import Local as Local
from fedx_core.desk.local import Turn as Turn
from fedx_core.desk.local import Updates as Updates
from fedx_core.desk.local import Wire as Wire
from fedx_core.learning.training import LocalRule, hold
from fedx_core.local_rules.base import combined
from fedx_core.methods._averages import Total as Total
from fedx_core.methods._averages import total as total
from fedx_core.methods._parts import PACKAGES as PACKAGES
from fedx_core.methods._parts import Parts as Parts
from fedx_core.methods._parts import chosen
from fedx_core.methods._parts import name_of as name_of
from fedx_core.methods._parts import taken as taken
from fedx_core.pruners.base import weights as weights
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Entry, Schema, ServerState, Update

KEPT = "kept"
"""Section of a contribution under a mask of its own: which values count, 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """FedAvg (McMahan et al. 2017, algorithm 1), stage by stage.

    Args:
        local: a file of ``fedx_core/local_rules`` with its parameters; null for the method's own.
        exchange: a file of ``fedx_core/exchanges``, likewise.
        server: a file of ``fedx_core/server_steps``, likewise.
        pruner: a file of ``fedx_core/pruners``, likewise.
    """

    personal: ClassVar[bool] = False
    """True where there is no global model: clients score their own on their own test parts."""
    communicates: ClassVar[bool] = True
    """False for bounds that move data or nothing; their ledgers stay at zero."""
    sees_each: ClassVar[bool] = False
    """True for rules that need single updates, such as a median: they override ``settle_each``.

    All others settle on a sum, and so can't tell one client from another.
    """
    learns_from_public: ClassVar[bool] = False
    """True where a stage of the server looks at ``desk.public``; refused where there is none."""
    least_public: ClassVar[int] = 1
    """Public images that it needs at least, where it needs any."""
    pre_trains: ClassVar[bool] = False
    """True for methods of pre-training, which are tuned on no labels."""
    public_at_clients: ClassVar[bool] = False
    """True where clients look at it too; each fetches it once, and is charged for it."""
    numbers: ClassVar[Mapping[str, Domain]] = {"train_loss": domains.LOSS}
    """What the numbers of ``Update.metrics`` may be, by name, beside those of the parts."""
    own_exchange: ClassVar[str] = ""
    """What a method exchanges that sends something else than models, such as ``votes``."""

    local: Annotated[Mapping[str, Any], Slot("local_rules")] | None = None
    exchange: Annotated[Mapping[str, Any], Slot("exchanges")] | None = None
    server: Annotated[Mapping[str, Any], Slot("server_steps")] | None = None
    pruner: Annotated[Mapping[str, Any], Slot("pruners")] | None = None

    def own(self) -> Parts:
        """Name the parts that the method is made of; FedAvg's by default."""
        return Parts()

    @cached_property
    def parts(self) -> Parts:
        """The method's own parts, but for those that settings swap."""
        return replace(self.own(), **chosen(self._swapped))

    @property
    def _swapped(self) -> dict[str, Mapping[str, Any] | None]:
        return {part: getattr(self, part) for part in PACKAGES}

    def fixed(self, part: str) -> str:
        """Say why a part of this method can't be swapped; empty if it can."""
        if type(getattr(self.own(), part)) is not type(getattr(Parts(), part)):
            return f"{self.name} has a part of its own there, whose settings would mean nothing"
        if part in ("server", "pruner") and (self.personal or not self.communicates):
            return f"{self.name} has no federated model"
        if part in ("exchange", "pruner") and self.own_exchange:
            return f"{self.name} exchanges {self.own_exchange}"
        return ""

    @property
    def name(self) -> str:
        """The name of the method's file."""
        return name_of(self)

    @property
    def says(self) -> Mapping[str, Domain]:
        """What the numbers of ``Update.metrics`` may be, by name; any other number is refused."""
        parts = self.parts
        return {**self.numbers, **parts.exchange.says, **parts.pruner.says}

    @property
    def uplink(self) -> Plugin | None:
        """The codec of what clients send where it is the method; None leaves that to settings."""
        return None

    @property
    def downlink_codec(self) -> Plugin | None:
        """The codec of what clients are sent, likewise."""
        return None

    @property
    def needs_public(self) -> bool:
        """Whether the method or its server step looks at public images."""
        return self.learns_from_public or self.public_at_clients or self.parts.server.needs_public

    @property
    def heads(self) -> bool:
        """Whether attention heads are units; see :class:`fedx_core.pruners.base.Pruner`."""
        return self.parts.pruner.heads

    @property
    def keeps_dead_units_at_zero(self) -> bool:
        """Whether dead units stay zero; see :class:`fedx_core.pruners.base.Pruner`."""
        return self.parts.pruner.keeps_dead_units_at_zero

    def to_come(self, state: ServerState) -> bool:
        """Tell whether a later round is to do more than the last one, such as to prune.

        A run must not stop before it, and one that ends before it is told so. Only the state's
        round is looked at.
        """
        return self.parts.pruner.to_come(state)

    def architecture(self, variant: str) -> str:
        """Name the model of clients of a variant, where it is not the plan's; empty where it is.

        Only a method whose payloads are of no model can have several: its schemas must be the same
        for all of them.
        """
        return ""

    def check(self, desk: Desk) -> None:
        """Refuse parts that do not go together, or a model that they do not fit, before a run.

        Raises:
            ConfigError: says what to change.
        """
        for part, block in self._swapped.items():
            if block is not None and (reason := self.fixed(part)):
                raise ConfigError(
                    f"method.{part}: {block['name']!r} can't go into {self.name}: {reason}; leave "
                    f"method.{part} out, or set method.name to fedavg"
                )
        parts = self.parts
        if parts.pruner.needs and parts.pruner.needs != self.own_exchange:
            raise ConfigError(
                f"method.pruner: {name_of(parts.pruner)!r} makes its masks of "
                f"{parts.pruner.needs}, which clients of {self.name} do not send; choose the "
                "method that does, or one of iterative, gradual and relevance"
            )
        if parts.exchange.dense and parts.pruner.prunes:
            raise ConfigError(
                f"method.exchange: {name_of(parts.exchange)!r} can't send a model under a mask, "
                f"and {self.name} prunes with {name_of(parts.pruner)!r}; leave one of the two out"
            )
        if parts.local.remembers and (self.own_exchange or self.personal or not self.communicates):
            raise ConfigError(
                f"method.local: {name_of(parts.local)!r} follows what the server sends from round "
                f"to round, and {self.name} exchanges {self.own_exchange or 'no model'}; choose "
                "plain or proximal, or another method"
            )
        parts.local.check(desk)
        parts.pruner.check(desk)

    def start(self, model: StateDict) -> ServerState:
        """Begin with freshly drawn or given weights."""
        return self.parts.pruner.start(ServerState(round_index=0, model=model))

    def cohort(
        self, clients: Sequence[str], participation: float, round_index: int, seed: int
    ) -> tuple[str, ...]:
        """Draw ``ceil(C * K)`` clients at random, in the order of ``clients``."""
        size = max(1, math.ceil(participation * len(clients) - 1e-9))
        if size == len(clients):
            return tuple(clients)
        random = seeding.numpy_generator(seeding.derive(seed, round_index, "cohort"))
        return tuple(clients[i] for i in sorted(random.permutation(len(clients))[:size]))

    def variant(self, turn: Turn, desk: Desk) -> str:
        """Name what a client exchanges in a round; those with the same name are sent the same.

        The server decides, and tells the client; the schemas of both sides follow from it. By
        default they are the groups that have a mask of their own.
        """
        return self.parts.pruner.group(turn)

    def mask_for(self, desk: Desk, server: ServerState, variant: str) -> Mask | None:
        """Return the mask that clients of a variant work under."""
        return self.parts.pruner.mask_for(desk, server, variant)

    def downlink(self, server: ServerState, desk: Desk, variant: str = "") -> Payload:
        """Send the model; encoded once for each variant."""
        model = server.model
        mask = self.mask_for(desk, server, variant)
        if mask is not server.mask:
            model = masks.apply(model, self.support(desk, mask, "slices"))
        return state.as_section(desk.shared(model), "model")

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Say what payloads hold; both sides derive it from what they know.

        Args:
            desk: of the server.
            mask: of the round.
            mode: of the codec; None for whole tensors.
            variant: of the client.
        """
        entries = tuple(
            Entry(
                f"model/{name}",
                dtype,
                shape,
                domain=domains.of_entry(name),
                exact=name not in desk.graph.parameters,
            )
            for name, (dtype, shape) in desk.entries.items()
            if name not in desk.staying
        )
        support = {} if mode is None else self.support(desk, mask, mode)
        schema = Schema(
            entries, {f"model/{n}": kept for n, kept in support.items() if n not in desk.staying}
        )
        return self.parts.exchange.schema(desk, schema, mode)

    def masked(self, desk: Desk) -> tuple[str, ...]:
        """Name what masks over parameters speak of."""
        return self.parts.pruner.masked(desk)

    def support(self, desk: Desk, mask: Mask | None, mode: Mode) -> dict[str, Tensor]:
        """Say which entries lose values under a mask."""
        return self.parts.pruner.support(desk, mask, mode)

    def train(self, local: Local) -> Update:
        """Train the model that was sent, and send it back."""
        load(local)
        return self.finish(local, self.fitted(local, self.rule(local)))

    def fitted(self, local: Local, rule: LocalRule | None) -> float:
        """Train under the method's rule and that of its local part; return the loss."""
        return local.fit(combined(rule, self.parts.local.rule(local)))

    def rule(self, local: Local) -> LocalRule | None:
        """Change a local step: hold what is dead at zero. A model that lacks it needs no rule."""
        if local.mask is None or local.cuts or not self.keeps_dead_units_at_zero:
            return None
        return hold(self.support(local.desk, local.mask, "slices"))

    def finish(self, local: Local, loss: float) -> Update:
        """Turn a trained model into an update; local entries stay in the client's memory."""
        numbers = self.parts.pruner.trained(local)
        trained = local.trained(local.sent())
        payload = state.as_section(local.desk.shared(trained), "model")
        kept = {name: trained[name] for name in local.desk.local} | self.parts.local.kept(local)
        update = local.update(payload, loss, kept, **numbers)
        return self.parts.exchange.packed(local, update)

    def round(
        self, desk: Desk, before: ServerState, cohort: tuple[str, ...]
    ) -> Generator[Question, Answers, ServerState]:
        """Hold a round's conversation: ask to train, and take what that settles to.

        A method with more to ask yields further questions, before it or after it. Each is closed in
        the journal, so a resumed server replays the generator on the same answers; it must follow
        from them and from its arguments alone.

        Args:
            desk: of the server.
            before: state that the round begins with.
            cohort: clients drawn for the round.

        Returns:
            The state that the round led to, before relevance and pruning.
        """
        answers = yield Question()
        return answers.settled

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Say what an update adds to the round's sum, and with what weight: its model, by examples.

        Linear in what was learned, and of one update alone. An entry that is left out adds nothing
        and has its weight less.
        """
        weight, model = self.parts.exchange.contribution(update)
        if update.mask is None:
            return weight, model
        support = self.support(desk, update.mask, "slices")
        kept = {
            name: support[name].expand(value.shape).double()
            if name in support
            else torch.ones_like(value, dtype=torch.float64)
            for name, value in model.items()
            if value.is_floating_point()
        }
        return weight, masks.apply(model, support) | state.as_section(kept, KEPT)

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Turn a round's sum into the next state: a step to the mean; what did not travel stays.

        Where clients have masks of their own, a value is averaged over those that keep it.

        Args:
            desk: of the model.
            before: state that the round's clients were sent.
            total: of their contributions, in cohort order.
        """
        mean = total.mean()
        model = {name: mean.get(name, value) for name, value in before.model.items()}
        for name, kept in state.section(total.sums, KEPT).items():
            # Who has the server's mask says nothing of it, and keeps whatever that keeps.
            weight = kept + (total.weights[name] - total.weights[f"{KEPT}/{name}"])
            held = torch.where(weight > 0, total.sums[name] / weight, before.model[name])
            model[name] = held.to(model[name].dtype)
        averaged = replace(before, round_index=before.round_index + 1, model=model)
        return self.stepped(desk, before, averaged)

    def stepped(self, desk: Desk, before: ServerState, averaged: ServerState) -> ServerState:
        """Take the server's step towards the mean; what is dead stays where it is, at zero."""
        after = self.parts.server.step(desk, before, averaged)
        if after is averaged or after.mask is None:
            return after
        support = self.support(desk, after.mask, "slices")
        return replace(after, model=masks.apply(after.model, support))

    def settle_each(self, desk: Desk, before: ServerState, updates: Updates) -> ServerState:
        """Turn a round's updates into the next state: by their sum, unless ``sees_each``.

        Args:
            desk: of the model.
            before: state that the round's clients were sent.
            updates: of those that count.
        """
        # Not a generator, which would hold an update while the next one comes.
        return self.settle(desk, before, total(map(partial(self.contribution, desk), updates)))

    def check_update(self, server: ServerState, update: Update, desk: Desk) -> None:
        """Refuse what no entry's domain can say, such as a mask that moves more than it may.

        Args:
            server: that clients were sent.
            update: decoded, finite, and within its entries' domains.
            desk: of the server.

        Raises:
            PayloadError: it can't be; the message says why.
        """
        self.parts.exchange.check(update)

    def change(self, server: ServerState, update: Update, desk: Desk) -> Payload:
        """Say by how much an update differs from what was sent, by its own floating entries.

        Size is judged by this (:mod:`fedx_core.rounds.outliers`), and what is too large is made
        smaller by it: an entry less half of its change is half as far from what was sent.
        """
        model = state.section(update.payload, "model")
        change = {
            f"model/{name}": value - server.model[name]
            for name, value in model.items()
            if value.is_floating_point()
        }
        if update.mask is not None:
            support = self.support(desk, update.mask, "slices")
            change = masks.apply(change, state.as_section(support, "model"))
        return self.parts.exchange.change(update, change)

    def shortened(self, update: Update, change: Payload, factors: Mapping[str, float]) -> Update:
        """Return an update that has come less far.

        Args:
            update: as it was sent.
            change: see :meth:`change`.
            factors: by entry of ``change``, what is left of its change, in [0, 1).
        """
        nearer = {
            name: update.payload[name] - (1 - factors[name]) * value
            for name, value in change.items()
            if factors.get(name, 1.0) != 1.0
        }
        return replace(update, payload={**update.payload, **nearer})

    def measured(self, before: ServerState, after: ServerState, desk: Desk) -> dict[str, float]:
        """Say in numbers of its own what a round did, such as how much of a mask changed.

        They become columns ``method_<name>`` of ``rounds.csv`` and ``method/<name>`` in MLflow;
        so do all numbers but ``train_loss`` that clients put into ``Update.metrics``.

        Args:
            before: state that the round's clients were sent.
            after: state at its end, pruned and all.
            desk: of the server.
        """
        parts = self.parts
        return parts.server.measured(desk, before, after) | parts.pruner.measured(before, after)

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge one client's downlink and uplink as papers do: no masks, buffers or headers.

        Args:
            desk: of the server.
            kept: parameters that the round's mask keeps.
            variant: of the client.
        """
        return self.parts.exchange.paper_bytes(kept)

    def evaluated(self, local: Local) -> None:
        """Load into ``local.model`` the weights that this client scores on its test part."""
        load(local)

    def averaged(self, server: ServerState, memories: Iterable[StateDict]) -> StateDict | None:
        """Average what clients keep, to be scored beside their own models; None if not asked for.

        Only a simulation can: in a federation no server sees what clients keep.

        Args:
            server: after the round.
            memories: of the clients that keep something, one read at a time.
        """
        return None


def per_unit(desk: Desk, section: str, dtype: str, domain: Domain) -> tuple[Entry, ...]:
    """Describe a value for each unit, an entry a layer, in the layers' order.

    Args:
        desk: of the server.
        section: of the payload; entries are named after layers in it.
        dtype: such as ``torch.bool``.
        domain: of the values.
    """
    return tuple(
        Entry(f"{section}/{x.name}", dtype, (x.units,), domain=domain) for x in desk.graph.layers
    )


def load(local: Local) -> None:
    """Load what was sent; see :meth:`Local.sent`."""
    local.load(local.sent())
