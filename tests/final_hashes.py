"""How short runs of every kind end, bit for bit: the table that a change of the code must not move.

A row is a run of a tiny federation. It keeps the SHA-256 of the last state as the commit names it,
of the mask, of what clients keep for themselves and of all scores, and the bytes that travelled.

    PYTHONPATH=. python tests/final_hashes.py            what differs from the table; then exit 1
    PYTHONPATH=. python tests/final_hashes.py --write    write it anew, for a change that is wanted

``tests/fedx_core/test_final_hashes.py`` runs every row. The runs that other tests compare their
kills and carriers with are rows too, and are held against the table there by :func:`check`:
processes killed at each named point (``fedx_core/test_kills.py``); Prefect's threads and processes,
and Dask (``flows/test_runtimes.py``); work pools (``integration/test_prefect_work_pools.py``);
sites (``integration/test_at_sites.py``).
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fingerprint
from bed import Bed, tiny_data_in, tiny_resnet6
from fedx_core.base import plugins
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.frozen_json import canonical
from fedx_core.clients.client import Place
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import Carrier, InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.rollback import roll_back
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob

TABLE = Path(__file__).parent / "fedx_core" / "final_hashes.json"
Play = Callable[[Bed, str], Setting]


@dataclass
class Losing(InProcess):
    """Loses client-01 in the first round, in its first tries, after it has trained."""

    tries: int = 1

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        is_lost = (job.client, job.round_index, job.purpose) == ("client-01", 1, "train")
        if is_lost and job.attempt < self.tries:
            return ClientFailure(client=job.client, attempt=job.attempt, reason="away")
        return outcome


@dataclass
class Dying(InProcess):
    """Is killed before a step of the server, once it is armed."""

    fatal: str = ""
    is_armed: bool = False

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        if self.is_armed and name == self.fatal:
            raise KeyboardInterrupt
        return step(*arguments)


def played(
    settings: ExperimentConfig, bed: Bed, run: str, runtime: Carrier | None = None, **how: Any
) -> Setting:
    setting = bed.setting(run, settings.dataset)
    for _ in federate(settings, setting, runtime or InProcess(1), **how):
        pass
    return setting


def plain(runtime: Carrier | None = None, **overrides: Any) -> Play:
    """A run from its beginning to its end."""
    return lambda bed, run: played(tiny_resnet6(**overrides), bed, run, runtime)


def with_public(play: Play) -> Play:
    """A run on data that have public images, made beside it."""

    def played_there(bed: Bed, run: str) -> Setting:
        data = tiny_data_in(bed.runs / f"{run}, data", **PUBLIC)
        return play(Bed(data, bed.runs), run)

    return played_there


def stopped(after: int, **overrides: Any) -> Play:
    """A run that is stopped after some rounds and resumed."""

    def play(bed: Bed, run: str) -> Setting:
        settings = tiny_resnet6(**overrides)
        going = federate(settings, bed.setting(run, settings.dataset), InProcess(1))
        for _ in range(after):
            next(going)
        going.close()
        return played(settings, bed, run, resume=True)

    return play


def killed(fatal: str, **overrides: Any) -> Play:
    """A run whose server is killed before a step of the second round, and resumed."""

    def play(bed: Bed, run: str) -> Setting:
        runtime = Dying(fatal=fatal)
        going = federate(tiny_resnet6(**overrides), bed.setting(run), runtime)
        next(going)
        runtime.is_armed = True
        with suppress(KeyboardInterrupt):
            next(going)
            raise AssertionError(f"no step {fatal!r} in the second round")
        return played(tiny_resnet6(**overrides), bed, run, resume=True)

    return play


def rolled_back(to: int, **overrides: Any) -> Play:
    """A run that is done, goes back to an earlier round, and goes on from there."""

    def play(bed: Bed, run: str) -> Setting:
        setting = played(tiny_resnet6(**overrides), bed, run)
        roll_back(Journal(open_store(setting.place.store)), setting.place, to)
        return played(tiny_resnet6(**overrides), bed, run, resume=True)

    return play


def branched(at: int, shared: dict[str, Any], **overrides: Any) -> Play:
    """A run that shares another one's first rounds."""

    def play(bed: Bed, run: str) -> Setting:
        first = played(tiny_resnet6(**shared), bed, f"{run}, shared")
        branch = Branch(store=first.place.store, round_index=at)
        return played(tiny_resnet6(**overrides), bed, run, branch=branch)

    return play


