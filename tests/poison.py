"""Kinds of lies that one client can tell, in a payload of the right form or in a report.

A lie takes what an honest client has sent and returns something else, or None where that method's
clients send nothing that it could be told with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedx_core.asks.evaluate import COUNTS
from fedx_core.base import plugins, state
from fedx_core.base.errors import NonFiniteError
from fedx_core.base.state import Payload
from fedx_core.clients import exchange
from fedx_core.clients.client import Place
from fedx_core.clients.plan import MethodDesk, read_plan, set_up
from fedx_core.codec import dense
from fedx_core.pruning import masks
from fedx_core.record import checkpoint
from fedx_core.rounds.carrier import InProcess, Outcome, attempt
from fedx_core.store import Store, open_store
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob, ClientReport, Entry, Ref, Schema

LIAR = "client-01"
T = TypeVar("T")


@dataclass
class Scene:
    """What a liar knows when it lies.

    Args:
        payload: that it was about to send.
        sent: the model that it was sent, where there is one.
        mask: of the round.
        before: bytes that it sent in the round before.
        others: bytes that another client has sent in this round.
    """

    payload: Payload
    sent: Payload
    mask: masks.Mask | None
    before: bytes | None
    others: bytes | None


PayloadLie = Callable[[Scene], "Payload | bytes | None"]
ReportLie = Callable[[ClientReport], ClientReport]


def weights(payload: Mapping[str, Tensor]) -> list[str]:
    """Name the floating entries that are learned."""
    return [
        name
        for name, value in payload.items()
        if value.is_floating_point() and not name.endswith(("running_mean", "running_var"))
    ]


def every(change: Callable[[Tensor], Tensor]) -> PayloadLie:
    """Change every learned value."""

    def lie(scene: Scene) -> Payload | None:
        names = weights(scene.payload)
        return {**scene.payload, **{n: change(scene.payload[n]) for n in names}} if names else None

    return lie


def one(value: float) -> PayloadLie:
    """Change a single learned value, of those that travel."""

    def lie(scene: Scene) -> Payload | None:
        for name in weights(scene.payload):
            there = scene.payload[name].nonzero()
            if len(there):
                changed = scene.payload[name].clone()
                changed[tuple(there[0])] = value
                return {**scene.payload, name: changed}
        return None

    return lie


def moved(factor: float) -> PayloadLie:
    """Go that many times as far from what was sent; below zero, the other way."""

    def lie(scene: Scene) -> Payload | None:
        names = [name for name in weights(scene.payload) if name in scene.sent]
        if not names:
            return None
        lied = {
            n: torch.where(
                scene.payload[n] != 0,
                scene.sent[n] + factor * (scene.payload[n] - scene.sent[n]),
                0.0,
            )
            for n in names
        }
        if factor in (0.0, -1.0) and any(n.startswith("threshold") for n in names):
            return None  # they move by next to nothing in so few steps
        return {**scene.payload, **lied}

    return lie


def buffers(end: str, value: float) -> PayloadLie:
    """Set BatchNorm's statistics."""

    def lie(scene: Scene) -> Payload | None:
        names = [n for n, v in scene.payload.items() if n.endswith(end) and bool(v.any())]
        lied = {n: torch.where(scene.payload[n] != 0, value, 0).to(scene.payload[n].dtype)
                for n in names}  # fmt: skip
        return {**scene.payload, **lied} if names else None

    return lie


def section(name: str, change: Callable[[Tensor], Tensor]) -> PayloadLie:
    """Change one section of a payload."""

    def lie(scene: Scene) -> Payload | None:
        found = [key for key in scene.payload if key.startswith(f"{name}/")]
        return {**scene.payload, **{k: change(scene.payload[k]) for k in found}} if found else None

    return lie


