r"""Five hundred times fewer bytes: codecs with memory, few weights, and a first model from a seed.

    fedx data eurosat --set datasets.eurosat.source.limit=5000
    fedx data eurosat --data-root data/all        # for 5,400 test images instead of 1,000
    python benchmarks/fewer_bytes.py --seeds 1 2 3 --test data/all/eurosat
    fedx data eurosat --data-root data/unequal --set datasets.eurosat.source.limit=5000 \
        --set 'datasets.eurosat.partition={name: dirichlet, clients: 8, alpha: 0.3}'
    python benchmarks/fewer_bytes.py --unequal --data data/unequal/eurosat \
        --run-root runs/fewer_bytes_unequal --runs fewer fedavg_cosine --test data/all/eurosat

ResNet6 on 3,000 EuroSAT images, 8 clients iid, 12 rounds of two epochs. ``fewer`` sends 5 % of the
parameters in 1.25 bits each both ways, and nothing that follows from the seed; ``fedavg`` is FedAvg
as in ``docs/results.md``. All others have the learning-rate schedule of ``fewer``: FedAvg again,
and its rivals. Rows of six or four rounds have as many epochs in all, so that clients compute as
much; their times fewer bytes are of FedAvg's twelve rounds. ``resnet18`` rows are ResNet18's, of
which 2 % are 224,000 parameters; ``resnet18_w48_fewer`` has three quarters of the channels, and its
times fewer bytes are of ResNet18's. Every run resumes where it stopped. Prints the table of
``docs/results.md``, and draws the curves of README.md with ``--figure``; bytes are all of the wire
ledger.
"""

from typing import Any

from paired_runs import Row, Runs, options, show

SHARED: dict[str, Any] = {
    "dataset": "eurosat",
    "datasets.eurosat.source.limit": 5000,
    "method.name": "fedavg",
    "codec.name": "dense",
    "training.epochs": 2,
    "training.batch_size": 32,
    "training.batch_norm": "recalibrate",
    "federation.rounds": 12,
}
UNEQUAL = {"datasets.eurosat.partition": {"name": "dirichlet", "clients": 8, "alpha": 0.3}}
SCHEDULE = {
    "training.learning_rate": 0.003,
    "training.schedule": {"name": "cosine", "floor": 0.1},
}
FEDX = {"method": {"name": "fedx", "pruning_rate": 0.5, "warmup_rounds": 6}}


def coded(bits: float = 1.25, density: float | None = None) -> dict[str, Any]:
    """Return the settings of few bits, and of few weights where a density is given."""
    few = {} if density is None else {"support": {"name": "seeded", "density": density}}
    return {"codec": {"name": "deadzone", "bits": bits}, "federation.first_model": "seed", **few}


RESNET18 = {"model.name": "resnet18", **SCHEDULE, "training.learning_rate": 0.001}


def rounds(number: int, **few: Any) -> Row:
    """Return a row of fewer rounds in which clients compute as much as in twelve of two epochs."""
    longer = {"federation.rounds": number, "training.epochs": 24 // number}
    return Row({**SCHEDULE, **longer, **(coded(**few) if few else {})}, dense="fedavg_cosine")


ROWS = {
    "fewer": Row(
        {**SCHEDULE, **coded(density=0.05)},
        label="FedX's codecs: 5 % of the weights, 1.25 bits",
    ),
    "fewer_6rounds": rounds(6, bits=2.0, density=0.0335),
    "fewer_4rounds": rounds(4, bits=2.5, density=0.0335),
    "fedavg_6rounds": rounds(6),
    "fedavg_4rounds": rounds(4),
    "fedavg_cosine": Row(SCHEDULE, label="FedAvg"),
    "fedavg": Row({}),
    "fedpaq": Row(
        {**SCHEDULE, "method": {"name": "fedpaq", "levels": 7}}, label="FedPAQ, 4 bits up"
    ),
    "feddst": Row(
        {**SCHEDULE, "method": {"name": "feddst"}, "codec.name": "sliced"},
        label="FedDST, 80 % sparse",
    ),
    "fedx": Row({**SCHEDULE, **FEDX, "codec.name": "sliced"}, label="FedX, half of the units go"),
    "fedx_coded": Row({**SCHEDULE, **FEDX, **coded()}, label="the same in 1.25 bits"),
    **{
        f"fewer_density{density}": Row({**SCHEDULE, **coded(density=density)})
        for density in (0.035, 0.0245)
    },
    "resnet18_cosine": Row(RESNET18),
    **{
        f"resnet18_fewer{suffix}": Row({**RESNET18, **coded(density=density)})
        for suffix, density in (("", 0.02), ("_density0.0265", 0.0265))
    },
    "resnet18_w48_fewer": Row(
        {
            **SCHEDULE,
            **coded(density=0.045),
            "model.name": "resnet18_w48",
        },
        dense="resnet18_cosine",
    ),
}


def main() -> None:
    """Run what is missing, then print."""
    parser = options(__doc__ or "", "runs/fewer_bytes", ROWS)
    parser.add_argument("--unequal", action="store_true", help="labels by a Dirichlet draw of 0.3")
    chosen = parser.parse_args()
    shared = {**SHARED, **UNEQUAL} if chosen.unequal else SHARED
    show(Runs(shared, ROWS, ("fedavg_cosine", "resnet18_cosine"), chosen))


if __name__ == "__main__":
    main()