PUBLIC = {"datasets__synthetic__reference__public": 36}
# Settings under which a method shows in three rounds all that it does.
BYOL = {"training__objective": {"name": "byol"}}
LIVELY: dict[str, dict[str, Any]] = {
    "fedema": BYOL,
    "fedsense": {
        "training__objective": {"name": "simclr"},
        "method__ramp": 1,
        "method__bits": 4,
        "method__down_bits": 2,
    },
    "fedu": {**BYOL, "method__threshold": 0.0},
    "ldawa": {"method__normalise": True},
    "feddip": {"method__target_round": 3, "method__reconfigure_every": 1},
    "feddst": {"method__adjust_every": 1, "method__adjust_share": 0.2},
    "mpfl": {"method__iterations": 1},
    "spafl": {"method__average": True},
}
OWN: dict[str, dict[str, Any]] = {
    "fedckd": {"training__objective": {"name": "simclr", "predictor": True}},
    "fedsense": {"method__distil": "off"},
}
"""What a method needs on these data, which have no public images."""
POOLS = {
    "federation__rounds": 2,
    "federation__participation": 0.5,
    "method__warmup_rounds": 1,
}
"""Settings of the test on work pools."""
FEW = {"federation__min_reports": 2, "federation__attempts": 1}
KEPT = {"training__optimiser_state": "kept", "federation__participation": 0.5}
LRP = {"method__relevance": {"name": "lrp"}}
PRUNED_TWICE = {
    "method__warmup_rounds": 1, "method__pruning_rate": 0.3, "method__recompute_every": 1,
}  # fmt: skip


def _methods() -> dict[str, Play]:
    rows = {}
    for name in plugins.names("methods"):
        named = {**({} if name == "fedx" else {"method__name": name}), **OWN.get(name, {})}
        rows[name] = plain(**named)
        if name in LIVELY:
            rows[f"{name}, lively"] = plain(**named, **LIVELY[name])
    return rows


CODED = {
    "method__name": "fedavg",
    "codec__name": "deadzone",
    "federation__first_model": "seed",
    "federation__participation": 0.6,
}
AS_CODED: dict[str, Play] = {
    "coded, tried again": plain(Losing(), **CODED, federation__attempts=2),
    "coded, stopped after 1": stopped(1, **CODED),
    "coded, stopped after 2": stopped(2, **CODED),
    "coded, rolled back": rolled_back(1, **CODED),
    "coded, two threads": plain(InProcess(2), **CODED),
    **{
        f"coded, killed before {step}": killed(step, **CODED)
        for step in ("dispatch", "aggregate", "commit")
    },
}
"""Ways to the end of the row ``coded``: codecs with memory on both sides, and a client that misses
a round in turn."""

AS_FEDX: dict[str, Play] = {
    "tried again": plain(Losing(), federation__attempts=2),
    "two threads": plain(InProcess(2)),
    "stopped after 1": stopped(1),
    "stopped after 2": stopped(2),
    **{
        f"killed before {step}": killed(step)
        for step in ("dispatch", "aggregate", "relevance", "prune", "evaluate", "commit")
    },
    "rolled back to 1": rolled_back(1),
    "rolled back to 2": rolled_back(2),
    "branched from fedavg": branched(1, {"method__name": "fedavg"}),
    "branched before pruning": branched(1, {}),
    "branched when pruned": branched(3, {}),
}
"""Ways to the end of the row ``fedx``."""

DISTILLED = {
    "method__name": "fedsense",
    "method__ramp": 1,
    "training__objective": {"name": "simclr"},
    "training__batch_norm": "recalibrate",
    **PUBLIC,
}

ROWS: dict[str, Play] = {
    **_methods(),
    # Explanations, masks and formats.
    **{
        f"fedx by {name}": plain(method__relevance={"name": name})
        for name in plugins.names("relevance")
        if name != "magnitude"
    },
    **{f"fedx as {name}": plain(codec__name=name) for name in ("dense", "sliced")},
    "fedx over all layers": plain(method__scope="global", method__min_keep=2),
    "fedx coupled": plain(method__coupled=True),
    "fedx by rows": plain(method__mask="row", training__shrink=False),
    "fedx by rows and scales": plain(method__mask="row_and_scale", training__shrink=False),
    "fedx pruned twice": plain(**PRUNED_TWICE, method__recompute_times=2),
    "fedx regrown": plain(**PRUNED_TWICE, method__recompute_times=2, method__regrow=True),
    "fedx not shrunk": plain(training__shrink=False),
    # Training and normalisation.
    "federated normalisation": plain(training__normalisation="federated"),
    "BatchNorm recalibrated": plain(training__batch_norm="recalibrate"),
    "contiguous": plain(training__memory_format="contiguous", training__flips=False),
    "several labels": plain(dataset="countries"),
    "several labels, personal": plain(dataset="countries", method__name="spafl"),
    "stopped early": plain(
        federation__selection={"metric": "loss", "patience": 1, "min_delta": 9.0},
        method__name="fedavg",
    ),
    "scaled down": plain(federation__clip=1.0, method__name="fedavg"),
    # What clients keep for themselves.
    "BatchNorm local": plain(training__batch_norm="local"),
    "moments kept": plain(**KEPT),
    "moments kept, stopped": stopped(1, **KEPT),
    "local_only, half": plain(method__name="local_only", federation__participation=0.5),
    "spafl, stopped": stopped(1, method__name="spafl"),
    "spafl, rolled back": rolled_back(2, method__name="spafl"),
    "feddip, lively, stopped": stopped(2, method__name="feddip", **LIVELY["feddip"]),
    "fedsense, distilled": with_public(plain(**DISTILLED)),
    "fedsense, distilled, stopped": with_public(stopped(1, **DISTILLED)),
    "fedsense, distilled, two threads": with_public(plain(InProcess(2), **DISTILLED)),
    "fedema, lively, tried again": plain(
        Losing(), method__name="fedema", federation__attempts=2, **BYOL
    ),
    # Lost, late and interrupted.
    "half of the clients": plain(**POOLS),
    "a lost client": plain(Losing(), **FEW),
    "a lost client, personal": plain(Losing(), **FEW, method__name="spafl"),
    "a lost client, feddst": plain(Losing(), **FEW, method__name="feddst"),
    "spafl from fedavg": branched(
        1, {"method__name": "fedavg", "federation__rounds": 1}, method__name="spafl"
    ),
    **AS_FEDX,
    # Codecs with memory.
    "coded": plain(**CODED),
    "coded, pruned": plain(codec={"down": {"name": "signs"}, "up": {"name": "topk"}}),
    "coded, a lost client": plain(Losing(), **{**CODED, **FEW, "federation__participation": 1.0}),
    **AS_CODED,
}

