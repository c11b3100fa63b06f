"""How far each client's update goes beside the others', and what is done where that is too far.

An update is measured by its change (``Method.change``): what it holds less what was sent, over the
values that travel; weights and BatchNorm's statistics apart. What is usual is the median of this
round's changes and of the last rounds' medians. A change beyond ``federation.clip`` times that is
scaled down to it, and one ten times further is refused. A client with more than the median of the
images may go further by as much, since it takes more steps.

Names alone are said of what is odd but may be honest: see :func:`remarks`.

A multiple of 10 is generous: a run of honest clients is the same to the bit, since none is clipped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedx_core.base.state import Payload
from fedx_core.desk.desk import Desk
from fedx_core.methods.base import Method
from fedx_core.wire.messages import ServerState, Update

MEMORY = 5
"""Rounds whose medians have a say in what is usual."""

FEWEST = 3
"""Norms from which a median is taken; with fewer, the size of what was sent has a say as well."""

REFUSED = 10.0
"""How much further than what is clipped a refused change goes."""

SUSPECT = 3.0
"""Changes beyond so many times the usual are looked at where the round's step is too long."""

IDLE = 0.01
"""Share of the usual change below which a client is said to have learned nothing."""

AGAINST = -0.1
"""Cosine to the others' mean change below which a client is said to work against them."""

AGREED = 0.1
"""Mean cosine between two of the others above which they have a direction to work against. Where a
model has converged, honest changes add up to nothing, and each lies against the rest."""

WEIGHTS, STATISTICS, STEP = "weights", "statistics", "step"
_SAMPLES = 8192


@dataclass(frozen=True)
class Measured:
    """One update's change.

    Args:
        norms: Euclidean, by part: ``weights`` and ``statistics``; parts that do not travel are not
            there.
        sample: every so-manieth value of the weights' change, float32, by entry; evenly taken, so
            that the angle between two clients' changes shows in it.
    """

    norms: Mapping[str, float]
    sample: Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """What comes of a round's updates.

    Args:
        usual: norm of a change, by part.
        ratios: how far each client's goes beside what is usual for it.
        refused: by client that must not count: why.
        scales: by client that is clipped: what is left of its change, by part.
        remarks: by client: what is odd.
    """

    usual: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)


