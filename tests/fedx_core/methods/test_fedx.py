import math
from itertools import pairwise

import pytest
import torch

from alone import alone, desk_of, pruned
from bed import Bed, tiny_resnet6
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.methods import base
from fedx_core.methods.fedx import Method
from fedx_core.models import catalogue
from fedx_core.pruners.relevance import Masking, Pruner
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import UnitGraph
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport, ServerState, Update


def graph_of(name: str = "resnet6") -> tuple[torch.nn.Module, UnitGraph]:
    model = catalogue.build(name, 3, 10, seed=0)
    entry = catalogue.entry(name)
    return model, entry.graph(model)


def run(bed: Bed, name: str = "run", **overrides: object) -> tuple[list[RoundReport], ServerState]:
    setting = bed.setting(name)
    settings = tiny_resnet6(federation__rounds=4, federation__keep_states=9, **overrides)
    reports = list(federate(settings, setting, InProcess(1)))
    return reports, last_state(setting.place.store)


def last_state(uri: str, round_index: int = -1) -> ServerState:
    store = open_store(uri)
    commit = Journal(store).commits()[round_index]
    return checkpoint.unpack_server_state(store.get(commit.state))


def test_the_mask_appears_after_the_warm_up_and_stays(bed: Bed) -> None:
    reports, final = run(bed)
    assert [report.pruned for report in reports] == [False, True, False, False]
    assert [round(report.sparsity, 3) for report in reports] == [0.0, 0.5, 0.5, 0.5]
    assert final.mask is not None
    assert all(
        int((~kept).sum()) == math.floor(0.5 * len(kept)) for kept in final.mask.entries.values()
    )
    after_event = last_state(bed.setting().place.store, 2)
    assert after_event.mask is not None
    assert after_event.mask.digest() == final.mask.digest()


def test_accuracy_is_reported_before_right_after_and_after_recovery(bed: Bed) -> None:
    reports, _ = run(bed)
    assert set(reports[1].metrics_before_pruning) == {"overall_accuracy", "macro_f1", "loss"}
    assert reports[1].metrics_before_pruning["loss"] != reports[1].metrics["loss"]
    assert reports[0].metrics_before_pruning == reports[2].metrics_before_pruning == {}


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_dead_entries_are_exactly_zero_after_local_training(bed: Bed, memory_format: str) -> None:
    _, final = run(bed, training__memory_format=memory_format)
    _, graph = graph_of()
    support = graph.support(final.mask, "slices")
    for name, kept in support.items():
        dead = final.model[name][~kept.expand(final.model[name].shape)]
        assert not dead.any(), name
    assert final.mask is not None
    assert final.model["conv1.weight"][final.mask.entries["conv1"]].all()


def learned(masking: Masking) -> tuple[StateDict, Update, Mask, UnitGraph]:
    """What a client's model is at the end of local training, and its update."""
    newcomer = alone()
    method, graph = Method(pruning_rate=0.5, warmup_rounds=1, mask=masking), newcomer.desk.graph
    scores = {x.name: torch.rand(x.units, generator=torch.manual_seed(0)) for x in graph.layers}
    model = state.section(newcomer.downlink, "model")
    shifts = {f"{x.measured_at}.bias": torch.full((x.units,), 0.1) for x in graph.layers}
    start = ServerState(round_index=1, model=model | shifts)  # as training leaves some of them
    server = pruned(method, start, newcomer.desk, scores)
    assert server.mask is not None
    local = alone(downlink=method.downlink(server, newcomer.desk), mask=server.mask)
    base.load(local)
    local.fit(method.rule(local))
    trained = state.copy(local.model.state_dict())
    return trained, method.finish(local, 0.0), server.mask, graph


