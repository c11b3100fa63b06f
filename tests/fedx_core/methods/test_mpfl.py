"""MPFL: how clients vote, what a consensus is, what travels, and what FedAvg then trains."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from alone import alone, ended, info_of
from bed import Bed, tiny_resnet6
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.methods.base import Local, Turn
from fedx_core.methods.mpfl import Method
from fedx_core.pruners.votes import Consensus, Pruner
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import RoundReport, ServerState, Update

INFO = info_of()
LAYERS = {layer.name: layer.units for layer in INFO.graph.layers}
BITS = sum(units // 8 for units in LAYERS.values())


def slow_consensus(rule: str, votes: list[list[int]], alive: list[int], p: float) -> list[int]:
    """The rules once more, filter by filter, from votes of 0 and 1."""
    clients, filters = len(votes), len(votes[0])
    count = [sum(vote[c] for vote in votes) for c in range(filters)]
    if rule == "quota":
        wanted = sum(alive) - int(p * sum(alive))
        order = sorted((c for c in range(filters) if alive[c]), key=lambda c: (-count[c], c))
        return [int(c in order[:wanted]) for c in range(filters)]
    if rule == "histogram":
        ones = sum(count)
        quorum = clients if ones > 0.05 * clients * filters else 1
    else:
        quorum = {"unanimous": clients, "majority": clients / 2}[rule]
    return [int(n >= quorum) for n in count]


@pytest.mark.parametrize("rule", ["quota", "unanimous", "majority", "histogram"])
@pytest.mark.parametrize("seed", range(6))
def test_a_consensus_is_what_its_rule_says(rule: Consensus, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    alive = torch.rand(20, generator=random) < 0.8
    clients = 4 + seed % 2
    votes = [(torch.rand(20, generator=random) < 0.7) & alive for _ in range(clients)]
    share = torch.stack(votes).double().mean(0)
    kept = Pruner(consensus=rule, prune_share=0.25).settled(share, alive)
    wanted = slow_consensus(rule, [v.int().tolist() for v in votes], alive.int().tolist(), 0.25)
    assert kept.int().tolist() == wanted
    assert kept.any()
    assert not kept[~alive].any()


@pytest.mark.parametrize("rule", ["unanimous", "majority"])
def test_a_layer_on_which_nobody_agrees_keeps_its_most_wanted_filter(rule: Consensus) -> None:
    share = torch.tensor([0.0, 0.2, 0.4, 0.4])
    assert Pruner(consensus=rule).settled(share, None).tolist() == [False, False, True, False]


def test_hardly_any_votes_make_the_histogram_keep_all_that_anybody_keeps() -> None:
    share = torch.zeros(100)
    share[3] = 0.25
    assert Pruner(consensus="histogram").settled(share, None).nonzero().tolist() == [[3]]


def test_a_vote_drops_the_share_of_what_is_left_with_the_smallest_norms() -> None:
    weight = torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    alive = torch.ones(10, dtype=torch.bool)
    alive[[2, 5]] = False
    norms = {c: float(weight[c].square().sum()) for c in range(10) if c not in (2, 5)}
    order = sorted(norms, key=lambda c: norms[c])
    wanted = [c not in (2, 5, *order[:2]) for c in range(10)]  # floor(0.3 * 8) = 2 go
    assert Method(prune_share=0.3).vote(weight, alive).tolist() == wanted
    assert int(Method(prune_share=0.05).vote(weight, None).sum()) == 10


def test_the_code_rounds_a_share_as_torchs_pruning_does() -> None:
    weight = torch.randn(13, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    for share in (0.1, 0.2, 0.3, 0.5, 0.9):
        layer = nn.Conv2d(3, 13, 2)
        layer.weight = nn.Parameter(weight)
        prune.ln_structured(layer, "weight", share, n=2, dim=0)
        once = layer.weight_mask.flatten(1).any(1)  # type: ignore[operator] # torch adds it
        prune.ln_structured(layer, "weight", share, n=2, dim=0)
        twice = layer.weight_mask.flatten(1).any(1)  # type: ignore[operator]
        method = Method(prune_share=share, code_compat=True)
        assert torch.equal(method.vote(weight, None), once)
        if twice.any():  # one filter is always kept here
            assert torch.equal(method.vote(weight, once), twice)
    assert int(Method(prune_share=0.2).vote(weight, None).sum()) == 11  # floor(2.6) = 2 go
    assert int(Method(prune_share=0.2, code_compat=True).vote(weight, None).sum()) == 10


class Watched(Local):
    """Keeps the model that training begins with, and does not train."""

    seen: list[dict[str, Tensor]] = []  # noqa: RUF012 # emptied by the test that reads it

    def fit(self, rule: object = None) -> float:
        self.seen.append(state.copy(self.model.state_dict()))
        return 1.0


def test_every_vote_is_trained_from_the_same_start_under_the_mask_of_the_round() -> None:
    mask = Mask("units", {n: torch.arange(units) % 3 > 0 for n, units in LAYERS.items()})
    sent = alone(variant="first vote")
    update = Method().train(sent)
    assert update.memory is not None
    start = state.section(update.memory, "start")
    assert state.equal(start, state.section(sent.downlink, "model"))
    assert not torch.equal(sent.model.state_dict()["conv1.weight"], start["conv1.weight"])
    Watched.seen.clear()
    later = alone(variant="vote", downlink={}, memory=dict(update.memory), mask=mask)
    vote = Method().train(Watched(**vars(later)))
    support = INFO.graph.support(mask, "slices")
    assert state.equal(Watched.seen[0], masks.apply(start, support))
    assert vote.memory is not None
    assert state.equal(vote.memory, update.memory)
    for name, units in LAYERS.items():
        kept = vote.payload[f"vote/{name}"]
        assert not kept[~mask.entries[name]].any()
        left = int(mask.entries[name].sum())
        assert int(kept.sum()) == left - left // 10
        assert int(update.payload[f"vote/{name}"].sum()) == units - units // 10


def test_the_servers_start_is_masked_and_disagreement_is_counted() -> None:
    server = ServerState(round_index=0, model=state.copy(alone().model.state_dict()))
    votes = []
    for skip in (0, 1):
        kept = {n: torch.arange(units) >= 2 for n, units in LAYERS.items()}
        kept["conv1"] = torch.arange(64) != skip
        votes.append(Update(client="c", payload=state.as_section(kept, "vote"), examples=9 + skip))
    method = Method(consensus="unanimous")
    after = ended(method, server, INFO, votes)
    assert after.mask is not None
    assert after.mask.entries["conv1"].nonzero().reshape(-1).tolist() == list(range(2, 64))
    assert not after.model["conv1.weight"][:2].any()
    assert not after.model["bn1.weight"][:2].any()
    assert torch.equal(after.model["conv1.weight"][2:], server.model["conv1.weight"][2:])
    found = method.measured(server, after, INFO)
    assert found["disagreement"] == pytest.approx(2 / 64 / 6)
    assert found["churn"] == pytest.approx(12 / 576)
    assert method.parts.pruner.to_come(after)


def run(bed: Bed, **method: Any) -> tuple[list[ServerState], list[RoundReport], Setting]:
    settings = tiny_resnet6(
        **{"method__name": "mpfl", "method__iterations": 2, "federation__keep_states": 9, **method}
    )
    setting = bed.setting()
    reports = list(federate(settings, setting, InProcess(1)))
    store = open_store(setting.place.store)
    commits = Journal(store).commits()
    return [checkpoint.unpack_server_state(store.get(c.state)) for c in commits], reports, setting


@pytest.mark.parametrize("shrink", [True, False])
def test_votes_take_a_bit_a_filter_and_then_kept_filters_travel(bed: Bed, shrink: bool) -> None:
    states, reports, _ = run(bed, federation__rounds=4, training__shrink=shrink)
    whole = sum(v.numel() * v.element_size() for v in states[0].model.values())
    sent = [next(iter(report.traffic.values())) for report in reports]
    assert [s.uplink for s in sent[:2]] == [HEADER.size + BITS] * 2
    assert [s.downlink for s in sent[:2]] == [HEADER.size + whole, HEADER.size]
    assert [s.mask for s in sent] == [0, HEADER.size + BITS, HEADER.size + BITS, 0]
    mask = states[2].mask
    assert mask is not None
    # A filter takes its row, two parameters and two statistics of BatchNorm.
    gone = sum(
        int((~mask.entries[layer.name]).sum()) * (INFO.graph.paper_scalars(layer) + 3)
        for layer in INFO.graph.layers
    )
    assert {s.downlink for s in sent[2:]} | {s.uplink for s in sent[2:]} == {
        HEADER.size + whole - 4 * gone
    }
    parameters = sum(
        v.numel() for n, v in states[0].model.items() if "running" not in n and "num" not in n
    )
    assert reports[0].paper_bytes == 3 * (2 * BITS + 4 * parameters)
    assert reports[1].paper_bytes == 3 * 2 * BITS
    assert reports[2].paper_bytes == 24 * (parameters - sum(
        int((~mask.entries[x.name]).sum()) * INFO.graph.paper_scalars(x) for x in INFO.graph.layers
    ))  # fmt: skip
    # Masks are nested, hold from the last vote on, and what they leave of the start is trained.
    kept = [s.mask.entries for s in states[1:] if s.mask]
    for name in LAYERS:
        assert not (kept[1][name] & ~kept[0][name]).any()
        assert torch.equal(kept[1][name], kept[3][name])
    support = INFO.graph.support(mask, "slices")
    assert state.equal(states[2].model, masks.apply(states[0].model, support))
    for name, value in states[4].model.items():
        if name in support:
            assert not value[~support[name].expand(value.shape)].any(), name
    assert not torch.equal(states[4].model["fc.weight"], states[0].model["fc.weight"])
    assert reports[0].method_metrics["churn"] == pytest.approx(0.09, abs=0.02)
    assert reports[2].method_metrics == {"disagreement": 0.0, "churn": 0.0}
    assert reports[3].sparsity == pytest.approx(0.18, abs=0.03)


def test_a_client_that_joins_late_is_sent_what_is_left_of_the_start(bed: Bed) -> None:
    states, reports, _ = run(
        bed, federation__participation=0.3, federation__rounds=3, method__iterations=3
    )
    met: set[str] = set()
    for report, before in zip(reports, states, strict=False):
        (client,) = report.cohort
        sent = report.traffic[client]
        alive = state.count({n: v[v != 0] for n, v in before.model.items() if v.ndim > 1})
        assert (sent.downlink > 4 * alive) == (client not in met)
        assert sent.uplink == HEADER.size + BITS
        met.add(client)
    assert len(met) > 1


def test_a_turn_says_what_a_client_exchanges() -> None:
    def turn(round_index: int, purpose: str, returning: bool) -> str:
        here = Turn(client="a", place=0, round_index=round_index, purpose=purpose,
                    returning=returning)  # fmt: skip
        return Method(iterations=2).variant(here, INFO)

    assert turn(1, "train", False) == "first vote"
    assert turn(2, "train", True) == "vote"
    assert turn(3, "train", True) == turn(3, "train", False) == ""
    assert turn(1, "evaluate", True) == ""


def test_models_whose_units_are_no_filters_are_refused() -> None:
    with pytest.raises(ConfigError, match="votes on filters of convolutions"):
        Method().check(info_of("vit_base_patch16_224"))
    Method().check(info_of("convnextv2_atto"))


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="iterations must be"):
        Method(iterations=0)
    with pytest.raises(ConfigError, match="prune_share must lie"):
        Method(prune_share=1)
    with pytest.raises(ConfigError, match="consensus must be one of quota"):
        Method(consensus="acclamation")