def moves(swap: bool) -> PayloadLie:
    """Claim a mask of one's own: everything else, or as many weights in other places."""

    def lie(scene: Scene) -> Payload | None:
        if "still/all" not in scene.payload or scene.mask is None:
            return None
        payload = {**scene.payload, "still/all": torch.tensor([False])}
        for name, kept in scene.mask.entries.items():
            now = ~kept
            if swap:
                flat = torch.zeros(kept.numel(), dtype=torch.bool)
                flat[(~kept).reshape(-1).nonzero()[: int(kept.sum()), 0]] = True
                flat[kept.reshape(-1).nonzero()[: int(kept.sum()) - int(flat.sum()), 0]] = True
                now = flat.reshape(kept.shape)
            payload[f"moved/{name}"] = kept ^ now
            payload[f"model/{name}"] = torch.where(now, 1e-3, 0.0)
        return payload

    return lie


def noise(scale: float) -> PayloadLie:
    """Send noise, larger than what is learned."""

    def lie(scene: Scene) -> Payload | None:
        random = torch.Generator().manual_seed(1)
        size = max((float(scene.payload[n].std()) for n in weights(scene.payload)
                    if scene.payload[n].numel() > 1), default=1.0)  # fmt: skip
        return every(
            lambda v: torch.where(
                v != 0, torch.randn(v.shape, generator=random).to(v) * size * scale, 0.0
            )
        )(scene)  # type: ignore[return-value]

    return lie


def where_there_is(value: float) -> Callable[[Tensor], Tensor]:
    """Set what is not zero, since zeros may not travel."""
    return lambda v: torch.where(v != 0, torch.full_like(v, value), torch.zeros_like(v))


PAYLOADS: dict[str, PayloadLie] = {
    "one weight of 3e38": one(3e38),
    "one weight of 1e30": one(1e30),
    "one weight of 1e17": one(1e17),
    "one weight that is NaN": one(math.nan),
    "one weight that is infinite": one(math.inf),
    "all weights 3e38": every(where_there_is(3e38)),
    "all weights 1e6": every(where_there_is(1e6)),
    "all weights NaN": every(where_there_is(math.nan)),
    "a change a million times as long": moved(1e6),
    "a change a thousand times as long": moved(1e3),
    "a change fifty times as long": moved(50),
    "a change turned round": moved(-1),
    "a change turned round, fifty times as long": moved(-50),
    "no change": moved(0),
    "noise": noise(300),
    "a negative variance": buffers("running_var", -1.0),
    "a variance of 1e30": buffers("running_var", 1e30),
    "a variance of 1e12": buffers("running_var", 1e12),
    "a mean of 1e12": buffers("running_mean", 1e12),
    "a negative count of batches": buffers("num_batches_tracked", -5),
    "the update of the round before": lambda scene: scene.before,
    "another client's update": lambda scene: scene.others,
    "masks of the opposite": moves(swap=False),
    "masks of the right size elsewhere": moves(swap=True),
    "a vote for nothing": section("vote", torch.zeros_like),
    "a vote for everything": section("vote", torch.ones_like),
    "thresholds of 1e17": section("threshold", lambda v: torch.full_like(v, 1e17)),
    "half of the bytes": lambda scene: b"FEDX",
}


def metric(name: str, value: Any) -> ReportLie:
    """Report something under a name."""
    return lambda report: replace(report, metrics={**report.metrics, name: value})


def _resized(report: ClientReport, by: int) -> ClientReport:
    uplink = report.uplink or Ref(f"uplink/{report.client}", "0" * 64, 1)
    return replace(report, uplink=replace(uplink, size=uplink.size + by))


