"""What pruning did: units by layer, the scores that decided, and how far masks agree."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedx_core.pruning import overlap
from fedx_core.pruning.masks import Mask
from flows.report.gather import Run
from flows.report.parts import Cell, Column, Drawing, Section, Table, slug
from flows.runs.record import PruningEvent

SHARE = ".1%"


def sections(runs: Sequence[Run]) -> list[Section]:
    """Write the sections about units, scores and masks."""
    return [_units(runs), _scores(runs), _masks(runs)]


def _units(runs: Sequence[Run]) -> Section:
    from flows.figures.layers import units_by_layer

    layers = {run.name: run.reports[-1].units_kept for run in runs if run.reports[-1].sparsity}
    title = "Units by layer"
    if not layers:
        return Section("units", title, missing=["No run was pruned."])
    counts = [
        f"{name} keeps {sum(kept for kept, _ in found.values()):,} of "
        f"{sum(units for _, units in found.values()):,} units or weights"
        for name, found in layers.items()
    ]
    return Section(
        key="units",
        title=title,
        drawings=[
            Drawing(
                "units-by-layer",
                units_by_layer(layers),
                f"Stacked bars of kept and pruned units by layer. {'; '.join(counts)}.",
                "Each bar is a layer, from the image to the classifier, which is never pruned. "
                "Above it stands the share that was kept. Methods that prune single weights show "
                "weights.",
            )
        ],
        tables=[
            Table(
                name="units-by-layer",
                title="Units kept after the last round",
                columns=[
                    Column("run"), Column("layer"), Column("kept", ",d"), Column("units", ",d"),
                    Column("share kept", SHARE),
                ],
                rows=[
                    [name, layer, kept, units, kept / units if units else None]
                    for name, found in layers.items()
                    for layer, (kept, units) in found.items()
                ],
            )
        ],
    )  # fmt: skip


def _scores(runs: Sequence[Run]) -> Section:
    from flows.figures.layers import scores_by_layer

    drawings, rows, missing = [], [], []
    for run in runs:
        if any(report.pruned for report in run.reports) and not run.events:
            missing.append(f"{run.name} kept no traces of its pruning events (results/pruning).")
        for event in run.events:
            criterion = run.summary["relevance"] or "its method's own scores"
            scores = {name: score.numpy() for name, score in event.scores.items()}
            kept = _kept(event)
            if kept is None:
                missing.append(f"{run.name} prunes single parameters, which are too many to draw.")
                continue
            drawings.append(
                Drawing(
                    slug("scores", run.name, event.round_index),
                    scores_by_layer(scores, kept),
                    f"Distributions of the scores by {criterion} of {run.name}'s units, layer by "
                    f"layer, at the pruning event after round {event.round_index}.",
                    f"{run.name} after round {event.round_index}, scores by {criterion}. Further "
                    "right is more relevant; the tick is the lowest score that was kept.",
                )
            )
            rows += [
                _score_row(run.name, event.round_index, name, scores[name], kept[name])
                for name in scores
            ]
    tables = [
        Table(
            name="scores-by-layer",
            title="Scores of units at pruning events",
            columns=[
                Column("run"), Column("round", "d"), Column("layer"), Column("units", ",d"),
                Column("kept", ",d"), Column("zero", ",d"), Column("lowest", ".3g"),
                Column("median", ".3g"), Column("highest", ".3g"), Column("lowest kept", ".3g"),
                Column("highest pruned", ".3g"),
            ],
            rows=rows,
        )
    ]  # fmt: skip
    text = (
        "What decided: at a pruning event the server scores every unit on its reference images, "
        "and the lowest scores go."
    )
    missing = list(dict.fromkeys(missing))  # said once for all events of a run
    if not drawings and not missing:
        return Section("relevance", "Relevance by layer", missing=["No run was pruned."])
    return Section(
        "relevance", "Relevance by layer", text, drawings, tables if rows else (), missing
    )


def _kept(event: PruningEvent) -> dict[str, NDArray[np.bool_]] | None:
    if event.mask.kind != "units":
        return None
    return {name: event.mask.entries[name].numpy() for name in event.scores}


def _score_row(
    run: str,
    round_index: int,
    layer: str,
    scores: NDArray[np.floating],
    kept: NDArray[np.bool_],
) -> list[Cell]:
    stays, goes = scores[kept], scores[~kept]
    return [
        run,
        round_index,
        layer,
        len(scores),
        int(kept.sum()),
        int((scores == 0).sum()),
        float(scores.min()),
        float(np.median(scores)),
        float(scores.max()),
        float(stays.min()) if len(stays) else None,
        float(goes.max()) if len(goes) else None,
    ]


def _masks(runs: Sequence[Run]) -> Section:
    from flows.figures.stability import agreement

    title = "Agreement of masks"
    masks = _named_masks(runs)
    if len(masks) < 2:
        return Section(
            "masks", title,
            missing=["There is one mask or none; give several pruned runs to compare theirs."],
        )  # fmt: skip
    found = np.eye(len(masks))
    chance = np.ones_like(found)
    names = list(masks)
    pairs: list[tuple[str, str, float, float]] = []
    layers: list[list[Cell]] = []
    for (row, one), (column, other) in combinations(enumerate(names), 2):
        left, right = masks[one], masks[other]
        if not overlap.comparable(left, right):
            found[row, column] = found[column, row] = np.nan
            continue
        both = overlap.overall(left, right)
        found[row, column] = found[column, row] = both.jaccard
        chance[row, column] = chance[column, row] = both.by_chance
        pairs.append((one, other, both.jaccard, both.by_chance))
        layers += [
            [one, other, layer, each.jaccard, each.by_chance]
            for layer, each in overlap.by_layer(left, right).items()
        ]
    alt = "; ".join(f"{a} and {b}: {j:.2f}, by chance {c:.2f}" for a, b, j, c in pairs)
    numbers = [Column("Jaccard", ".3f"), Column("by chance", ".3f")]
    return Section(
        key="masks",
        title=title,
        text="The Jaccard index of two masks is the number of units that both keep over the "
        "number that at least one keeps.",
        drawings=[
            Drawing(
                "agreement-of-masks",
                agreement(names, found, chance),
                f"Matrix of Jaccard indices. {alt or 'No two masks can be compared'}.",
                "1 is equal, 0 has nothing in common. In brackets: what masks of the same sizes "
                "drawn at random have on average; only what is above it is agreement.",
            )
        ],
        tables=[
            Table("agreement-of-masks", "Over all layers",
                  [Column("mask"), Column("and"), *numbers], pairs),
            Table("agreement-by-layer", "Layer by layer",
                  [Column("mask"), Column("and"), Column("layer"), *numbers], layers),
        ] if pairs else (),
    )  # fmt: skip


def _named_masks(runs: Sequence[Run]) -> Mapping[str, Mask]:
    """Name each pruning event's mask by its run, and by its round where a run has several."""
    return {
        run.name if len(run.events) == 1 else f"{run.name}, round {event.round_index}": event.mask
        for run in runs
        for event in run.events
    }
