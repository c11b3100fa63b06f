"""FedX with Adam at the server, a proximal term and a 4-bit uplink, by settings alone."""

import sys
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import pruners
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport

PARTS = {
    "method__server": {"name": "fedadam", "learning_rate": 0.02},
    "method__local": {"name": "proximal", "mu": 0.1},
}
FOUR_BITS = {"codec": {"down": {"name": "sliced"}, "up": {"name": "quantised", "levels": 7}}}


def run(bed: Bed, name: str, workers: int = 1, **overrides: Any) -> list[RoundReport]:
    settings = tiny(**{"federation__rounds": 4, **overrides})
    return list(federate(settings, bed.setting(name), InProcess(workers)))


def digest(bed: Bed, name: str) -> str:
    return state.digest(final_model(open_store(bed.setting(name).place.store)))


def test_explained_units_go_while_the_server_steps_by_adam_and_clients_are_held_near(
    bed: Bed,
) -> None:
    reports = run(bed, "parts", **PARTS, **FOUR_BITS)
    store = open_store(bed.setting("parts").place.store)
    commits = Journal(store).commits()
    states = [checkpoint.unpack_server_state(store.get(commits[i].state)) for i in (3, 4)]
    assert [report.pruned for report in reports] == [False, True, False, False]
    assert reports[1].metrics_before_pruning
    assert [commit.evidence is not None for commit in commits] == [False, False, True, False, False]
    assert all(report.method_metrics["server_step"] > 0 for report in reports)
    for after in states:
        assert after.mask is not None
        assert after.mask.kept == after.mask.size // 2
        assert "m/conv1.weight" in after.memory
        dead = ~after.mask.entries["conv1"]
        # Moments from before the event go on, and move nothing that is dead.
        assert after.memory["m/conv1.weight"][dead].any()
        assert not after.model["conv1.weight"][dead].any()
    for report in reports:
        assert report.uplink_bytes < 0.2 * report.downlink_bytes
    assert reports[3].downlink_bytes < 0.8 * reports[0].downlink_bytes
    run(bed, "again", workers=2, **PARTS, **FOUR_BITS)
    assert digest(bed, "again") == digest(bed, "parts")