def measure(method: Method, server: ServerState, update: Update, desk: Desk) -> Measured:
    """Measure an update's change.

    Args:
        method: that it is of.
        server: state that its client was sent.
        update: decoded and finite.
        desk: of the model.
    """
    change = method.change(server, update, desk)
    squares: dict[str, float] = {}
    for name, value in change.items():
        part = part_of(name, desk)
        size = float(torch.linalg.vector_norm(value, dtype=torch.float64))
        squares[part] = squares.get(part, 0.0) + size * size
    # Of all that a client could send, so that clients that send less are looked at alike.
    stride = max(1, sum(map(math.prod, desk.graph.shapes.values())) // _SAMPLES)
    return Measured(
        {part: _short(math.sqrt(square)) for part, square in squares.items()},
        {
            name: value.reshape(-1)[::stride].to(torch.float32, copy=True)
            for name, value in change.items()
            if part_of(name, desk) == WEIGHTS
        },
    )


def shortened(
    method: Method,
    server: ServerState,
    update: Update,
    desk: Desk,
    scales: Mapping[str, float],
) -> Update:
    """Scale an update's change down.

    Args:
        method: that it is of.
        server: state that its client was sent.
        update: decoded.
        desk: of the model.
        scales: what is left of each part's change; empty for all.
    """
    if not scales:
        return update
    change: Payload = method.change(server, update, desk)
    factors = {name: scales.get(part_of(name, desk), 1.0) for name in change}
    return method.shortened(update, change, factors)


def part_of(name: str, desk: Desk) -> str:
    """Name the part that an entry of a payload belongs to."""
    entry = name.partition("/")[2]
    is_buffer = entry in desk.entries and entry not in desk.graph.parameters
    return STATISTICS if is_buffer else WEIGHTS


def sizes(server: ServerState, desk: Desk) -> dict[str, float]:
    """Return the norm of each part of what clients are sent."""
    squares = {WEIGHTS: 0.0, STATISTICS: 0.0}
    for name, value in server.model.items():
        if value.is_floating_point():
            norm = float(torch.linalg.vector_norm(value, dtype=torch.float64))
            squares[part_of(f"model/{name}", desk)] += norm * norm
    return {part: math.sqrt(square) for part, square in squares.items()}


def step(before: ServerState, after: ServerState, desk: Desk) -> float:
    """Return how far a round has moved the weights that are left; what it prunes is no step.

    Where the model stays, as it does while thresholds alone travel, it is the memory's step.
    """
    moved = _moved(before.model, after.model, desk)
    return _short(moved or _moved(before.memory, after.memory, desk))


def judge(
    measured: Mapping[str, Measured],
    examples: Mapping[str, int],
    past: Sequence[Mapping[str, float]],
    sent: Mapping[str, float],
    clip: float,
) -> Verdict:
    """Say which updates go too far.

    Args:
        measured: by client, in cohort order.
        examples: that each learned from, at most as many as are known to be there.
        past: norms of the rounds before, the last one last; those of the last few have a say.
        sent: see :func:`sizes`.
        clip: multiple of the usual change beyond which one is scaled down; 0 for never.
    """
    counted = {c: m for c, m in measured.items() if m.norms}
    images = median([examples[c] for c in counted]) or 1
    room = {c: max(1.0, examples[c] / images) for c in counted}
    usual: dict[str, float] = {}
    ratios: dict[str, float] = dict.fromkeys(counted, 0.0)
    refused: dict[str, str] = {}
    scales: dict[str, dict[str, float]] = {}
    for part in (WEIGHTS, STATISTICS):
        norms = {c: m.norms[part] for c, m in counted.items() if part in m.norms}
        before = [round_[part] for round_ in past[-MEMORY:] if part in round_]
        voters = [norm for norm in (*norms.values(), *before) if 0 < norm < math.inf]
        if len(voters) < FEWEST:
            voters.append(sent[part])
        if (typical := median(voters)) == 0:
            continue
        usual[part] = _short(typical)
        for client, norm in norms.items():
            ratio = norm / (typical * room[client])
            if part == STATISTICS and norm <= sent[part]:
                continue  # clients' bands may differ by as much; a model takes no harm from it
            ratios[client] = max(ratios[client], ratio)
            if clip and ratio > REFUSED * clip:
                refused.setdefault(
                    client,
                    f"its change of the {part} has norm {norm:.3g}, {ratio:.3g} times what is "
                    f"usual; beyond {REFUSED * clip:g} times an update is refused "
                    "(federation.clip)",
                )
            elif clip and ratio > clip:
                scales.setdefault(client, {})[part] = _short(clip / ratio)
    for client in refused:
        scales.pop(client, None)
    kept = {c: m for c, m in counted.items() if c not in refused}
    said = remarks(kept, usual.get(WEIGHTS, 0.0))
    for client in scales:
        most = f"{clip:g} times what is usual (federation.clip)"
        said[client] = f"its change is {ratios[client]:.3g} times what is usual; scaled to {most}"
    return Verdict(usual, ratios, refused, scales, said)


def remarks(measured: Mapping[str, Measured], usual: float) -> dict[str, str]:
    """Say what is odd in updates that count: they change nothing, or work against all others.

    Neither is refused: a client without anything new, or with images unlike all others', is as
    honest as they are. With its name somebody can ask.

    Args:
        measured: by client.
        usual: norm of a change of the weights.
    """
    said: dict[str, str] = {}
    moving = _directions({c: m for c, m in measured.items() if m.norms.get(WEIGHTS)})
    total = torch.stack(list(moving.values())).sum(0) if len(moving) >= FEWEST else None
    for client, one in measured.items():
        if WEIGHTS not in one.norms:
            continue
        if one.norms[WEIGHTS] <= IDLE * usual or not one.norms[WEIGHTS]:
            said[client] = (
                f"its change has norm {one.norms[WEIGHTS]:.3g}, {usual:.3g} is usual: it has "
                "learned nothing"
            )
        elif total is not None:
            others = total - moving[client]
            cosine = float(torch.nn.functional.cosine_similarity(moving[client], others, 0))
            if cosine < AGAINST and _agreement(moving, client, others) > AGREED:
                said[client] = (
                    f"its change works against the others' (cosine {cosine:.2f}): labels "
                    "exchanged, other images, or no good will"
                )
    return said


def _agreement(moving: Mapping[str, Tensor], client: str, others: Tensor) -> float:
    """Return the mean cosine between two of the others, from what they add up to."""
    squares = [float(change.dot(change)) for name, change in moving.items() if name != client]
    alone = math.fsum(squares)
    pairs = float(others.dot(others)) - alone
    return pairs / ((len(squares) - 1) * alone) if alone else 0.0


def _directions(measured: Mapping[str, Measured]) -> dict[str, Tensor]:
    """Lay samples side by side, each of about the same length; zero where one sends nothing."""
    every: dict[str, int] = {}
    for one in measured.values():
        every |= {name: value.numel() for name, value in one.sample.items()}
    return {
        client: torch.cat([one.sample.get(n, torch.zeros(size)) for n, size in every.items()])
        / one.norms[WEIGHTS]
        for client, one in measured.items()
    }


def median(values: Sequence[float]) -> float:
    """Return the lower median, which one value among two can't draw up; 0 of none."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], desk: Desk) -> float:
    square = 0.0
    for name, value in after.items():
        is_buffer = name in desk.entries and name not in desk.graph.parameters
        if is_buffer or not value.is_floating_point() or name not in before:
            continue
        difference = torch.where(value != 0, value - before[name], 0.0)
        norm = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
        square += norm * norm
    return math.sqrt(square)


def _short(value: float) -> float:
    """Cut to six digits: what is written down is then the same on machines that sum otherwise."""
    return float(f"{value:.6g}")
