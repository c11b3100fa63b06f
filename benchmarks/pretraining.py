"""What federated pre-training is worth: FedSense-style guidance, its rivals, and each part of it.

    fedx data eurosat --data-root data/pretraining --set datasets.eurosat.source.limit=7000 \
        --set 'datasets.eurosat.partition={name: dirichlet, clients: 8, alpha: 0.3}' \
        --set datasets.eurosat.reference.per_class=20 --set datasets.eurosat.reference.public=500
    python benchmarks/pretraining.py --data data/pretraining/eurosat --seeds 1 2 3
    python benchmarks/pretraining.py --small       # two rounds on drawn scenes, to see it work

ResNet6 on 4,200 EuroSAT images without their labels, 8 clients by Dirichlet 0.3, SimCLR (BYOL where
a method is made for it), 30 rounds of two epochs. Each encoder is frozen and probed with the labels
of the same images; of ``local_only`` every client's own is, and the mean counts. What counts as
reproduced was decided before any run:

    R0  centralised is 5 points above untrained; else no federated row is run (``--regardless``)
    R1  fedsense in float32 is above the best rival, the paired interval being off zero
    R2  at 1 bit it is at most 1 point below, for 1/31 of the uplink; without feedback it loses more
    R3  it is 5 points above untrained, and 1 above local_only
    R4  without flatness, alignment or distillation it is lower

Every run resumes where it stopped, and probes are kept. Prints two Markdown tables: rows, rules.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from paired_runs import MIB, Row, Runs, difference, options

from fedx_core.base import config, strict_json
from fedx_core.base.frozen_json import canonical
from fedx_core.base.state import StateDict
from fedx_core.clients.plan import read_plan
from fedx_core.images import set_folder
from fedx_core.predict import model_file, probe
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.federation import final_model
from fedx_core.store import open_store
from fedx_core.wire.messages import LARGEST_MESSAGE
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from flows.sweeps import paired

ROOT = Path(__file__).parent.parent
SHARED: dict[str, Any] = {
    "dataset": "eurosat",
    "datasets.eurosat.source.limit": 7000,
    "datasets.eurosat.partition": {"name": "dirichlet", "clients": 8, "alpha": 0.3},
    "datasets.eurosat.reference": {"per_class": 20, "public": 500},
    "training.objective": {"name": "simclr"},
    "training.epochs": 2,
    "training.batch_size": 64,
    "federation.rounds": 30,
}
SMALL: dict[str, Any] = {
    **{name: value for name, value in SHARED.items() if "eurosat" not in name},
    "dataset": "synthetic",
    "datasets.synthetic.source": {
        "name": "synthetic", "label_kind": "single", "image_size": 32,
        "train": 120, "validation": 80, "test": 40,
    },
    "datasets.synthetic.partition": {"name": "iid", "clients": 2},
    "datasets.synthetic.reference": {"per_class": 3, "public": 40},
    "training.epochs": 1,
    "training.batch_size": 32,
    "federation.rounds": 2,
}  # fmt: skip
"""Of ``--small``: says that everything runs, and nothing of what it is worth."""
BYOL = {"training.objective": {"name": "byol"}}
CKD = {"training.objective": {"name": "simclr", "temperature": 0.1, "predictor": True}}


def fedsense(**settings: Any) -> Row:
    """Return a row of fedsense; one bit up unless said otherwise, lambda rising over six rounds."""
    return Row({"method": {"name": "fedsense", "ramp": 6, **settings}})


def distilled_last(bits: int) -> Row:
    """Return a row of fedsense that distils in the last round alone, and then for long."""
    return fedsense(
        bits=bits, distil_from=SHARED["federation.rounds"], distil_epochs=25, distil_rate=1e-3,
        distil_views=True,
    )  # fmt: skip


BOUNDS = ("untrained", "local_only", "centralised")
RIVALS = ("fedavg", "fedavg_byol", "fedu", "fedema", "ldawa", "fedckd")
PARTS = ("no_flatness", "no_alignment", "no_distillation")
ROWS = {
    **{name: Row({"method": {"name": name}}) for name in BOUNDS},
    "fedavg": Row({"method": {"name": "fedavg"}}),
    "fedavg_byol": Row({"method": {"name": "fedavg"}, **BYOL}),
    "fedu": Row({"method": {"name": "fedu"}, **BYOL}),
    "fedema": Row({"method": {"name": "fedema"}, **BYOL}),
    "ldawa": Row({"method": {"name": "ldawa", "normalise": True}}),
    "fedckd": Row({"method": {"name": "fedckd"}, **CKD}),
    **{f"fedsense_{bits}": fedsense(bits=bits) for bits in (32, 8, 4, 2, 1)},
    "both_ways_1": fedsense(bits=1, down_bits=1),
    "no_flatness": fedsense(rho=0.0),
    "no_alignment": fedsense(align=0.0),
    "no_distillation": fedsense(distil="off"),
    "no_feedback": fedsense(feedback=False),
    "no_distillation_32": fedsense(bits=32, distil="off"),
    "distilled_last": distilled_last(1),
    "distilled_last_32": distilled_last(32),
}
MEASURES = ("linear", "few", "knn")
"""Linear probe on all labels, the same on 1 % of them (mean of three draws), nearest neighbours."""

Scores = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Probed(Runs):
    """Rows whose encoders are probed."""

    def measured(self, name: str, measure: str = "linear") -> dict[int, float]:
        """Return a measure of finished runs, in [0, 1], by seed."""
        return {seed: self._probe(name, seed)[measure] for seed in self._finished(name)}

    def scores(self, name: str) -> dict[int, float]:
        """Score by the linear probe."""
        return self.measured(name)

    def uplink(self, name: str) -> float:
        """Return the bytes up of finished runs, the mean over seeds; 0 where there are none."""
        found = [sum(r.uplink_bytes for r in reports) for reports in self._finished(name).values()]
        return statistics.mean(found) if found else 0.0

    def table(self) -> str:
        """Return the table of rows, and below it that of the rules."""
        lines = [
            "| run | seeds | up MiB | all MiB | linear % | 1 % of labels | kNN % |"
            " minus fedavg (95 %) | minus fedsense_32 (95 %) |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        ]
        found = {name: self.measured(name) for name in self.rows}
        for name in self.rows:
            if not found[name]:
                continue
            finished = list(self._finished(name).values())
            wire = statistics.mean(sum(r.wire_bytes for r in reports) for reports in finished)
            means = [
                f"{100 * statistics.mean(self.measured(name, measure).values()):.2f}"
                for measure in MEASURES
            ]
            against = [difference(found[name], found[o]) for o in ("fedavg", "fedsense_32")]
            cells = [f"{self.uplink(name) / MIB:.3f}", f"{wire / MIB:.3f}", *means, *against]
            lines.append("| " + " | ".join([name, str(len(found[name])), *cells]) + " |")
        ratio = self.uplink("fedsense_32") / (self.uplink("fedsense_1") or 1)
        return "\n".join(lines) + "\n\n" + rules_table(found, ratio)

    def _probe(self, name: str, seed: int) -> dict[str, float]:
        """Probe a finished run's encoders, once."""
        kept = self.options.run_root / f"{name}-{seed}" / "probe.json"
        if kept.exists():
            scores: dict[str, float] = strict_json.loads(kept.read_bytes(), LARGEST_MESSAGE)
            return scores
        place = self._place(name, seed)
        store = open_store(place.store)
        prepared = set_folder.read(self.options.data / "prepared")
        if self.options.test is not None:
            test = set_folder.read_part(self.options.test / "prepared", "test")
            prepared = replace(prepared, parts={**prepared.parts, "test": test})
        journal = Journal(store)
        rounds = self.settings(name)["federation.rounds"]
        card = model_file.card_of(journal, prepared.description, rounds)
        how = read_plan(store.get(journal.commits()[-1].plan)).training
        settings = probe.Settings(shares=(0.01,), draws=3, epochs=0)
        each = []
        for weights in self._encoders(name, seed):
            encoder = probe.encoder_of(weights, card)
            made = probe.probed(encoder, card, prepared, settings, how)
            own = list(itertools.takewhile(lambda score: score.encoder == "run", made))
            each.append(
                {
                    "knn": _mean(s for s in own if s.measure == "knn"),
                    "linear": _mean(s for s in own if s.measure == "linear" and s.share == 1),
                    "few": _mean(s for s in own if s.measure == "linear" and s.share < 1),
                }
            )
        scores = {m: statistics.mean(found[m] for found in each) for m in MEASURES}
        kept.write_bytes(canonical(scores))
        return scores

    def _encoders(self, name: str, seed: int) -> Iterator[StateDict]:
        """Yield a run's model, or its clients' own where there is no other."""
        place = self._place(name, seed)
        store = open_store(place.store)
        if name != "local_only":
            yield final_model(store)
            return
        for _, holding in sorted(Journal(store).commits()[-1].holdings.items()):
            if holding.memory is not None:
                data = open_store(place.memory).get(holding.memory)
                kept, _ = checkpoint.unpack_state(data)
                yield {n: v for n, v in kept.items() if "/" not in n}


