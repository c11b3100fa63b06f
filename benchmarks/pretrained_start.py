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
``pretraining.py``, as far as that has come; bytes are the same. Every run resumes where it stopped.
"""

import argparse
from pathlib import Path
from typing import Any

from paired_runs import Row, Runs, difference, options

from fedx_core.record import checkpoint
from fedx_core.rounds.federation import final_model, history
from fedx_core.store import open_store

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


def main() -> None:
    """Run what is missing, then print."""
    parser = options(__doc__ or "", "runs/pretrained_start", dict.fromkeys(NAMES, Row({})))
    parser.add_argument("--encoder", type=Path, default=Path("runs/pretraining/centralised-1"),
                        help="a run of pretraining.py")  # fmt: skip
    parser.add_argument("--shares", nargs="+", default=list(SHARES), choices=list(SHARES))
    chosen = parser.parse_args()
    encoder = written(chosen.encoder)
    print("| labels | run | seeds | MiB | test % | gain of the start (95 %) |")
    print("| ---: | --- | ---: | ---: | ---: | --- |")
    for share in chosen.shares:
        rows = {name: Row(settings_of(share, name, encoder)) for name in NAMES}
        own = {"data": Path(f"data/{share}/eurosat"), "run_root": chosen.run_root / share}
        runs = Runs(SHARED, rows, (), argparse.Namespace(**{**vars(chosen), **own}))
        runs.run()
        for name in NAMES:
            if not (scores := runs.scores(name)):
                continue
            plain = name.removesuffix("-pretrained")
            gain = "-" if plain == name else difference(scores, runs.scores(plain))
            mean = 100 * sum(scores.values()) / len(scores)
            mib = runs.mib(name)
            print(f"| {share} % | {name} | {len(scores)} | {mib:.1f} | {mean:.2f} | {gain} |")


if __name__ == "__main__":
    main()
