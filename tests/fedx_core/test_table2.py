"""Table II: operations counted against a count by hand."""

import torch

from fedx_core.models import catalogue
from fedx_core.paper import table2
from fedx_core.paper.table2 import Image
from flows.reproduce import table2 as shown


def multiply_adds(model: str, image: Image) -> int:
    """Count those of one forward pass from the shapes of what each layer puts out."""
    built = catalogue.build(model, image.bands, image.classes, seed=0).eval()
    found = []

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        positions = output[0].numel() // output.shape[1]
        found.append(weight.numel() * positions)

    for module in built.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        built(torch.zeros(1, image.bands, image.side, image.side))
    return sum(found)


def test_an_explanation_costs_a_few_forward_passes_and_grows_with_the_image() -> None:
    small, large = Image(10, 19, 32, True), Image(10, 19, 64, True)
    found = {image: table2.explanation("resnet6", image) for image in (small, large)}
    for image, flops in found.items():
        # Forwards, and backwards to the stem; rules that weigh signs take a pass or two more.
        assert 2 < flops / (2 * multiply_adds("resnet6", image)) < 5
    assert 3.5 < found[large] / found[small] < 4.5


def test_the_masks_operations_are_the_printed_ones_but_for_vit() -> None:
    equal = {}
    for model, (_, printed) in table2.PRINTED.items():
        entry = catalogue.entry(model)
        with torch.device("meta"):
            built = catalogue.build(model, bands=10, classes=19, seed=0)
        graph = entry.graph(built)
        equal[model] = f"{table2.MASK_OPERATIONS * graph.prunable:.2e}" == f"{printed:.2e}"
    assert [model for model, same in equal.items() if not same] == ["vit_base_patch16_224"]


def test_the_table_says_what_can_be_checked_and_what_can_not() -> None:
    found = shown.rows(["resnet6"])
    (row,) = found
    assert row.same_mask
    assert row.images == row.printed_relevance / row.mean_relevance
    said = shown.show(found)
    assert "1 of 1 masks are equal" in said
    assert "Relevance can't be" in said
    assert shown.table(found).as_csv().splitlines()[1].startswith("resnet6,")