def _mean(scores: Iterator[probe.Score]) -> float:
    return statistics.mean(score.metrics["overall_accuracy"] for score in scores)


@dataclass(frozen=True)
class Rule:
    """What was decided before any run.

    Args:
        name: R0 to R4.
        says: in words.
        found: the figures.
        met: whether it holds; None where a row is missing.
    """

    name: str
    says: str
    found: str
    met: bool | None


def rules(scores: Scores, ratio: float) -> list[Rule]:
    """Judge by the scores of the linear probe.

    Args:
        scores: in [0, 1], by row and seed.
        ratio: how many times fewer bytes one bit takes up than float32.
    """
    there = {name: found for name, found in scores.items() if found}

    def mean(name: str) -> float:
        return 100 * statistics.mean(there[name].values())

    def rule(name: str, says: str, rows: tuple[str, ...], holds: Any) -> Rule:
        if missing := [row for row in rows if row not in there]:
            return Rule(name, says, f"no {', '.join(missing)} yet", None)
        found, met = holds()
        return Rule(name, says, found, met)

    def above(one: str, other: str, least: float) -> tuple[str, bool]:
        return f"over {other}: {difference(there[one], there[other])}", mean(one) - mean(
            other
        ) >= least

    def best_rival() -> tuple[str, bool]:
        best = max((name for name in RIVALS if name in there), key=mean)
        both = [seed for seed in there["fedsense_32"] if seed in there[best]]
        apart = [there["fedsense_32"][seed] - there[best][seed] for seed in both]
        half = paired.half_width(apart)
        off_zero = half is not None and statistics.mean(apart) > half
        return f"over {best}: {difference(there['fedsense_32'], there[best])}", off_zero

    def few_bits() -> tuple[str, bool]:
        lost = mean("fedsense_32") - mean("fedsense_1")
        without = mean("fedsense_32") - mean("no_feedback")
        said = f"{lost:.2f} lost at 1/{ratio:.1f}, {without:.2f} without feedback"
        return said, lost <= 1 and ratio >= 31 and without > lost

    def bounds() -> tuple[str, bool]:
        one, other = above("fedsense_32", "untrained", 5), above("fedsense_32", "local_only", 1)
        return f"{one[0]}; {other[0]}", one[1] and other[1]

    def parts() -> tuple[str, bool]:
        without = {name: mean(name) - mean("fedsense_1") for name in PARTS}
        said = ", ".join(f"{name} {value:+.2f}" for name, value in without.items())
        return said, max(without.values()) < 0

    return [
        rule("R0", "centralised 5 above untrained", ("centralised", "untrained"),
             lambda: above("centralised", "untrained", 5)),
        rule("R1", "float32 above the best rival", ("fedsense_32", "fedavg"), best_rival),
        rule("R2", "1 bit at most 1 below, feedback helps",
             ("fedsense_32", "fedsense_1", "no_feedback"), few_bits),
        rule("R3", "5 above untrained, 1 above local_only",
             ("fedsense_32", "untrained", "local_only"), bounds),
        rule("R4", "each part helps", ("fedsense_1", *PARTS), parts),
    ]  # fmt: skip


