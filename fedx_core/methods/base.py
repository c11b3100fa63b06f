"""The stages of a federated method, and FedAvg's answer to each.

A method overrides only the stages in which it differs. It keeps nothing in ``self``: what must
survive a round goes into ``ServerState.memory`` at the server or ``Update.memory`` at the client,
so a retried round is the same round. Its dataclass fields are its settings.

    start      once, at the server                 criterion  which explanation a round asks for
    cohort     who takes part in a round           prune      scores to a mask
    variant    who is sent what                    schema     what payloads hold, for both sides
    downlink   what a client is sent               evaluated  the model that a client scores
    train      at a client                         measured   its own numbers, for the curves
    aggregate  at the server
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from fedx_core import domains, masks, seeding, state, training
from fedx_core.aggregate import weighted_mean
from fedx_core.config import TrainingConfig
from fedx_core.domains import Domain
from fedx_core.examples import Examples, LabelKind
from fedx_core.masks import Mask, Scores
from fedx_core.messages import Entry, Schema, ServerState, Update
from fedx_core.methods._known import ModelInfo as ModelInfo
from fedx_core.methods._known import Turn as Turn
from fedx_core.methods._known import Wire as Wire
from fedx_core.methods._known import model_info as model_info
from fedx_core.pixels import Pixels
from fedx_core.relevance.base import Criterion
from fedx_core.shrink.values import cut, grow
from fedx_core.state import Payload, StateDict
from fedx_core.structure import Cut, Mode
from fedx_core.training import LocalRule, fit


@dataclass(frozen=True, kw_only=True)
class Local:
    """All that a client's training sees.

    Args:
        client: its name.
        round_index: from 1.
        model: built, weights arbitrary: ``train`` loads what it needs.
        info: of the model.
        downlink: decoded payload.
        mask: what is kept.
        memory: what this client kept for itself; empty at first.
        examples: its training part.
        label_kind: of the labels.
        pixels: how images become inputs.
        settings: of local training.
        seed: of all draws in this round.
        moments: of the optimiser, which ``fit`` goes on from and changes in place; None where each
            round starts afresh.
        cuts: what ``model`` lacks of the dense model; nothing where it is the dense one.
        variant: which of the method's payloads this client exchanges.
    """

    client: str
    round_index: int
    model: nn.Module
    info: ModelInfo
    downlink: Payload
    mask: Mask | None
    memory: StateDict
    examples: Examples
    label_kind: LabelKind
    pixels: Pixels
    settings: TrainingConfig
    seed: int
    moments: StateDict | None = None
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    variant: str = ""

    def fit(self, rule: LocalRule | None = None) -> float:
        """Train ``model`` in place; see :func:`fedx_core.training.fit`."""
        return fit(
            self.model,
            self.examples,
            label_kind=self.label_kind,
            pixels=self.pixels,
            settings=self.settings,
            seed=self.seed,
            rule=rule,
            moments=self.moments,
        )

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
                self.settings.batch_size,
                pairs=training.needs_pairs(self.model),
            ),
            metrics={"train_loss": loss, **numbers},
            memory=memory or None,
        )


class Updates(Protocol):
    """A round's updates in cohort order: decoded one by one, as often as they are iterated."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Update]: ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """FedAvg (McMahan et al. 2017, algorithm 1), stage by stage."""

    personal: ClassVar[bool] = False
    """True where there is no global model: clients score their own on their own test parts."""
    communicates: ClassVar[bool] = True
    """False for bounds that move data or nothing; their ledgers stay at zero."""
    says: ClassVar[Mapping[str, Domain]] = {"train_loss": domains.LOSS}
    """What the numbers of ``Update.metrics`` may be, by name; any other number is refused."""

    @property
    def heads(self) -> bool:
        """Whether attention heads are units instead of the rows of ``qkv``."""
        return False

    @property
    def keeps_dead_units_at_zero(self) -> bool:
        """Whether dead units stay zero in every local step, so that training may leave them out.

        Their entries are zero in what is sent then, and local training must neither need nor
        change them.
        """
        return True

    def check(self, info: ModelInfo) -> None:
        """Refuse a model that the method does not fit, before a run begins; none by default.

        Raises:
            ConfigError: it does not; the message says why.
        """

    def start(self, model: StateDict) -> ServerState:
        """Begin with freshly drawn or given weights."""
        return ServerState(round_index=0, model=model)

    def cohort(
        self, clients: Sequence[str], participation: float, round_index: int, seed: int
    ) -> tuple[str, ...]:
        """Draw ``ceil(C * K)`` clients at random, in the order of ``clients``."""
        size = max(1, math.ceil(participation * len(clients) - 1e-9))
        if size == len(clients):
            return tuple(clients)
        random = seeding.numpy_generator(seeding.derive(seed, round_index, "cohort"))
        return tuple(clients[i] for i in sorted(random.permutation(len(clients))[:size]))

    def variant(self, turn: Turn, info: ModelInfo) -> str:
        """Name what a client exchanges in a round; those with the same name are sent the same.

        The server decides, and tells the client; the schemas of both sides follow from it.
        """
        return ""

    def downlink(self, server: ServerState, info: ModelInfo, variant: str = "") -> Payload:
        """Send the model; encoded once for each variant."""
        return state.as_section(info.shared(server.model), "model")

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Say what payloads hold; both sides derive it from what they know.

        Args:
            info: of the model.
            mask: of the round.
            mode: of the codec; None for whole tensors.
            variant: of the client.
        """
        entries = tuple(
            Entry(f"model/{name}", dtype, shape, domain=domains.of_entry(name))
            for name, (dtype, shape) in info.entries.items()
            if name not in info.local
        )
        support = {} if mode is None else self.support(info, mask, mode)
        schema = Schema(
            entries, {f"model/{n}": kept for n, kept in support.items() if n not in info.local}
        )
        return Wire(down=schema, up=schema)

    def masked(self, info: ModelInfo) -> tuple[str, ...]:
        """Name what masks over parameters speak of: weights of convolutions and linear layers."""
        return weights({name: shape for name, (_, shape) in info.entries.items()})

    def support(self, info: ModelInfo, mask: Mask | None, mode: Mode) -> dict[str, Tensor]:
        """Say which entries lose values under a mask."""
        return info.graph.support(mask, mode)

    def train(self, local: Local) -> Update:
        """Train the model that was sent, and send it back."""
        load(local)
        loss = local.fit(self.rule(local))
        return self.finish(local, loss)

    def rule(self, local: Local) -> LocalRule | None:
        """Change a local step: hold what is dead at zero. A model that lacks it needs no rule."""
        if local.mask is None or local.cuts or not self.keeps_dead_units_at_zero:
            return None
        return hold(self.support(local.info, local.mask, "slices"))

    def finish(self, local: Local, loss: float) -> Update:
        """Turn a trained model into an update; local entries stay in the client's memory."""
        trained = local.trained(sent(local))
        payload = state.as_section(local.info.shared(trained), "model")
        return local.update(payload, loss, {name: trained[name] for name in local.info.local})

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average the models by examples; entries that did not travel stay as they are."""
        mean = weighted_mean(map(_weighed, updates))  # holds no update while the next one comes
        return ServerState(
            round_index=server.round_index + 1,
            model={name: mean.get(name, value) for name, value in server.model.items()},
            mask=server.mask,
            memory=server.memory,
        )

    def check_update(self, server: ServerState, update: Update, info: ModelInfo) -> None:
        """Refuse what no entry's domain can say, such as a mask that moves more than it may.

        Args:
            server: that clients were sent.
            update: decoded, finite, and within its entries' domains.
            info: of the model.

        Raises:
            PayloadError: it can't be; the message says why.
        """

    def change(self, server: ServerState, update: Update, info: ModelInfo) -> Payload:
        """Say by how much an update differs from what was sent, by its own floating entries.

        Size is judged by this (:mod:`fedx_core.outliers`), and what is too large is made smaller by
        it: an entry less half of its change is half as far from what was sent.
        """
        model = state.section(update.payload, "model")
        return {
            f"model/{name}": value - server.model[name]
            for name, value in model.items()
            if value.is_floating_point()
        }

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

    def criterion(self, server: ServerState) -> Criterion | None:
        """Name the explanation that pruning after this round wants; None in most rounds."""
        return None

    def pruning_to_come(self, server: ServerState) -> bool:
        """Tell whether a later round prunes, so that a run must not stop before it."""
        return False

    def explained(self, server: ServerState, info: ModelInfo) -> StateDict:
        """Return the weights to be explained."""
        return server.model

    def prune(self, server: ServerState, scores: Scores, info: ModelInfo) -> ServerState:
        """Make a mask of scores and apply it; called where ``criterion`` names one."""
        return server

    def pruned(self, server: ServerState, mask: Mask, info: ModelInfo) -> ServerState:
        """Take a mask over, and zero what it leaves out."""
        support = self.support(info, mask, "slices")
        return replace(server, model=masks.apply(server.model, support), mask=mask)

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say in numbers of its own what a round did, such as how much of a mask changed.

        They become columns ``method_<name>`` of ``rounds.csv`` and ``method/<name>`` in MLflow;
        so do all numbers but ``train_loss`` that clients put into ``Update.metrics``.

        Args:
            before: state that the round's clients were sent.
            after: state at its end, pruned and all.
            info: of the model.
        """
        return {}

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge one client's downlink and uplink as papers do: no masks, buffers or headers.

        Args:
            info: of the model.
            kept: parameters that the round's mask keeps.
            variant: of the client.
        """
        return 4 * (kept + kept)

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


def _weighed(update: Update) -> tuple[float, StateDict]:
    return update.examples, state.section(update.payload, "model")


def weights(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Name the weights of convolutions and linear layers, the classifier's too.

    Args:
        shapes: by entry of a state dict. Norms' weights have one dimension, and what a model adds
            to its input (tokens, positions) is no ``weight``.
    """
    return tuple(n for n, shape in shapes.items() if n.endswith(".weight") and len(shape) > 1)


