r"""Nine tenths of all units go, by several criteria: what the server and the schedule win back.

    fedx data eurosat --set datasets.eurosat.source.limit=5000
    fedx data eurosat --data-root data/all        # for 5,400 test images instead of 1,000
    python benchmarks/recovery.py --seeds 1 2 3 --test data/all/eurosat
    fedx data countries --set datasets.countries.source.metadata=auto \
        --set datasets.countries.source.limit=4000
    python benchmarks/recovery.py --dataset countries --seeds 1 2 3

As ``fewer_bytes.py``: ResNet6 on 3,000 EuroSAT images, 8 clients iid, 12 rounds of two epochs, with
the same learning-rate schedule; one event after round 6, or three after rounds 4, 6 and 8. In
names ``diverse_lrp`` chooses units whose relevance others can't stand in for, ``again`` is a
learning rate that begins its fall anew at the event, ``fit`` least squares at the server,
``taught`` distillation there, and ``mended`` both. Rows of a schedule share the rounds before the
event. ``narrow`` has 8 channels in place of 64 from the start, about what pruning leaves.
``countries`` are ten-band scenes of many labels, a client a country. Every run resumes where it
stopped.
"""

from pathlib import Path
from typing import Any

from fewer_bytes import SCHEDULE, SHARED
from paired_runs import Row, Runs, options, show

AGAIN = {
    **SCHEDULE,
    "training.schedule": {"name": "cosine", "floor": 0.1, "restarts": [6]},
}
COUNTRIES = {
    "dataset": "countries",
    "datasets.countries.source.metadata": "auto",
    "datasets.countries.source.limit": 4000,
}
SHARING = {"codec.name": "sliced", "federation.keep_states": 12}
RECOVERIES: dict[str, dict[str, Any]] = {
    "": {"name": "none"},
    "-fit": {"name": "reconstruct"},
    "-taught": {"name": "distil"},
    "-mended": {"name": "distil", "reconstruct": True},
}
CRITERIA: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("lrp", "random", "magnitude", "taylor")},
    **{
        f"diverse_{profile}": {"name": "diverse", "of": profile}
        for profile in ("lrp", "taylor", "activation")
    },
}


def _event(criterion: str, **more: Any) -> dict[str, Any]:
    return {
        "codec.name": "sliced",
        "method": {
            "name": "fedx",
            "pruning_rate": 0.9,
            "warmup_rounds": 6,
            "relevance": CRITERIA[criterion],
            **more,
        },
    }


def _rows() -> dict[str, Row]:
    rows = {
        "fedavg_cosine": Row({**SCHEDULE, **SHARING}),
        "fedavg-again": Row({**AGAIN, **SHARING}),
        "narrow": Row({**SCHEDULE, "model.name": "resnet6_w8"}, dense="fedavg_cosine"),
    }
    for criterion in CRITERIA:
        rows[criterion] = Row({**SCHEDULE, **_event(criterion)}, ("fedavg_cosine", 6))
        for suffix, recovery in RECOVERIES.items():
            settings = {**AGAIN, **_event(criterion), "recovery": recovery}
            rows[f"{criterion}-again{suffix}"] = Row(settings, ("fedavg-again", 6))
    thrice = {
        **SCHEDULE,
        "training.schedule": {"name": "cosine", "floor": 0.1, "restarts": [4, 6, 8]},
    }
    for criterion in ("lrp", "random"):
        event = _event(criterion, warmup_rounds=4, recompute_every=2, recompute_times=3)
        for suffix in ("", "-mended"):
            settings = {**thrice, **event, "recovery": RECOVERIES[suffix]}
            rows[f"{criterion}-thrice{suffix}"] = Row(settings)
    return rows


ROWS = _rows()


def main() -> None:
    """Run what is missing, then print."""
    parser = options(__doc__ or "", "", ROWS)
    parser.add_argument("--dataset", choices=["eurosat", "countries"], default="eurosat")
    parser.set_defaults(data=None, run_root=None)
    chosen = parser.parse_args()
    chosen.data = chosen.data or Path("data", chosen.dataset)
    chosen.run_root = chosen.run_root or Path("runs", f"recovery-{chosen.dataset}")
    shared = {**SHARED, **COUNTRIES} if chosen.dataset == "countries" else SHARED
    show(Runs(shared, ROWS, ("fedavg_cosine", "random-again-mended"), chosen))


if __name__ == "__main__":
    main()
