"""FedDST against a slow restatement of its algorithm, and what it sends against a formula."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alone import alone, desk_of, ended, nowhere
from bed import Bed, tiny
from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.client import Place
from fedx_core.codec.masked import Codec
from fedx_core.learning.training import batches
from fedx_core.methods.feddst import Method, adjust
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import (
    ClientFailure,
    ClientJob,
    RoundReport,
    ServerState,
    Update,
)

NOWHERE = nowhere()


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_a_client_drops_its_smallest_and_grows_the_steepest_among_the_rest() -> None:
    value = torch.tensor([3.0, -1.0, 2.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    gradient = torch.tensor([9.0, 0.1, 9.0, 0.2, -5.0, 0.3], dtype=torch.float64)
    kept = bools(1, 1, 1, 1, 0, 0)
    now, mask = adjust(value, gradient, kept, 0.5)
    # Dropped: 0.5 and -1. Grown: of places 1, 3, 4, 5 the gradients -5 and 0.3.
    assert mask.tolist() == [True, False, True, False, True, True]
    assert now.tolist() == [3.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    now, mask = adjust(value, gradient, kept, 0.5, anywhere=True)
    # The code grows where gradients are largest of all: kept weights lose their values.
    assert mask.tolist() == [True, False, True, False, False, False]
    assert not now.any()


def test_the_share_that_moves_falls_as_a_cosine_in_the_rounds_that_adjust() -> None:
    method = Method(adjust_every=3, adjust_until=8, adjust_share=0.4)
    for round_index in range(1, 12):
        due = round_index in (1, 4, 7)
        wanted = 0.2 * (1 + math.cos(math.pi * round_index / 8)) if due else 0.0
        assert method.share(round_index) == pytest.approx(wanted)
    compat = Method(adjust_every=3, adjust_until=8, adjust_share=0.4, code_compat=True)
    # The code counts rounds from 0, and adjusts in its rounds 1, 4 and 7: our 2, 5 and 8.
    assert [r for r in range(1, 15) if compat.share(r)] == [2, 5, 8]
    assert {compat.share(r) for r in (2, 5, 8)} == {0.4}


def test_a_layer_that_is_dense_loses_nothing_and_the_code_wipes_it() -> None:
    value = torch.tensor([3.0, -1.0, 2.0, 0.5])
    kept = torch.ones(4, dtype=torch.bool)
    gradient = torch.tensor([0.1, 9.0, 0.2, 8.0])
    now, mask = adjust(value, gradient, kept, 0.5)
    assert torch.equal(now, value)
    assert mask.all()
    now, mask = adjust(value, gradient, kept, 0.5, anywhere=True)
    assert now.tolist() == [3.0, 0.0, 2.0, 0.0]
    assert mask.all()


def test_a_weight_that_goes_and_comes_back_at_once_keeps_its_value() -> None:
    value, kept = torch.tensor([3.0, -1.0, 0.5, 0.0]), bools(1, 1, 1, 0)
    now, mask = adjust(value, torch.tensor([0.0, 9.0, 0.0, 5.0]), kept, 2 / 3)
    assert mask.tolist() == [True, True, False, True]
    assert now.tolist() == [3.0, -1.0, 0.0, 0.0]


def test_weights_grow_by_the_gradient_of_the_last_batch_at_the_trained_weights() -> None:
    newcomer = alone()
    method = Method(sparsity=0.5, adjust_share=0.3)
    server = method.start(state.section(newcomer.downlink, "model"))
    assert server.mask is not None
    kept = server.mask.entries
    local = alone(downlink=method.downlink(server, newcomer.desk), mask=server.mask)
    update = method.train(local)
    trained = state.copy(local.model.state_dict())  # as training left it, before the mask moved
    images, labels = list(batches(local.examples, local.desk.plan.training, seeding.derive(5, 0)))[
        -1
    ]
    slow = alone().model.train()
    slow.load_state_dict(trained)
    inputs = local.desk.plan.pixels.to_input(images, torch.device("cpu"))
    functional.cross_entropy(slow(inputs), torch.from_numpy(labels)).backward()
    moved = 0
    for name, parameter in slow.named_parameters():
        if name not in kept:
            continue
        assert parameter.grad is not None
        wanted, mask = adjust(trained[name], parameter.grad, kept[name], method.share(1))
        assert torch.equal(update.payload[f"moved/{name}"], mask ^ kept[name]), name
        assert torch.equal(update.payload[f"model/{name}"], wanted), name
        moved += int((mask ^ kept[name]).sum())
    assert moved > 0
    # Asking for that gradient counted no batch a second time.
    counts = [v for n, v in trained.items() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {local.desk.plan.training.epochs * 3}


def averaged(
    weights: Sequence[int], models: Sequence[list[float]], masks: Sequence[list[int]]
) -> list[float]:
    """Average over the clients that hold a weight, one weight at a time."""
    found = []
    for place in range(len(models[0])):
        holders = [i for i in range(len(models)) if masks[i][place]]
        total = sum(weights[i] for i in holders)
        found.append(sum(weights[i] * models[i][place] for i in holders) / total if total else 0.0)
    return found


def test_the_server_averages_over_holders_and_keeps_as_many_as_before() -> None:
    before = [1, 1, 1, 0, 0]
    held = [[1, 1, 0, 1, 0], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]]
    models = [[1.0, 2.0, 0.0, -9.0, 0.0], [4.0, 0.5, 0.3, 0.0, 0.0], [-1.0, 0.0, 0.1, -3.0, 0.0]]
    sizes = (1, 2, 5)
    server = ServerState(
        round_index=5,  # the next one adjusts
        model={"a.weight": torch.zeros(5, dtype=torch.float64), "a.bias": torch.zeros(1)},
        mask=Mask("parameters", {"a.weight": bools(*before)}),
    )
    updates = [
        Update(
            client=str(i),
            payload={
                "still/all": torch.tensor([held[i] == before]),
                "moved/a.weight": bools(*held[i]) ^ bools(*before),
                "model/a.weight": torch.tensor(models[i], dtype=torch.float64),
                "model/a.bias": torch.tensor([float(i)]),
            },
            examples=sizes[i],
        )
        for i in range(3)
    ]
    after = ended(Method(), server, NOWHERE, updates)
    mean = averaged(sizes, models, held)
    largest = sorted(range(5), key=lambda place: -abs(mean[place]))[:3]
    wanted = [mean[place] if place in largest else 0.0 for place in range(5)]
    assert torch.allclose(after.model["a.weight"], torch.tensor(wanted, dtype=torch.float64))
    assert after.mask is not None
    assert after.mask.entries["a.weight"].nonzero().reshape(-1).tolist() == sorted(largest)
    assert after.model["a.bias"].item() == pytest.approx((0 + 2 + 10) / 8)
    assert Method().measured(server, after, NOWHERE)["churn"] == pytest.approx(1 / 3)


def test_equal_masks_give_federated_averaging_to_the_bit(bed: Bed) -> None:
    store, reports = run(bed, "masked", adjust_until=0)
    assert all(report.method_metrics["churn"] == 0 for report in reports)
    masks = [found.mask for found in store]
    assert masks[0] is not None
    assert len({mask.digest() for mask in masks if mask}) == 1
    for name, kept in masks[0].entries.items():
        assert not store[-1].model[name][~kept].any()
        assert store[-1].model[name][kept].all()


def run(
    bed: Bed, codec: str, runtime: InProcess | None = None, **method: object
) -> tuple[list[ServerState], list[RoundReport]]:
    setting = bed.setting(codec)
    settings = tiny(
        method__name="feddst",
        codec__name=codec,
        federation__keep_states=9,
        federation__min_reports=1,
        federation__attempts=1,
        **{f"method__{name}": value for name, value in method.items()},
    )
    reports = list(federate(settings, setting, runtime or InProcess(1)))
    store = open_store(setting.place.store)
    commits = Journal(store).commits()
    return [checkpoint.unpack_server_state(store.get(c.state)) for c in commits], reports


@pytest.mark.parametrize("codec", ["masked", "dense"])
def test_what_travels_is_kept_weights_and_a_bit_a_weight_where_masks_move(
    bed: Bed, codec: str
) -> None:
    states, reports = run(bed, codec, adjust_every=2, adjust_until=3, adjust_share=0.3)
    mask = states[0].mask
    assert mask is not None
    values = sum(v.numel() * v.element_size() for v in states[0].model.values())
    sparse = values - (4 * (mask.size - mask.kept) if codec == "masked" else 0)
    bits = sum((kept.numel() + 7) // 8 for kept in mask.entries.values())
    for report, moves in zip(reports, (True, False, False), strict=True):
        share = 0.3 / 2 * (1 + math.cos(math.pi / 3)) if moves else 0.0
        assert report.method_metrics["client_churn"] <= share + 1e-3
        assert (report.method_metrics["client_churn"] > share / 2) == moves
        for traffic in report.traffic.values():
            assert traffic.downlink == sparse + HEADER.size
            assert traffic.uplink == sparse + HEADER.size + 1 + (bits if moves else 0)
            new = report.round_index < 3  # the first mask, and that of the first round
            assert traffic.mask == (bits + HEADER.size if new else 0)
        assert report.sparsity == pytest.approx(0.8, abs=1e-4)
        parameters = sum(
            v.numel() for n, v in states[0].model.items() if "running" not in n and "num" not in n
        )
        assert report.paper_bytes == 3 * 2 * 4 * (parameters - mask.size + mask.kept)
    assert reports[0].method_metrics["churn"] > 0


def test_clients_that_follow_the_code_send_fewer_weights_than_they_were_sent(bed: Bed) -> None:
    states, reports = run(
        bed, "masked", adjust_every=1, adjust_until=9, adjust_share=0.3, code_compat=True
    )
    mask = states[0].mask
    assert mask is not None
    bits = sum((kept.numel() + 7) // 8 for kept in mask.entries.values())
    for traffic in reports[0].traffic.values():
        # Of what grows, some was kept; so as many fewer weights travel, four bytes each.
        missing = traffic.downlink + 1 + bits - traffic.uplink
        assert 0 < missing <= 4 * 0.3 * mask.kept + 4 * len(mask.entries)
        assert missing % 4 == 0
    assert all(report.sparsity >= 1 - mask.kept / mask.size for report in reports)
    assert all(report.method_metrics["adjust_share"] == 0.3 for report in reports)


class Absent(InProcess):
    """A carrier on which one client is lost in the first round and joins in the second."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if (job.round_index, job.client) == (1, "client-01"):
            return ClientFailure(client=job.client, attempt=job.attempt, reason="away")
        return super().do(job, place)


