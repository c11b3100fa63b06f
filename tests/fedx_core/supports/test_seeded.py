"""Few weights at places from the seed: how many, the same on both sides, and never any other."""

from typing import Any

import pytest
import torch

from bed import Bed, tiny_resnet6
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.supports.base import Support
from fedx_core.supports.seeded import Support as Seeded

SHAPES = {"a": (16, 3, 3, 3), "b": (64, 64, 3, 3), "c": (64, 16, 1, 1)}
WEIGHTS = 16 * 27 + 64 * 64 * 9 + 64 * 16
SPARSE: dict[str, Any] = {"method__name": "fedavg", "support": {"name": "seeded", "density": 0.05}}


def test_the_density_is_that_of_all_parameters() -> None:
    for density in (0.05, 0.1, 0.5, 1.0):
        kept = Seeded(density=density).choose(SHAPES, 500, 1)
        total = 500 + sum(int(places.sum()) for places in kept.values())
        assert total == pytest.approx(density * (WEIGHTS + 500), abs=2)


def test_small_layers_keep_a_larger_share_as_erdos_renyi_kernels_have_it() -> None:
    kept = Seeded(density=0.05).choose(SHAPES, 0, 1)
    shares = {name: float(places.float().mean()) for name, places in kept.items()}
    # epsilon * (sum of sides / weights), with one epsilon for all layers that are not dense
    sides = {name: sum(shape) / torch.Size(shape).numel() for name, shape in SHAPES.items()}
    epsilon = shares["b"] / sides["b"]
    assert shares["c"] == pytest.approx(min(1.0, epsilon * sides["c"]), rel=0.05)
    assert shares["c"] > shares["a"] > shares["b"]


@pytest.mark.parametrize("name", plugins.names("supports"))
def test_a_seed_gives_the_same_places_and_another_one_others(name: str) -> None:
    support: Support = plugins.build("supports", name, {})
    first, again, other = (support.choose(SHAPES, 100, seed) for seed in (1, 1, 2))
    assert first.keys() == again.keys() <= SHAPES.keys()
    assert all(torch.equal(places, again[key]) for key, places in first.items())
    assert all(tuple(p.shape) == SHAPES[key] and p.dtype == torch.bool for key, p in first.items())
    if first:
        assert any(not torch.equal(places, other[key]) for key, places in first.items())


def test_a_density_below_what_always_exists_is_refused_with_the_least_there_is() -> None:
    with pytest.raises(ConfigError, match=r"are 9000 of 47320 parameters.*more than 0.19, got 0.1"):
        Seeded(density=0.1).choose(SHAPES, 9000, 1)


def test_what_does_not_exist_is_zero_from_the_first_model_to_the_last_and_costs_nothing(
    bed: Bed,
) -> None:
    dense, sparse = bed.setting("dense"), bed.setting("sparse")
    whole = list(federate(tiny_resnet6(method__name="fedavg"), dense, InProcess(1)))
    reports = list(federate(tiny_resnet6(**SPARSE), sparse, InProcess(1)))
    model = final_model(open_store(sparse.place.store))
    parameters = {n: v for n, v in model.items() if "running" not in n and "batches" not in n}
    alive = sum(int((value != 0).sum()) for value in parameters.values())
    size = state.count(parameters)
    assert alive == pytest.approx(0.05 * size, rel=0.02)
    assert [report.mask_bytes for report in reports] == [0, 0, 0]
    statistics = 4 * (state.count(model) - size) + 4 * 6  # and a count of batches takes eight
    for before, after in zip(whole, reports, strict=True):
        assert before.uplink_bytes == 3 * (64 + 4 * size + statistics)
        assert after.uplink_bytes == 3 * (64 + 4 * alive + statistics)
        assert after.downlink_bytes == after.uplink_bytes
        assert after.paper_bytes == 3 * 8 * alive


@pytest.mark.parametrize(
    "settings",
    [
        {"method__name": "fedadam"},
        {"method__name": "fedprox"},
        {"method__name": "fedpaq"},
        {},  # fedx: units go, too, and clients train without them
        {"training__optimiser": "sgd", "training__momentum": 0.9, "method__name": "fedavg"},
    ],
)
def test_any_method_and_optimiser_trains_what_exists_and_nothing_else(
    settings: dict[str, Any], bed: Bed
) -> None:
    setting = bed.setting()
    sparse = {**settings, "support": {"name": "seeded", "density": 0.1}}
    list(federate(tiny_resnet6(**sparse), setting, InProcess(1)))
    model = final_model(open_store(setting.place.store))
    weights = [v for n, v in model.items() if v.ndim == 4]
    share = sum(int((v != 0).sum()) for v in weights) / sum(v.numel() for v in weights)
    assert 0.02 < share < 0.1


@pytest.mark.parametrize("method", ["feddst", "fedlp"])
def test_a_method_whose_clients_choose_weights_is_refused_before_anything_is_written(
    method: str, bed: Bed
) -> None:
    settings = tiny_resnet6(**{**SPARSE, "method__name": method})
    with pytest.raises(ConfigError, match="lets clients choose which weights they send"):
        next(federate(settings, bed.setting(), InProcess(1)))
    assert not bed.runs.joinpath("run").exists() or not any(bed.runs.joinpath("run").rglob("*"))
