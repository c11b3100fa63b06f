"""A small model in three ways: few weights by explanation or by chance, or narrow from the start.

    fedx data eurosat --set datasets.eurosat.source.limit=5000
    fedx data eurosat --data-root data/all        # for 5,400 test images instead of 1,000
    python benchmarks/small_models.py --seeds 1 2 3 --test data/all/eurosat

As ``fewer_bytes.py``: ResNet6 on 3,000 EuroSAT images, 8 clients iid, 12 rounds of two epochs, the
same learning-rate schedule, 1.25 bits both ways, a first model from the seed. ``lrp``, ``snip``,
``magnitude`` and ``random`` keep 5 % of the parameters after a first round with all of them, the
best of each layer; with ``-unit`` as many for each unit of a layer, with ``-all`` the best of all
layers. ``seeded`` has 5 % from the start, at places from the seed. ``w24-2bits`` is a ResNet6 of 24
channels in place of 64, and so on. ``few-bits`` is ``seeded`` at 0.8 bits; in ``few-bits-lrp`` and
so on layers that matter more to the criterion have finer steps, by the root of the mean score of a
weight (reverse water-filling), as the event of run ``lrp`` with seed 1 saw it.
Every run resumes where it stopped. Times fewer bytes are those of the wide ResNet6's dense FedAvg.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from fewer_bytes import SCHEDULE, SHARED, coded
from paired_runs import Row, Runs, options, show

from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.store import open_store

CRITERIA = ("random", "lrp", "snip", "magnitude")
LEAN = {**SCHEDULE, **coded()}


def _kept(criterion: str, scope: str) -> Row:
    pruner = {
        "name": "scored_weights", "density": 0.05, "warmup_rounds": 1,
        "relevance": {"name": criterion}, "scope": scope,
    }  # fmt: skip
    return Row({**LEAN, "method": {"name": "fedavg", "pruner": pruner}})


def _narrow(width: int, bits: float) -> Row:
    codec = {"name": "deadzone", "bits": bits}
    return Row({**LEAN, "codec": codec, "model.name": f"resnet6_w{width}"}, dense="fedavg_cosine")


def _few_bits(**steps: Any) -> Row:
    codec = {"name": "deadzone", "bits": 0.8, **steps}
    return Row({**LEAN, "codec": codec, "support": {"name": "seeded", "density": 0.05}})


ROWS = {
    "fedavg_cosine": Row(SCHEDULE),
    "seeded": Row({**LEAN, "support": {"name": "seeded", "density": 0.05}}),
    **{name: _kept(name, "layer") for name in CRITERIA},
    **{f"{name}-unit": _kept(name, "unit") for name in CRITERIA},
    **{f"{name}-all": _kept(name, "global") for name in CRITERIA[1:]},
    "few-bits": _few_bits(),
    **{f"few-bits-{name}": _few_bits() for name in CRITERIA[1:]},
    **{f"w{w}-{bits:g}bits": _narrow(w, bits) for w in (12, 16, 24, 32) for bits in (1.25, 2.0)},
}


def steps(run: Path) -> dict[str, float]:
    """Say how coarse each layer's steps are to be, by what a pruning event's criterion saw.

    An error in a weight costs its mean score times the error's square, so that all layers' errors
    cost alike where steps go as one over the score's root. Of mean 1 on a logarithmic scale.
    """
    store = open_store(str(run / "store"))
    evidence = Journal(store).commits()[1].evidence
    assert evidence is not None
    tensors, _ = checkpoint.unpack_state(store.get(evidence.scores))
    scores = {
        name.removeprefix("scores/"): float(value.abs().double().mean())
        for name, value in tensors.items()
        if name.startswith("scores/")
    }
    middle = statistics.fmean(map(math.log, scores.values()))
    return {name: math.exp((middle - math.log(score)) / 2) for name, score in scores.items()}


def main() -> None:
    """Run what is missing, then print."""
    chosen = options(__doc__ or "", "runs/small_models", ROWS).parse_args()
    rows = dict(ROWS)
    for name in CRITERIA[1:]:
        if f"few-bits-{name}" in chosen.runs and not chosen.only_print:
            first = argparse.Namespace(**{**vars(chosen), "seeds": [1], "runs": [name]})
            Runs(SHARED, ROWS, (), first).run()
            rows[f"few-bits-{name}"] = _few_bits(steps=steps(chosen.run_root / f"{name}-1"))
    show(Runs(SHARED, rows, ("fedavg_cosine", "random", "seeded", "few-bits"), chosen))


if __name__ == "__main__":
    main()