def rules_table(scores: Scores, ratio: float) -> str:
    """Return the rules as a Markdown table."""
    words = {True: "met", False: "not met", None: "open"}
    lines = [f"| {r.name} | {r.says} | {r.found} | {words[r.met]} |" for r in rules(scores, ratio)]
    return "\n".join(["| rule | wanted | found | |", "| --- | --- | --- | --- |", *lines])


def gate(runs: Probed) -> bool:
    """Run the bounds that rule R0 asks for, and tell whether it is met."""
    first = argparse.Namespace(**{**vars(runs.options), "runs": ["untrained", "centralised"]})
    Probed(runs.shared, runs.rows, (), first).run()
    zeroth, *_ = rules({name: runs.measured(name) for name in first.runs}, 1.0)
    return zeroth.met is True


def made(run_root: Path) -> Path:
    """Prepare the data of ``--small`` below a folder, and return theirs."""
    root = run_root / "data"
    if not (root / "synthetic" / "reference").exists():
        settings = config.load(ROOT / "params.yaml", SMALL)
        for stage in (prepare, partition, reference):
            stage(settings, "synthetic", root)
    return root / "synthetic"


def main() -> None:
    """Run what is missing, unless R0 forbids it, then print."""
    parser = options(__doc__ or "", "runs/pretraining", ROWS)
    parser.add_argument("--small", action="store_true", help="a smoke run on drawn scenes")
    parser.add_argument("--regardless", action="store_true", help="run on where R0 is not met")
    chosen = parser.parse_args()
    if chosen.part != "test":
        parser.error("--part: a probe chooses by the validation part itself; leave it out")
    if chosen.figure is not None:
        parser.error("--figure: there is none of this benchmark; leave it out")
    torch.set_num_threads(1)
    if chosen.small:
        chosen.run_root = chosen.run_root / "small"
        chosen.data = made(chosen.run_root)
    runs = Probed(SMALL if chosen.small else SHARED, ROWS, (), chosen)
    if not chosen.only_print:
        if chosen.small or chosen.regardless or gate(runs):
            runs.run()
        else:
            print("R0 is not met: raise rounds, image size or width, or say --regardless.\n")
    print(runs.table())


if __name__ == "__main__":
    main()
