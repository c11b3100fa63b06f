from pathlib import Path

import numpy as np
import pytest
import torch

from bed import tiny
from fedx_core.base import state
from fedx_core.base.errors import SchemaError
from fedx_core.base.state import StateDict
from fedx_core.clients.plan import Plan, pixels_of, plan_of, set_up
from fedx_core.images import set_folder
from fedx_core.images.examples import Examples
from fedx_core.images.moments import measure
from fedx_core.predict.heat_maps import HeatMaps, heat_maps, pruned
from fedx_core.pruning.masks import Mask


def some(
    root: Path, dataset: str, model: str = "resnet6", **overrides: object
) -> tuple[Plan, Examples]:
    read = set_folder.read(root / dataset / "reference")
    reference = read.parts["reference"]
    settings = tiny(dataset=dataset, model__name=model, **overrides)
    moments = measure(reference, read.description.scale)
    plan = plan_of(settings, read.description, pixels_of(settings, read.description, moments))
    few = slice(0, 5)
    return plan, Examples(
        np.array(reference.images[few]), reference.labels[few], reference.groups[few]
    )


def weights(plan: Plan, seed: int) -> StateDict:
    return state.copy(set_up(plan, seed).model.state_dict())


def explain(plan: Plan, data: Examples, *models: StateDict) -> tuple[HeatMaps, ...]:
    return heat_maps(plan, models, data.images, data.labels)


@pytest.mark.parametrize("own", [{}, {"method.relevance": {"name": "lrp", "low": "zplus"}}])
def test_relevance_of_all_pixels_is_the_logit_where_no_bias_takes_any(
    tiny_data: Path, own: dict[str, object]
) -> None:
    plan, data = some(tiny_data, "synthetic", **own)
    model = weights(plan, 1)
    model["fc.bias"] = torch.zeros_like(model["fc.bias"])
    [found] = explain(plan, data, model)
    assert found.maps.shape == (5, 32, 32)
    assert found.classes.tolist() == data.labels.tolist()
    np.testing.assert_allclose(found.sums, found.logits, rtol=2e-3, atol=1e-4)


def test_logits_and_probabilities_are_the_models(tiny_data: Path) -> None:
    plan, data = some(tiny_data, "synthetic")
    desk = set_up(plan, 1)
    with torch.no_grad():
        logits = desk.model.eval()(plan.pixels.to_input(data.images, torch.device("cpu")))
    [found] = explain(plan, data, state.copy(desk.model.state_dict()))
    rows = np.arange(5)
    np.testing.assert_allclose(found.logits, logits[rows, data.labels], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, logits.softmax(1)[rows, data.labels], rtol=1e-3)


def test_of_several_labels_the_one_that_the_last_model_is_surest_of_is_explained_by_all(
    tiny_data: Path,
) -> None:
    plan, data = some(tiny_data, "countries")
    first, last = weights(plan, 1), weights(plan, 2)
    # The bias decides: class 3 is surest wherever it is a label, else the highest of the labels.
    last["fc.weight"] = torch.zeros_like(last["fc.weight"])
    last["fc.bias"] = torch.arange(19.0)
    labels = data.labels.copy()
    labels[0] = 0
    before, after = heat_maps(plan, [first, last], data.images, labels)
    highest = [int(np.flatnonzero(row)[-1]) if row.any() else 18 for row in labels]
    assert before.classes.tolist() == after.classes.tolist() == highest
    np.testing.assert_allclose(after.probabilities, 1 / (1 + np.exp(-np.array(highest))), rtol=1e-5)
    assert not after.maps.any()
    assert before.maps.any()


def test_an_image_is_explained_alike_alone_and_among_others(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data = some(tiny_data, "synthetic")
    model = weights(plan, 1)
    kept = state.copy(model)
    [together] = explain(plan, data, model)
    monkeypatch.setattr("fedx_core.predict.heat_maps.BATCH", 2)
    [apart] = explain(plan, data, model)
    # Where a layer's sum is all but zero, the epsilon rule divides by it and rounding shows: one
    # pixel of 5,120 differs by two thousandths of the largest.
    largest = float(np.abs(together.maps).max())
    np.testing.assert_allclose(apart.maps, together.maps, rtol=1e-3, atol=5e-3 * largest)
    assert state.equal(model, kept)


def test_models_of_other_families_are_explained_too(tiny_data: Path) -> None:
    plan, data = some(tiny_data, "synthetic", "convnextv2_atto")
    [found] = explain(plan, data, weights(plan, 1))
    assert np.isfinite(found.maps).all()
    assert found.maps.any(axis=(1, 2)).all()


def test_a_pruned_model_has_no_pruned_unit(tiny_data: Path) -> None:
    plan, data = some(tiny_data, "synthetic")
    desk = set_up(plan, 1)
    model = state.copy(desk.model.state_dict())
    kept = {layer.name: torch.ones(layer.units, dtype=torch.bool) for layer in desk.graph.layers}
    kept["conv1"][:5] = False
    after = pruned(plan, model, Mask("units", kept))
    assert not after["conv1.weight"][:5].any()
    assert torch.equal(after["conv1.weight"][5:], model["conv1.weight"][5:])
    whole, half = explain(plan, data, model, after)
    assert not np.allclose(whole.maps, half.maps)


def test_images_and_models_that_do_not_fit_are_refused(tiny_data: Path) -> None:
    plan, data = some(tiny_data, "synthetic")
    with pytest.raises(SchemaError, match="2 bands, the model was trained on 3"):
        heat_maps(plan, [weights(plan, 1)], data.images[:, :2], data.labels)
    with pytest.raises(SchemaError):
        explain(plan, data, {"fc.bias": torch.zeros(10)})