REPORTS: dict[str, ReportLie] = {
    "no examples": lambda r: replace(r, examples=0),
    "fewer examples than none": lambda r: replace(r, examples=-60_000),
    "2^32 examples": lambda r: replace(r, examples=2**32),
    "2^70 examples": lambda r: replace(r, examples=2**70),
    "a loss of 1.7e308": metric("train_loss", 1.7e308),
    "a loss below zero": metric("train_loss", -3.0),
    "a loss that is NaN": metric("train_loss", math.nan),
    "a loss that is a list": metric("train_loss", [1.0]),
    "a number that nobody asked for": metric("accuracy", 0.5),
    "a hundred numbers": lambda r: replace(r, metrics={f"n{i}": 0.0 for i in range(100)}),
    "negative seconds": lambda r: replace(r, seconds=-1.0),
    "1e300 seconds": lambda r: replace(r, seconds=1e300),
    "seconds that are NaN": lambda r: replace(r, seconds=math.nan),
    "a terabyte": lambda r: _resized(r, 10**12),
    "fewer bytes than none": lambda r: _resized(r, -(10**12)),
    "another's memory": lambda r: replace(r, memory=Ref("memory/client-02/0002.0", "0" * 64, 1)),
    "another attempt": lambda r: replace(r, attempt=7),
    "another variant": lambda r: replace(r, variant="mine"),
}

SCORES: dict[str, ReportLie] = {
    "an accuracy of 42": metric("overall_accuracy", 42.0),
    "an accuracy below zero": metric("overall_accuracy", -0.1),
    "an accuracy that is NaN": metric("overall_accuracy", math.nan),
    "a test loss of 1.7e308": metric("loss", 1.7e308),
    "a score that nobody asked for": metric("elegance", 1.0),
    "2^32 test images": lambda r: replace(r, examples=2**32),
    "no test images": lambda r: replace(r, examples=0),
}


def _sums(name: str, value: float) -> PayloadLie:
    key = f"pixels/{name}"
    return lambda scene: {**scene.payload, key: torch.full_like(scene.payload[key], value)}


STATISTICS: dict[str, PayloadLie] = {
    "-60,000 pixels": _sums("count", -60_000),
    "1e18 pixels": _sums("count", 1e18),
    "no pixels": _sums("count", 0),
    "half a pixel": _sums("count", 0.5),
    "pixels that are NaN": _sums("count", math.nan),
    "a negative sum": _sums("total", -1.0),
    "a sum of 1e300": _sums("total", 1e300),
    "a sum beyond the largest pixel": _sums("total", 1e9),
    "squares of nothing": _sums("total_of_squares", 0.0),
    "squares of 1e17": _sums("total_of_squares", 1e17),
}


def _counts(change: Callable[[Tensor], Tensor]) -> PayloadLie:
    return lambda scene: {COUNTS: change(scene.payload[COUNTS])}


def _framed(change: Callable[[Tensor], Tensor]) -> PayloadLie:
    """Send other tensors than the question asks for, in a frame that fits them."""

    def lie(scene: Scene) -> bytes:
        value = change(scene.payload[COUNTS])
        schema = Schema((Entry(COUNTS, str(value.dtype), tuple(value.shape)),))
        return bytes(frame.encode({COUNTS: value}, schema, "dense"))

    return lie


CONFUSION: dict[str, tuple[PayloadLie, str]] = {
    "a negative count": (_counts(lambda c: c - 2 * int(c.max())), "E_DOMAIN"),
    "2^62 pixels of each": (_counts(lambda c: torch.full_like(c, 2**62)), "E_DOMAIN"),
    "sums beyond 2^63": (_counts(lambda c: torch.full_like(c, 2**53)), "E_DOMAIN"),
    "a pixel more than the images have": (
        _counts(lambda c: c + torch.eye(len(c), dtype=c.dtype) * int(c.sum())), "E_DOMAIN",
    ),
    "no pixel, and a loss": (_counts(torch.zeros_like), "E_DOMAIN"),
    "a class too few": (_framed(lambda c: c[1:, 1:]), "E_PAYLOAD"),
    "counts of other classes": (_framed(lambda c: c.reshape(1, -1)), "E_SCHEMA"),
    "counts that are NaN": (_framed(lambda c: torch.full(c.shape, math.nan).double()), "E_SCHEMA"),
}  # fmt: skip
"""Lies about pixels by class, and the code of what is said of each."""


