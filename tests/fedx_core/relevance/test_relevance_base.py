import pytest
import torch
from torch import nn

from fedx_core.base.errors import ConfigError, ReferenceSetError
from fedx_core.models import catalogue
from fedx_core.pruning.structure import UnitLayer
from fedx_core.relevance import base


def test_an_empty_reference_set_is_refused() -> None:
    with pytest.raises(ReferenceSetError, match="the reference set is empty"):
        base.Reference(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))


def test_a_reference_image_with_nan_is_refused_by_its_number() -> None:
    images = torch.zeros(4, 3, 8, 8)
    images[2, 1, 0, 0] = float("nan")
    with pytest.raises(ReferenceSetError, match=r"1 of 4 reference images hold NaN.* number 2"):
        base.Reference(images, torch.zeros(4, dtype=torch.int64))


def test_images_without_targets_are_refused() -> None:
    with pytest.raises(ReferenceSetError, match="3 reference images with 2 targets"):
        base.Reference(torch.zeros(3, 3, 8, 8), torch.zeros(2, dtype=torch.int64))


def test_images_without_bands_are_refused() -> None:
    with pytest.raises(ReferenceSetError, match="wanted"):
        base.Reference(torch.zeros(3, 8, 8), torch.zeros(3, dtype=torch.int64))


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ReferenceSetError, match=r"from 0 to 3.*classes 0 to 2"):
        base.positives(logits, torch.tensor([0, 3]))
    with pytest.raises(ReferenceSetError, match="5 classes, the model has 3"):
        base.positives(logits, torch.zeros(2, 5))


def test_positives_marks_each_label() -> None:
    logits = torch.zeros(2, 3)
    assert base.positives(logits, torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    many = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.uint8)
    assert base.positives(logits, many).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_a_missing_reference_set_is_named() -> None:
    with pytest.raises(ReferenceSetError, match="no reference set"):
        base.required(None)


def test_an_unknown_choice_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="signed, abs_of_spatial_sum, abs_elementwise"):
        base.check_choice("aggregation", "abs", base.Aggregation)


def layer(units: int, unit_dim: int) -> UnitLayer:
    return UnitLayer(name="l", units=units, measured_at="l", unit_dim=unit_dim)


def test_a_map_is_summed_over_space_before_the_absolute_value() -> None:
    values = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]]])  # (1, 2 channels, 1, 2)
    channels_last = values.movedim(1, -1)
    wanted = {"signed": [-2, 4], "abs_of_spatial_sum": [2, 4], "abs_elementwise": [4, 4]}
    for aggregation, expected in wanted.items():
        assert base.by_unit(values, layer(2, 1), aggregation).tolist() == [expected]
        assert base.by_unit(channels_last, layer(2, -1), aggregation).tolist() == [expected]


def test_a_token_is_made_absolute_before_tokens_are_summed() -> None:
    values = torch.tensor([[[1.0, 2.0], [-3.0, 2.0]]])  # (1, 2 tokens, 2 channels)
    wanted = {"signed": [-2, 4], "abs_of_spatial_sum": [4, 4], "abs_elementwise": [4, 4]}
    for aggregation, expected in wanted.items():
        assert base.by_unit(values, layer(2, -1), aggregation).tolist() == [expected]


def test_a_head_sums_its_channels_first() -> None:
    values = torch.tensor([[[1.0, -2.0, 5.0, 1.0], [3.0, 1.0, -1.0, -1.0]]])  # 2 heads of 2
    wanted = {"signed": [3, 4], "abs_of_spatial_sum": [5, 8], "abs_elementwise": [7, 8]}
    for aggregation, expected in wanted.items():
        assert base.by_unit(values, layer(2, -1), aggregation).tolist() == [expected]


def test_values_without_positions_count_as_they_are() -> None:
    assert base.by_unit(torch.tensor([[1.0, -2.0]]), layer(2, -1), "signed").tolist() == [[1, -2]]


def test_samples_are_averaged_across_batches_of_unequal_size() -> None:
    model = catalogue.build("resnet6", 1, 2, seed=0)
    graph = catalogue.entry("resnet6").graph(model)
    reference = base.Reference(torch.arange(3.0).reshape(3, 1, 1, 1), torch.zeros(3).long())
    scores = base.mean_over_samples(
        model,
        graph,
        reference,
        2,
        lambda images, _: {
            unit.name: images.reshape(-1, 1).expand(-1, unit.units) for unit in graph.layers
        },
    )
    assert all((score == 1.0).all() and score.dtype == torch.float32 for score in scores.values())


def test_the_copy_has_no_in_place_activation_and_the_original_keeps_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)).train()
    twin = base.copy_to_explain(model)
    assert not twin[1].inplace
    assert not twin.training
    assert not twin[0].weight.requires_grad
    assert model[1].inplace
    assert model.training
    assert model[0].weight.requires_grad


def test_recording_leaves_no_hook_after_an_error() -> None:
    model = catalogue.build("resnet6", 3, 2, seed=0)
    graph = catalogue.entry("resnet6").graph(model)
    with pytest.raises(RuntimeError, match="channels"), base.recording(model, graph):
        model(torch.zeros(1, 5, 16, 16))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_skip_path_added_in_place_does_not_reach_what_is_recorded() -> None:
    model = catalogue.build("resnet6", 3, 2, seed=0).eval()
    block, entered = model.layer1[0], []
    block.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0].clone()))
    with base.recording(model, catalogue.entry("resnet6").graph(model)) as recorded:
        model(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    hidden = block.bn1(block.conv1(entered[0])).relu()
    torch.testing.assert_close(recorded["layer1.0.conv2"], block.bn2(block.conv2(hidden)))