def test_mask_row_lets_dead_rows_come_back_within_a_round_and_masks_them_after_it() -> None:
    trained, update, mask, graph = learned("row")
    sent = state.section(update.payload, "model")
    back = torch.cat([
        trained[x.weight][~mask.entries[x.name]].flatten(1).any(1) for x in graph.layers
    ])  # fmt: skip
    assert update.metrics["rows_regrown"] == pytest.approx(back.double().mean().item())
    for layer in graph.layers:
        dead = ~mask.entries[layer.name]
        assert trained[layer.weight][dead].any(), layer.name
        assert not sent[layer.weight][dead].any(), layer.name
        scale = f"{layer.measured_at}.weight"
        assert sent[scale][dead].all(), "BatchNorm's scale is no row"
        assert torch.equal(sent[scale], trained[scale])


def test_mask_row_and_scale_leaves_both_at_zero_without_holding_them_there() -> None:
    trained, update, mask, graph = learned("row_and_scale")
    sent = state.section(update.payload, "model")
    assert update.metrics["rows_regrown"] == 0
    for layer in graph.layers:
        dead = ~mask.entries[layer.name]
        for found in (trained, sent):
            assert not found[layer.weight][dead].any(), layer.name
            assert not found[f"{layer.measured_at}.weight"][dead].any(), layer.name
        # The shift is not counted in Table I, and is free to move.
        assert sent[f"{layer.measured_at}.bias"][dead].any(), layer.name


def test_the_papers_masks_send_what_they_leave(bed: Bed) -> None:
    bytes_of, paper = {}, {}
    for masking in ("unit", "row_and_scale", "row"):
        reports, final = run(bed, masking, method__mask=masking, training__shrink=False)
        bytes_of[masking], paper[masking] = reports[-1].uplink_bytes, reports[-1].paper_bytes
    assert final.mask is not None
    dead = sum(int((~kept).sum()) for kept in final.mask.entries.values())
    assert bytes_of["row_and_scale"] - bytes_of["unit"] == 3 * 4 * 3 * dead  # shift, statistics
    assert bytes_of["row"] - bytes_of["row_and_scale"] == 3 * 4 * dead  # scale
    assert len(set(paper.values())) == 1, "the paper's ledger counts as Table I does"


def test_paper_mode_is_the_earlier_name_of_row_and_scale() -> None:
    assert Method(pruning_rate=0.5, paper_mode=True).masking == "row_and_scale"
    with pytest.raises(ConfigError, match="earlier name of mask: row_and_scale"):
        Method(pruning_rate=0.5, paper_mode=True, mask="row")
    with pytest.raises(ConfigError, match="mask"):
        Method(pruning_rate=0.5, mask="rows")  # type: ignore[arg-type]