def per_unit(info: ModelInfo, section: str, dtype: str, domain: Domain) -> tuple[Entry, ...]:
    """Describe a value for each unit, an entry a layer, in the layers' order.

    Args:
        info: of the model.
        section: of the payload; entries are named after layers in it.
        dtype: such as ``torch.bool``.
        domain: of the values.
    """
    return tuple(
        Entry(f"{section}/{x.name}", dtype, (x.units,), domain=domain) for x in info.graph.layers
    )


def hold(support: Mapping[str, Tensor]) -> LocalRule:
    """Let no gradient reach what is not kept: then moments and decay leave a zero a zero.

    Args:
        support: bool tensors that broadcast to the parameters' shapes, True = kept.
    """

    def before_step(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in support and parameter.grad is not None:
                parameter.grad.mul_(support[name].to(parameter.device, non_blocking=True))

    return LocalRule(before_step=before_step)


def load(local: Local) -> None:
    """Load what was sent; see :func:`sent`."""
    local.load(sent(local))


def sent(local: Local) -> StateDict:
    """Return the dense model that was sent.

    What does not travel is what the client kept for itself, or else BatchNorm's start values.
    """
    own: StateDict = {}
    for name in local.info.local:
        dtype, shape = local.info.entries[name]
        start = torch.ones if name.endswith("running_var") else torch.zeros
        own[name] = start(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
    own |= {name: value for name, value in local.memory.items() if name in own}
    return {**own, **state.section(local.downlink, "model")}