@dataclass
class Lying(InProcess):
    """Lets all clients do their work, one after another, and one of them lie.

    Args:
        purpose: of the jobs in which it lies.
        rounds: in which it lies.
        payload: what it does to what it sends.
        report: what it does to what it says.
        told: how often it has lied.
    """

    purpose: str = "train"
    rounds: Sequence[int] = (2,)
    payload: PayloadLie | None = None
    report: ReportLie | None = None
    told: int = 0
    _sent: dict[str, Ref | None] = field(default_factory=dict)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Begin anew with what others have sent."""
        self._sent = {}
        super().send(jobs, place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        """Do it, and say something else."""
        outcome = attempt(job, place)
        assert isinstance(outcome, ClientReport), outcome
        self._sent[job.client] = outcome.uplink
        if (
            job.client == LIAR
            and job.purpose == self.purpose
            and (self.purpose != "train" or job.round_index in self.rounds)
        ):
            others = self._sent.get("client-00")
            outcome = self.lied(job, outcome, open_store(place.store), others)
        return outcome

    def lied(
        self, job: ClientJob, report: ClientReport, store: Store, others: Ref | None = None
    ) -> ClientReport:
        """Tell the lie about one job.

        Args:
            job: that was done.
            report: honest.
            store: that holds what the job names, and the payload.
            others: what another client has sent in this round.
        """
        lied = report if self.payload is None else self._sending(job, report, store, others)
        if self.report is not None:
            lied = self.report(lied)
        self.told += lied != report
        return lied

    def _sending(
        self, job: ClientJob, report: ClientReport, store: Store, others: Ref | None
    ) -> ClientReport:
        if self.payload is None or report.uplink is None:
            return report
        desk = set_up(read_plan(store.get(job.plan)))
        schema, codec, mask = _form(desk, job, store)
        # A site may not fetch what it has stored, so by its key, which finds its own copy.
        honest = _read(store, report.uplink.key)
        assert honest is not None
        sent = _sent(desk, job, mask, store)
        scene = Scene(
            payload=exchange.decode(codec, honest, sent, schema),
            sent=sent,
            mask=mask,
            before=_read(store, f"kept/{job.client}"),
            others=bytes(store.get(others)) if others else None,
        )
        if scene.others and len(scene.others) != len(honest):
            scene.others = None
        lie = self.payload(scene)
        if lie is None:
            return report
        try:
            data = (
                lie
                if isinstance(lie, bytes)
                else bytes(exchange.encode(codec, lie, sent, schema, {}, 0)[0])
            )
        except NonFiniteError:  # levels and signs are finite; magnitudes are lied about elsewhere
            return report
        if data == honest:
            return report
        return replace(report, uplink=store.put(job.uplink_key, data))


@dataclass
class Replaying(Lying):
    """Keeps what the liar sent in each round, so that it can send that again."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        """Keep what is sent."""
        outcome = super().do(job, place)
        if isinstance(outcome, ClientReport) and outcome.client == LIAR and outcome.uplink:
            store = open_store(place.store)
            store.put(f"kept/{LIAR}", store.get(outcome.uplink))
        return outcome


def _read(store: Store, key: str) -> bytes | None:
    data = store.read(key)
    return None if data is None else bytes(data)


def _form(desk: MethodDesk, job: ClientJob, store: Store) -> tuple[Schema, Any, Any]:
    if not (ask := plugins.build("asks", job.purpose, {})).updates:
        return ask.schema(desk.plan), dense.Codec(), None
    names = desk.method.masked(desk)
    mask = checkpoint.fetch_mask(store, job.mask, desk, names)
    return desk.wire(mask, job.variant).up, desk.up, mask


def _sent(desk: MethodDesk, job: ClientJob, mask: Any, store: Store) -> Payload:
    if job.base is None or not plugins.build("asks", job.purpose, {}).updates:
        return {}
    down = desk.wire(mask, job.variant).down
    return desk.down.decode(store.get(job.base), down)


def finite(store: Any, commit: Any) -> bool:
    """Tell whether a committed state is finite throughout."""
    after = checkpoint.unpack_server_state(store.get(commit.state))
    tensors = {**after.model, **state.as_section(after.memory, "memory")}
    return all(bool(v.isfinite().all()) for v in tensors.values() if v.is_floating_point())
