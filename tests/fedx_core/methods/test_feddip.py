"""FedDIP against a slow restatement of its step and schedules, and what it sends."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alone import alone, desk_of, ended
from bed import Bed, tiny_resnet6
from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.learning.training import batches
from fedx_core.methods.base import Local, load
from fedx_core.methods.feddip import Method, prune_through
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.sparsity import erdos_renyi_kernel
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import RoundReport, ServerState, Update


def local(round_index: int, mask: Mask | None) -> Local:
    return alone(round_index=round_index, mask=mask)


def test_the_gradient_at_the_pruned_weights_moves_all_weights() -> None:
    value = torch.tensor([1.5, -2.0, 0.25], dtype=torch.float64, requires_grad=True)
    kept = torch.tensor([True, False, True])
    pruned = prune_through(value, kept)
    assert pruned.tolist() == [1.5, 0.0, 0.25]
    (pruned * torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [2.0, 3.0, 5.0]


def test_local_training_is_the_papers_step_written_out() -> None:
    method = Method(target_round=4, penalty=0.5, first_penalty=0.1)
    mask = method.first_mask(local(2, None).desk, seed=3)
    trained = local(2, mask)
    update = method.train(trained)
    slow = local(2, mask)
    load(slow)
    dense = {n: p.detach().clone().requires_grad_() for n, p in slow.model.named_parameters()}
    optimiser = torch.optim.Adam(
        dense.values(),
        lr=slow.desk.plan.training.learning_rate,
        weight_decay=slow.desk.plan.training.weight_decay,
    )
    slow.model.train()
    for images, labels in batches(
        slow.examples, slow.desk.plan.training, seeding.derive(slow.seed, 0)
    ):
        with torch.no_grad():
            for name, parameter in slow.model.named_parameters():
                kept = mask.entries.get(name, torch.ones(()))
                parameter.copy_(dense[name] * kept)
        slow.model.zero_grad()
        inputs = slow.desk.plan.pixels.to_input(images, torch.device("cpu"))
        functional.cross_entropy(slow.model(inputs), torch.from_numpy(labels)).backward()
        for name, parameter in slow.model.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            if name in mask.entries:
                norm = math.sqrt(float(parameter.detach().double().square().sum()))
                gradient = gradient + method.strength(2) * parameter.detach() / norm
            dense[name].grad = gradient
        optimiser.step()
    for name, value in dense.items():
        # Adam's step has one size, so a gradient of nearly zero may round to either side.
        apart = (update.payload[f"model/{name}"] - value.detach()).abs()
        assert (apart < 1e-5).double().mean() > 0.999, name
    pruned = ~mask.entries["layer2.0.conv2.weight"]
    sent = trained.downlink["model/layer2.0.conv2.weight"]
    assert (update.payload["model/layer2.0.conv2.weight"] != sent)[pruned].any()
    assert 0 < update.metrics["client_regrown"] < 1


def test_sparsity_rises_as_a_cube_and_the_penalty_in_twenty_steps() -> None:
    method = Method(sparsity=0.9, start_sparsity=0.5, target_round=40)
    for t in range(41):
        assert method.target(t + 1) == pytest.approx(0.9 + (0.5 - 0.9) * (1 - t / 40) ** 3)
        part = t * 20 // 40
        wanted = 0.0 if part == 0 else 5e-4 + 5e-4 / 19 * (min(part, 19) - 1)
        assert method.strength(t + 1) == pytest.approx(wanted)
    assert method.target(100) == 0.9
    assert Method(penalty=0).strength(20) == 0


def after(method: Method, mask: Mask | None, round_index: int, value: Tensor) -> ServerState:
    """The server's state once one client has sent conv1's weights."""
    info = local(1, None).desk
    model = state.section(local(1, None).downlink, "model")
    model = {n: torch.zeros_like(v) if n.endswith(".weight") else v for n, v in model.items()}
    model["conv1.weight"] = value
    server = ServerState(round_index=round_index, model=model, mask=mask)
    update = Update(client="a", payload=state.as_section(model, "model"), examples=1, metrics={})
    return ended(method, server, info, [update])


@pytest.mark.parametrize("code_compat", [False, True])
def test_what_came_back_at_the_clients_lives_again_but_for_the_codes_server(
    code_compat: bool,
) -> None:
    method = Method(
        sparsity=0.99, start_sparsity=0.99, reconfigure_every=1, code_compat=code_compat
    )
    shape = local(1, None).desk.entries["conv1.weight"][1]
    value = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    first = after(method, None, 0, value)
    assert first.mask is not None
    kept = first.mask.entries["conv1.weight"]
    size = sum(mask.numel() for mask in first.mask.entries.values())
    left = size - (round(0.99 * size) if code_compat else math.floor(0.99 * size))
    assert int(kept.sum()) == first.mask.kept == left
    again = torch.where(kept, value, value + 2)  # the clients brought back all that was pruned
    second = after(method, first.mask, 1, again)
    assert second.mask is not None
    both = second.mask.entries["conv1.weight"] & kept
    assert int(both.sum()) == (left if code_compat else 0)


def test_each_client_draws_a_first_mask_of_its_own_at_densities_by_erk() -> None:
    method, info = Method(start_sparsity=0.5), local(1, None).desk
    first, again, other = (method.first_mask(info, seed) for seed in (1, 1, 2))
    assert first.digest() == again.digest() != other.digest()
    assert "fc.weight" not in first.entries
    assert not [name for name in first.entries if "downsample" in name]
    counts = erdos_renyi_kernel({n: tuple(k.shape) for n, k in first.entries.items()}, 0.5)
    assert {n: int(k.sum()) for n, k in first.entries.items()} == counts


def run(bed: Bed, codec: str, **method: object) -> tuple[list[ServerState], list[RoundReport]]:
    setting = bed.setting(f"{codec}-{len(method)}")
    settings = tiny_resnet6(
        method__name="feddip",
        codec__name=codec,
        federation__keep_states=9,
        training__learning_rate=0.05,
        **{f"method__{name}": value for name, value in method.items()},
    )
    reports = list(federate(settings, setting, InProcess(1)))
    store = open_store(setting.place.store)
    commits = Journal(store).commits()
    return [checkpoint.unpack_server_state(store.get(c.state)) for c in commits], reports


@pytest.mark.parametrize("prune_upload", [False, True])
def test_what_travels_follows_the_mask_downwards_and_upwards_if_asked(
    bed: Bed, prune_upload: bool
) -> None:
    states, reports = run(
        bed,
        "masked",
        reconfigure_every=2,
        target_round=3,
        prune_upload=prune_upload,
        sparsity=0.55,
        start_sparsity=0.5,
    )
    method = Method(reconfigure_every=2, target_round=3, prune_upload=prune_upload, sparsity=0.55)
    assert states[0].mask is None
    digests = [s.mask.digest() for s in states if s.mask]
    assert digests[0] == digests[1] != digests[2]
    whole = sum(v.numel() * v.element_size() for v in states[0].model.values())
    parameters = sum(
        v.numel() for n, v in states[0].model.items() if "running" not in n and "num" not in n
    )
    held = None
    for before, after, report in zip(states, states[1:], reports, strict=False):
        gone = before.mask.size - before.mask.kept if before.mask else 0
        sent = before.mask.digest() if before.mask else None
        bits = sum((k.numel() + 7) // 8 for k in before.mask.entries.values()) if before.mask else 0
        for traffic in report.traffic.values():
            assert traffic.downlink == whole - 4 * gone + HEADER.size
            assert traffic.uplink == whole - 4 * (gone if prune_upload else 0) + HEADER.size
            assert traffic.mask == (0 if sent == held else bits + HEADER.size)
        held = sent
        kept = parameters - gone
        assert report.paper_bytes == 12 * (kept + (kept if prune_upload else parameters))
        assert after.mask is not None
        for name, value in after.mask.entries.items():
            assert not after.model[name][~value].any()
        due = after.round_index in (1, 3)
        at = after.round_index if due else after.round_index - 1
        assert report.sparsity == pytest.approx(method.target(at), abs=1e-5)
        assert report.units_kept["conv1"][1] == after.model["conv1.weight"].numel()
    # What was pruned is trained all the same; sent up, it can come back.
    assert reports[1].method_metrics["client_regrown"] > 0
    assert (reports[2].method_metrics["churn"] == 0) == prune_upload


def test_models_without_convolutions_by_that_name_are_pruned_too() -> None:
    model = catalogue.build("vit_base_patch16_224", 3, 4, seed=0)
    info = desk_of(model, catalogue.entry("vit_base_patch16_224").graph(model))
    names = Method().masked(info)
    assert "blocks.0.attn.qkv.weight" in names
    assert not {"head.weight", "pos_embed", "norm.weight"} & set(names)


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="no larger than the second"):
        Method(sparsity=0.4)
    with pytest.raises(ConfigError, match="target_round and reconfigure_every"):
        Method(reconfigure_every=0)
    with pytest.raises(ConfigError, match="penalty and first_penalty"):
        Method(penalty=-1)