SAME = {
    **dict.fromkeys(AS_FEDX, "fedx"),
    **dict.fromkeys(AS_CODED, "coded"),
    "moments kept, stopped": "moments kept",
    "spafl, stopped": "spafl",
    "spafl, rolled back": "spafl",
    "feddip, lively, stopped": "feddip, lively",
    "fedsense, distilled, stopped": "fedsense, distilled",
    "fedsense, distilled, two threads": "fedsense, distilled",
    "fedema, lively, tried again": "fedema, lively",
}
"""Rows that end in the state, mask, memories and scores of another one, on any machine."""


SIZED_BY_VALUES = (
    *("fedx over all layers", "fedx as sliced"),
    *("coded", "coded, a lost client", *AS_CODED),
)
"""Rows whose bytes depend on which units go, or on what a coder makes of the values.

They change from machine to machine as hashes do.
"""


def ending(setting: Setting) -> dict[str, Any]:
    """Say how a run ended: hashes, and bytes by kind over all rounds."""
    store = open_store(setting.place.store)
    commits = Journal(store).commits()
    last = commits[-1]
    mask = checkpoint.unpack_server_state(store.get(last.state)).mask
    memories = {c: h.memory.sha256 for c, h in last.holdings.items() if h.memory}
    reports = [commit.report for commit in commits]
    scores = [
        (r.metrics, r.metrics_before_pruning, r.validation, r.per_class, r.per_client,
         r.method_metrics, r.norms, r.train_loss, r.sparsity, r.units_kept, r.best_round)
        for r in reports
    ]  # fmt: skip
    traffic = [sent for report in reports for sent in report.traffic.values()]
    return {
        "state": last.state.sha256,
        "mask": mask.digest() if mask else None,
        "memories": _hashed(memories) if memories else None,
        "scores": _hashed(scores),
        "bytes": {
            "down": sum(sent.downlink for sent in traffic),
            "up": sum(sent.uplink for sent in traffic),
            "mask": sum(sent.mask for sent in traffic),
            "retry": sum(sent.retry for sent in traffic),
            "evaluation": sum(sent.evaluation for sent in traffic),
            "paper": sum(report.paper_bytes for report in reports),
        },
    }


def _hashed(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def hashes(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "bytes"}


@cache
def table() -> dict[str, Any]:
    """Return the kept table."""
    kept: dict[str, Any] = json.loads(TABLE.read_text())
    return kept


@cache
def elsewhere() -> str:
    """Say why this machine can't be asked for the table's bits; empty if it can."""
    differences = fingerprint.differences(table()["made_on"])
    return differences and (
        f"hashes hold on the kind of machine that wrote {TABLE.name} alone: {differences}"
    )


def check(row: str, setting: Setting) -> None:
    """Assert that a run has ended as the table says, as far as this machine can tell."""
    compare(row, ending(setting))


def compare(row: str, found: dict[str, Any]) -> None:
    """Assert that an ending is that of a row, as far as this machine can tell."""
    kept = table()["rows"][row]
    if not elsewhere() or row not in SIZED_BY_VALUES:
        assert found["bytes"] == kept["bytes"]
    if not elsewhere():
        assert hashes(found) == hashes(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table anew")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(tiny_data_in(Path(folder) / "data"), Path(folder) / "runs")
        rows = {name: ending(play(bed, name)) for name, play in ROWS.items()}
    if write:
        made = {"made_on": fingerprint.machine(), "rows": rows}
        TABLE.write_text(json.dumps(made, indent=1) + "\n")
        return 0
    if elsewhere():
        print(elsewhere())
    differ = [
        name for name in ROWS | table()["rows"] if rows.get(name) != table()["rows"].get(name)
    ]
    print("\n".join(differ) if differ else f"all {len(rows)} rows are as they were")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
