r"""What an encoder that learned without labels gives a federation with few of them.

    fedx data eurosat --data-root data/pretraining --set datasets.eurosat.source.limit=7000 \
        --set 'datasets.eurosat.partition={name: dirichlet, clients: 8, alpha: 0.3}' \
        --set datasets.eurosat.reference.per_class=20 --set datasets.eurosat.reference.public=500
    python benchmarks/pretraining.py --data data/pretraining/eurosat --runs centralised
    fedx data eurosat --data-root data/1 --set datasets.eurosat.source.limit=270 \
        --set datasets.eurosat.reference.per_class=3
    fedx data eurosat --data-root data/10 --set datasets.eurosat.source.limit=2700
    fedx data eurosat --data-root data/100        # with the 5,400 test images of all rows
    python benchmarks/pretrained_start.py --seeds 1 2 3 --test data/100/eurosat

ResNet6, 8 clients iid, 15 rounds of two epochs, on 1 %, 10 % and 100 % of EuroSAT's images with
their labels (162, 1,620 and 16,200 to train on). ``fedx`` drops half of the units by LRP after
round 7. Each row starts from random weights, or (``-pretrained``) from the encoder of a run of
``pretraining.py``, as far as that has come; bytes are the same, but for what another mask of
``fedx`` changes. Every run resumes where it stopped.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paired_runs import Row, Runs, difference, options

from fedx_core.record import checkpoint
from fedx_core.rounds.federation import final_model, history
from fedx_core.store import open_store
from flows.figures import style

SHARED: dict[str, Any] = {
    "dataset": "eurosat",
    "method.name": "fedavg",
    "codec.name": "sliced",
    "training.epochs": 2,
    "training.batch_size": 32,
    "training.schedule": {"name": "cosine", "floor": 0.1},
    "federation.rounds": 15,
}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedx": {"method": {"name": "fedx", "pruning_rate": 0.5, "warmup_rounds": 7}},
}
SHARES = {"1": {"limit": 270, "per_class": 3}, "10": {"limit": 2700, "per_class": 10},
          "100": {"limit": 0, "per_class": 10}}  # fmt: skip
STARTS = ("", "-pretrained")
NAMES = [f"{method}{start}" for method in METHODS for start in STARTS]


def settings_of(share: str, name: str, encoder: Path) -> dict[str, Any]:
    """Return what a row differs in."""
    method, _, start = name.partition("-")
    return {
        **METHODS[method],
        "datasets.eurosat.source.limit": SHARES[share]["limit"],
        "datasets.eurosat.reference.per_class": SHARES[share]["per_class"],
        "model.weights": str(encoder) if start else "",
    }


def written(run: Path) -> Path:
    """Write the encoder of a run without labels as a file that ``model.weights`` takes."""
    store = open_store(str(run / "store"))
    path = run / f"encoder-{len(history(store))}.safetensors"
    path.write_bytes(checkpoint.pack_state(final_model(store), {}))
    return path


@dataclass(frozen=True)
class Cell:
    """What the seeds of one row came to on one share of the labels.

    Args:
        share: of EuroSAT's images, in %.
        name: the row.
        scores: on the test images, in [0, 1], by seed.
        mib: that a run sent, both directions.
    """

    share: str
    name: str
    scores: Mapping[int, float]
    mib: float


def cells(chosen: argparse.Namespace) -> list[Cell]:
    """Run what is missing, and return all that has run."""
    encoder = written(chosen.encoder)
    found = []
    for share in chosen.shares:
        rows = {name: Row(settings_of(share, name, encoder)) for name in NAMES}
        own = {"data": Path(f"data/{share}/eurosat"), "run_root": chosen.run_root / share}
        runs = Runs(SHARED, rows, (), argparse.Namespace(**{**vars(chosen), **own}))
        runs.run()
        for name in NAMES:
            if scores := runs.scores(name):
                found.append(Cell(share, name, scores, runs.mib(name)))
    return found


def table(found: Sequence[Cell]) -> str:
    """Return a Markdown table, each pre-trained start beside the random one of its seeds."""
    lines = [
        "| labels | run | seeds | MiB | test % | gain of the start (95 %) |",
        "| ---: | --- | ---: | ---: | ---: | --- |",
    ]
    scores = {(cell.share, cell.name): cell.scores for cell in found}
    for cell in found:
        plain = cell.name.removesuffix("-pretrained")
        beside = scores.get((cell.share, plain)) if plain != cell.name else None
        gain = difference(cell.scores, beside) if beside else "-"
        mean = 100 * statistics.mean(cell.scores.values())
        named = f"{cell.share} % | {cell.name} | {len(cell.scores)}"
        lines.append(f"| {named} | {cell.mib:.1f} | {mean:.2f} | {gain} |")
    return "\n".join(lines)


@style.styled
def figure(found: Sequence[Cell]) -> style.Figure:
    """Draw scores against the share of labels: each seed a dot, their mean a line."""
    drawn = style.Figure(figsize=(style.WIDTH, 4.2), layout="constrained")
    axes = drawn.subplots()
    colours = style.run_colours(METHODS)
    for name in NAMES:
        if not (own := [cell for cell in found if cell.name == name]):
            continue
        method, _, start = name.partition("-")
        look: dict[str, Any] = {"color": colours[method], "linestyle": "-" if start else "--"}
        means = [100 * statistics.mean(cell.scores.values()) for cell in own]
        label = f"{method}, from {'the encoder' if start else 'random weights'}"
        axes.plot([float(cell.share) for cell in own], means, label=label, **look)
        for cell in own:
            dots = [100 * score for score in cell.scores.values()]
            fill = colours[method] if start else "none"
            axes.plot([float(cell.share)] * len(dots), dots, "o", markersize=4,
                      color=colours[method], markerfacecolor=fill)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([float(share) for share in SHARES], labels=[f"{share} %" for share in SHARES])
    axes.minorticks_off()
    axes.set_xlabel("images with labels, of EuroSAT's (logarithmic)")
    axes.set_ylabel("overall accuracy in %, test images")
    style.grid(axes)
    drawn.legend(fontsize="small", loc="outside lower center", ncols=2)
    return drawn


def main() -> None:
    """Run what is missing, then print, and draw the figure if it was asked for."""
    parser = options(__doc__ or "", "runs/pretrained_start", dict.fromkeys(NAMES, Row({})))
    parser.add_argument("--encoder", type=Path, default=Path("runs/pretraining/centralised-1"),
                        help="a run of pretraining.py")  # fmt: skip
    parser.add_argument("--shares", nargs="+", default=list(SHARES), choices=list(SHARES))
    chosen = parser.parse_args()
    if chosen.data != parser.get_default("data"):
        parser.error("--data: the data sets are data/1, data/10 and data/100; leave it out")
    found = cells(chosen)
    print(table(found))
    if chosen.figure is not None:
        chosen.figure.write_bytes(style.as_svg(figure(found)))


if __name__ == "__main__":
    main()