def test_each_part_changes_what_comes_of_it_and_leaving_all_out_changes_nothing(bed: Bed) -> None:
    rows: dict[str, dict[str, Any]] = {
        "plain": {},
        "nothing": {"method__server": None, "method__local": None},
        "neutral": {
            "method__server": {"name": "average"},
            "method__local": {"name": "plain"},
            "method__exchange": {"name": "model"},
        },
        "server": {"method__server": PARTS["method__server"]},
        "local": {"method__local": PARTS["method__local"]},
        "both": PARTS,
    }
    for name, overrides in rows.items():
        run(bed, name, federation__rounds=2, **overrides)
    found = {name: digest(bed, name) for name in rows}
    assert found["plain"] == found["nothing"] == found["neutral"]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    ("method", "same"),
    [
        ("fedadam", {"method__server": {"name": "fedadam"}}),
        ("fedyogi", {"method__server": {"name": "fedyogi"}}),
        ("fedavgm", {"method__server": {"name": "fedavgm"}}),
        ("fedprox", {"method__local": {"name": "proximal"}}),
        ("fedlp", {"method__exchange": {"name": "layers"}}),
        ("fedmap", {"method__pruner": {"name": "iterative"}}),
    ],
)
def test_a_method_is_federated_averaging_with_its_part(
    method: str, same: dict[str, Any], bed: Bed
) -> None:
    run(bed, "method", federation__rounds=2, method__name=method)
    run(bed, "parts", federation__rounds=2, method__name="fedavg", **same)
    assert digest(bed, "method") == digest(bed, "parts")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"method__name": "spafl", "method__exchange": {"name": "layers"}},
            "'layers' can't go into spafl: spafl exchanges thresholds; leave method.exchange out",
        ),
        (
            {"method__name": "spafl", "method__server": {"name": "fedadam"}},
            "method.server: 'fedadam' can't go into spafl: spafl has no federated model",
        ),
        (
            {"method__name": "feddst", "method__pruner": {"name": "iterative"}},
            "method.pruner: 'iterative' can't go into feddst: feddst has a part of its own",
        ),
        ({"method__exchange": {"name": "layers"}}, "can't send a model under a mask.*leave one"),
        (
            {"method__name": "fedavg", "method__pruner": {"name": "votes"}},
            "masks of votes, which clients of fedavg do not send",
        ),
        (
            {"method__name": "fedadam", "method__server": {"name": "fedavgm"}},
            "fedadam has a part of its own there.*set method.name to fedavg",
        ),
        (
            {"method__pruner": {"name": "iterative"}},
            "'iterative' can't go into fedx: fedx has a part of its own",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_the_run(
    overrides: dict[str, Any], said: str, bed: Bed
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(bed, "refused", **overrides)
    assert not (bed.runs / "refused").exists()


def test_an_unknown_part_or_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"method.server: no server step 'fedadm'.*'fedadam'"):
        tiny(method__server={"name": "fedadm"})
    with pytest.raises(ConfigError, match="'proximal' has no parameter 'mi'"):
        tiny(method__local={"name": "proximal", "mi": 1})


CAREFUL = '''"""Weights go after each round before which validation had gained."""

from dataclasses import dataclass

from fedx_core.pruners import base
from fedx_core.pruning.sparsity import largest_of_all


@dataclass(frozen=True, kw_only=True)
class Pruner(base.Pruner):
    """Prunes where validation has gained.

    Args:
        step: share of all weights that goes at each event.
    """

    step: float = 0.1

    def due(self, state, history):
        seen = [report.validation["overall_accuracy"] for report in history]
        return len(seen) < 2 or seen[-1] > seen[-2]

    def choose(self, desk, state, scores):
        gone = 1 - state.mask.kept / state.mask.size if state.mask else 0.0
        weights = {name: state.model[name] for name in self.masked(desk)}
        return largest_of_all(weights, gone + self.step, state.mask)
'''


def test_a_schedule_may_follow_what_validation_said(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "careful.py").write_text(CAREFUL)
    monkeypatch.setattr(pruners, "__path__", [*pruners.__path__, str(tmp_path / "plugins")])
    settings: dict[str, Any] = {
        "method__name": "fedavg",
        "method__pruner": {"name": "careful", "step": 0.15},
        "federation__selection": {"metric": "loss", "patience": 0, "min_delta": 0.0},
        "federation__rounds": 6,
    }
    try:
        reports = run(bed, "careful", **settings)
    finally:
        sys.modules.pop("fedx_core.pruners.careful", None)
    seen = [report.validation["overall_accuracy"] for report in reports]
    wanted = [i < 2 or seen[i - 1] > seen[i - 2] for i in range(6)]
    assert [report.pruned for report in reports] == wanted
    assert len(set(wanted)) == 2, "some rounds prune and some do not"
    for i, report in enumerate(reports):
        assert report.sparsity == pytest.approx(0.15 * sum(wanted[: i + 1]), abs=1e-2)


OWN = '''"""Each client has half of the units, drawn from its name; two of them draw alike."""

from dataclasses import dataclass

import torch

from fedx_core.base import seeding
from fedx_core.pruners import base
from fedx_core.pruning.masks import Mask


@dataclass(frozen=True, kw_only=True)
class Pruner(base.Pruner):
    """Gives clients masks of their own and leaves the server's model whole."""

    def group(self, turn):
        return "even" if turn.place != 1 else "odd"

    def mask_for(self, desk, state, group):
        if not group:
            return state.mask
        random = seeding.torch_generator(seeding.derive(7, group))
        kept = {x.name: torch.rand(x.units, generator=random) < 0.5 for x in desk.graph.layers}
        return Mask("units", kept)
'''


def test_groups_of_clients_may_have_masks_of_their_own(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own_masks.py").write_text(OWN)
    monkeypatch.setattr(pruners, "__path__", [*pruners.__path__, str(tmp_path / "plugins")])
    wide = {"method__name": "fedavg", "model": {"name": "resnet6"}}
    settings = {**wide, "method__pruner": {"name": "own_masks"}}
    try:
        reports = run(bed, "own", federation__rounds=2, **settings)
        run(bed, "again", workers=2, federation__rounds=2, **settings)
        dense = run(bed, "dense", federation__rounds=2, **wide)
    finally:
        sys.modules.pop("fedx_core.pruners.own_masks", None)
    assert digest(bed, "own") == digest(bed, "again") != digest(bed, "dense")
    first, second = (report.traffic for report in reports)
    assert len({sent.uplink for sent in first.values()}) == 2
    for client, sent in first.items():
        assert sent.mask > 0
        assert sent.uplink < 0.7 * dense[0].traffic[client].uplink
        assert sent.downlink < 0.7 * dense[0].traffic[client].downlink
        assert second[client].mask == 0, "it holds its mask by now"
    folder = Path(bed.setting("own").place.store)
    kept = [path for path in folder.glob("masks-units/*") if path.is_file()]
    assert len(kept) == 2, "a mask is put once, whoever has it"