def test_wire_bytes_are_the_formula_of_the_masked_format(bed: Bed) -> None:
    reports, final = run(bed)
    _, graph = graph_of()
    values = sum(4 * math.prod(s) for n, s in graph.shapes.items() if "num_batches" not in n)
    counters = 8 * sum("num_batches" in n for n in graph.shapes)
    whole = 64 + values + counters
    assert final.mask is not None
    # Structured transfer: a dead unit takes its row, BatchNorm's scale, shift and two statistics.
    dead = sum(
        4 * int((~final.mask.entries[x.name]).sum()) * (graph.paper_scalars(x) - 1 + 4)
        for x in graph.layers
    )
    for report, size in zip(reports, [whole, whole, whole - dead, whole - dead], strict=True):
        assert report.downlink_bytes == report.uplink_bytes == 3 * size
    bits = 64 + sum((layer.units + 7) // 8 for layer in graph.layers)
    assert [report.mask_bytes for report in reports] == [0, 0, 3 * bits, 0]


def test_paper_bytes_are_table_1s_and_kept_apart(bed: Bed) -> None:
    reports, final = run(bed)
    model, graph = graph_of()
    parameters = sum(p.numel() for p in model.parameters())
    assert final.mask is not None
    gone = sum(
        int((~final.mask.entries[x.name]).sum()) * graph.paper_scalars(x) for x in graph.layers
    )
    unpruned, pruned = 2 * 3 * 4 * parameters, 2 * 3 * 4 * (parameters - gone)
    assert [r.paper_bytes for r in reports] == [unpruned, unpruned, pruned, pruned]
    assert all(r.wire_bytes != r.paper_bytes for r in reports)


def test_a_rising_rate_makes_nested_masks(bed: Bed) -> None:
    reports, _ = run(
        bed,
        method__warmup_rounds=1,
        method__recompute_every=1,
        method__recompute_times=3,
        method__pruning_rate=0.6,
    )
    assert [round(report.sparsity, 1) for report in reports] == [0.2, 0.4, 0.6, 0.6]
    chain = [last_state(bed.setting().place.store, i).mask for i in (1, 2, 3)]
    for earlier, later in pairwise(chain):
        assert earlier is not None
        assert later is not None
        for name in earlier.entries:
            assert not (later.entries[name] & ~earlier.entries[name]).any()


def test_regrow_scores_dead_units_with_the_rows_they_had_before() -> None:
    model, graph = graph_of()
    info = desk_of(model, graph)
    method = Method(
        pruning_rate=0.5,
        warmup_rounds=1,
        recompute_every=1,
        recompute_times=2,
        regrow=True,
        relevance={"name": "magnitude"},
    )
    dense = state.copy(model.state_dict())
    start = ServerState(round_index=1, model=dense)
    low = {x.name: torch.arange(float(x.units)) for x in graph.layers}
    first = pruned(method, start, info, low)
    assert first.mask is not None
    assert not first.model["conv1.weight"][~first.mask.entries["conv1"]].any()
    # What is explained next has the old rows where units are dead, and today's where they live.
    relevance = method.parts.pruner
    assert isinstance(relevance, Pruner)
    explained = relevance.explained(info, first)
    assert all(torch.equal(explained[name], dense[name]) for name in dense)
    high = {name: -score for name, score in low.items()}
    later = ServerState(round_index=2, model=first.model, mask=first.mask, memory=first.memory)
    second = pruned(method, later, info, high)
    assert second.mask is not None
    back = second.mask.entries["conv1"] & ~first.mask.entries["conv1"]
    assert back.any()
    assert torch.equal(second.model["conv1.weight"][back], dense["conv1.weight"][back])


def test_the_criterion_is_asked_for_in_the_event_round_only() -> None:
    method = Method(pruning_rate=0.5, warmup_rounds=3)
    pruner = method.parts.pruner
    asked = [pruner.due(ServerState(round_index=r, model={}), ()) for r in range(7)]
    assert asked == [False, False, False, True, False, False, False]


def test_pruning_changes_no_argument() -> None:
    model, graph = graph_of()
    info = desk_of(model, graph)
    before = ServerState(round_index=10, model=state.copy(model.state_dict()))
    digest = state.digest(before.model)
    scores = {x.name: torch.rand(x.units) for x in graph.layers}
    after = pruned(Method(pruning_rate=0.9, warmup_rounds=10), before, info, scores)
    assert state.digest(before.model) == digest
    assert before.mask is None
    assert after.mask is not None
    assert state.equal(after.model, masks.apply(before.model, graph.support(after.mask, "slices")))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_keep"):
        Method(pruning_rate=0.5, min_keep=-1)
    with pytest.raises(ConfigError, match="regrow needs recompute_every"):
        Method(pruning_rate=0.5, regrow=True)
    with pytest.raises(ConfigError, match="one says nothing without the other: got 2 and 1; set"):
        Method(pruning_rate=0.5, recompute_every=2)
    with pytest.raises(ConfigError, match="one says nothing without the other: got 0 and 3; set"):
        Method(pruning_rate=0.5, recompute_times=3)
    with pytest.raises(ConfigError, match="needs a name"):
        Method(pruning_rate=0.5, relevance={"gamma": 1.0})
