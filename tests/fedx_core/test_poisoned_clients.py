"""One client that lies, in all the ways that we know: it ends no run, and its name is said."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import poison
from bed import Bed, tiny
from fedx_core.base import plugins, strict_json
from fedx_core.record.journal import Journal
from fedx_core.rounds import audit, outliers
from fedx_core.rounds.carrier import Carrier, InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport
from long_tier import measured
from poison import LIAR, PAYLOADS, REPORTS, SCORES, STATISTICS, Lying, Replaying

METHODS = [name for name in plugins.names("methods") if name != "centralised"]
"""The pool of all images is no client that could lie to the others."""

EXTRA: dict[str, dict[str, Any]] = {
    "fedsense": {"method__distil": "off"},
    "fedckd": {"training__objective": {"name": "simclr", "predictor": True}},
    "fedx": {"method__warmup_rounds": 1},
    "mpfl": {"method__iterations": 2, "method__consensus": "unanimous"},
    "feddst": {"method__adjust_every": 1, "method__adjust_until": 10},
}

HONEST_TO_SEE = [
    ("fedema", "a change turned round"),
    ("fedlp", "a change turned round"),
    ("fedlp_hetero", "a change turned round"),
    ("mpfl", "another client's update"),
]
"""Nobody can tell these from what honest clients send. Two may vote alike. A client that sends half
of so small a model's layers, or its first stages only, learns at nearly a right angle to the others
in any case: the cosine of its change to theirs is less than 0.04 from 0, lie or not. So it is with
a client that begins with a mixture of its own model and the server's."""


def settings_for(name: str, **overrides: Any) -> Any:
    named = {} if name == "fedx" else {"method__name": name}
    wanted = {"federation__rounds": 3, "federation__attempts": 1, "federation__keep_states": 9}
    return tiny(**{**named, **wanted, **EXTRA.get(name, {}), **overrides})


def run(bed: Bed, runtime: Carrier, settings: Any, name: str = "run") -> list[RoundReport]:
    setting = replace(bed.setting(name), audit=bed.runs / name)
    return list(federate(settings, setting, runtime))


def named(bed: Bed, name: str = "run") -> list[dict[str, Any]]:
    path = bed.runs / name / audit.FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check(
    bed: Bed, lying: Lying, reports: list[RoundReport], *, honest_to_see: bool = False
) -> None:
    """Check that the run went on to a sound end, and whom its book names."""
    store = open_store(bed.setting().place.store)
    assert [report.round_index for report in reports] == [1, 2, 3]
    for commit in Journal(store).commits():
        assert poison.finite(store, commit)
    assert all(math.isfinite(report.train_loss) for report in reports)
    assert all(math.isfinite(report.metrics["loss"]) for report in reports)
    clients = {line["client"] for line in named(bed)}
    if honest_to_see:
        assert clients <= {LIAR}
    else:
        assert clients == ({LIAR} if lying.told else set())
    for path in sorted((bed.runs / "run" / "store" / "journal").rglob("*")):
        if path.is_file():
            strict_json.loads(path.read_bytes().partition(b"\n")[0], 1 << 26)


def lie(bed: Bed, name: str, kind: str) -> str:
    """Run one method with one lie, check it, and say what came of the lie."""
    lying = Replaying() if "before" in kind else Lying()
    if kind in PAYLOADS:
        lying.payload = PAYLOADS[kind]
    else:
        lying.report = REPORTS[kind]
    reports = run(bed, lying, settings_for(name))
    check(bed, lying, reports, honest_to_see=(name, kind) in HONEST_TO_SEE)
    return fate(bed, lying)


def fate(bed: Bed, lying: Lying) -> str:
    """Say in a word what came of a lie about the second round."""
    closed = Journal(open_store(bed.setting().place.store)).closed(2)
    assert closed is not None
    if not lying.told:
        return "nothing to lie with"
    if LIAR in {failure.client for failure in closed.failures}:
        return "refused"
    if LIAR in closed.scales:
        return "scaled down"
    return "counted and named" if LIAR in closed.remarks else "honest to see"


@pytest.fixture(scope="module")
def fates() -> Iterator[Counter[str]]:
    """What came of the lies, to be counted and shown."""
    found: Counter[str] = Counter()
    yield found
    measured(f"{found.total()} runs with one liar", **found)


def test_there_are_as_many_kinds_as_the_book_says() -> None:
    assert len(PAYLOADS) + len(REPORTS) + len(SCORES) + len(STATISTICS) >= 29