def test_a_client_that_joins_late_is_charged_the_mask_that_it_lacks(bed: Bed) -> None:
    _, reports = run(bed, "masked", Absent(1), adjust_every=2, adjust_until=2, adjust_share=0.3)
    assert [len(report.failures) for report in reports] == [1, 0, 0]
    assert reports[1].traffic["client-01"].mask == reports[1].traffic["client-00"].mask > 0
    assert reports[2].traffic["client-01"].mask == 0


@pytest.mark.parametrize("name", ["resnet18", "convnextv2_atto"])
@pytest.mark.parametrize("code_compat", [False, True])
def test_every_convolution_and_linear_layer_of_a_model_is_masked_and_nothing_else(
    name: str, code_compat: bool
) -> None:
    model = catalogue.build(name, 3, 10, seed=0)
    entry = catalogue.entry(name)
    info = desk_of(model, entry.graph(model))
    method = Method(sparsity=0.8, code_compat=code_compat)
    server = method.start(model.state_dict())
    assert server.mask is not None
    wanted = [
        f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert list(method.masked(info)) == list(server.mask.entries) == wanted
    assert server.mask.kept / server.mask.size == pytest.approx(0.2, abs=0.01)
    codec = Codec()
    wire = method.schema(info, server.mask, codec.mode)
    payload = method.downlink(server, info)
    assert state.equal(codec.decode(codec.encode(payload, wire.down, {}, 0)[0], wire.down), payload)


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left"):
        Method(sparsity=1)
    with pytest.raises(ConfigError, match="adjust_share must lie"):
        Method(adjust_share=0)
    with pytest.raises(ConfigError, match="adjust_every must be 1"):
        Method(adjust_every=0)