@pytest.mark.parametrize("kind", [*PAYLOADS, *REPORTS])
def test_no_lie_ends_a_run_of_fedavg_and_each_is_named(kind: str, bed: Bed) -> None:
    lie(bed, "fedavg", kind)


OWN = [
    ("feddst", "masks of the opposite"),
    ("feddst", "masks of the right size elsewhere"),
    ("fedlp_hetero", "one weight of 1e17"),
    ("fedlp", "a change fifty times as long"),
    ("fedpaq", "a change fifty times as long"),
    ("fedpaq", "one weight of 1e17"),
    ("fedx", "a negative variance"),
    ("mpfl", "a vote for everything"),
    ("mpfl", "a vote for nothing"),
    ("spafl", "thresholds of 1e17"),
]


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_no_lie_of_a_methods_own_ends_its_run(name: str, kind: str, bed: Bed) -> None:
    lie(bed, name, kind)
    assert named(bed)


@pytest.mark.parametrize(("name", "kind"), HONEST_TO_SEE)
def test_no_lie_that_is_honest_to_see_ends_a_run(name: str, kind: str, bed: Bed) -> None:
    lie(bed, name, kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", [*PAYLOADS, *REPORTS])
@pytest.mark.parametrize("name", METHODS)
def test_no_lie_ends_a_run_of_any_method(
    name: str, kind: str, bed: Bed, fates: Counter[str]
) -> None:
    fates[lie(bed, name, kind)] += 1


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("name", ["fedavg", "local_only"])
def test_a_lie_about_scores_is_left_out_of_them(name: str, kind: str, bed: Bed) -> None:
    lying = Lying(purpose="evaluate", report=SCORES[kind])
    reports = run(bed, lying, settings_for(name))
    check(bed, lying, reports)
    assert set(reports[-1].per_client) == {"client-00", "client-02"}
    assert 0 <= reports[-1].metrics["overall_accuracy"] <= 1


@pytest.mark.parametrize("kind", STATISTICS)
def test_a_lie_about_pixels_does_not_set_the_normalisation(kind: str, bed: Bed) -> None:
    settings = settings_for("fedavg", training__normalisation="federated", federation__rounds=1)
    lying = Lying(purpose="statistics", payload=STATISTICS[kind])
    run(bed, lying, settings)
    assert lying.told
    assert {line["client"] for line in named(bed)} == {LIAR}
    run(bed, InProcess(1), settings, "honest")
    found = [plan(bed, name) for name in ("run", "honest")]
    for mine, honest in zip(*(p["pixels"]["mean"] for p in found), strict=True):
        assert mine == pytest.approx(honest, abs=0.05)


def plan(bed: Bed, name: str) -> dict[str, Any]:
    store = open_store(bed.setting(name).place.store)
    commit = Journal(store).committed(0)
    assert commit is not None
    found: dict[str, Any] = json.loads(bytes(store.get(commit.plan)))
    return found


def changes(*directions: Tensor) -> dict[str, outliers.Measured]:
    return {
        f"client-{place:02d}": outliers.Measured(
            {outliers.WEIGHTS: float(direction.norm())}, {"model/weight": direction}
        )
        for place, direction in enumerate(directions)
    }


def test_whoever_works_against_others_that_agree_is_named_and_nobody_once_they_do_not() -> None:
    random = torch.Generator().manual_seed(1)
    each = torch.randn(10, 4096, generator=random)
    shared = 0.6 * torch.randn(4096, generator=random)
    assert outliers.remarks(changes(*(each + shared)), usual=64.0) == {}
    one_turned = torch.cat([-(each[:1] + shared), each[1:] + shared])
    (said,) = outliers.remarks(changes(*one_turned), usual=64.0).items()
    assert said[0] == "client-00"
    assert "works against the others' (cosine -0." in said[1]
    # Of a model that has converged: all changes add up to nothing.
    converged = each - each.mean(dim=0)
    sums = [(a @ (converged.sum(0) - a)) / a.norm() ** 2 for a in converged]
    assert sums == pytest.approx([-1.0] * 10, abs=1e-3)
    assert outliers.remarks(changes(*converged), usual=64.0) == {}


def test_honest_clients_are_named_by_no_method(bed: Bed) -> None:
    for name in ("fedavg", "fedlp_hetero", "feddst", "mpfl", "spafl"):
        run(bed, InProcess(1), settings_for(name), name)
        assert named(bed, name) == []
