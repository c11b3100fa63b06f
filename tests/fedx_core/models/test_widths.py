"""Models of other widths than their own: small from the start, and at home in all that prunes."""

import pytest
import torch
from torchvision import models

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import UnknownNameError
from fedx_core.models import catalogue
from fedx_core.models.resnet import BasicResNet
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate


def parameters(name: str) -> int:
    return sum(p.numel() for p in catalogue.build(name, 3, 10, seed=1).parameters())


def test_a_width_of_its_own_is_the_model_itself() -> None:
    wide, same = (catalogue.build(n, 3, 10, seed=1) for n in ("resnet6", "resnet6_w64"))
    assert state.equal(wide.state_dict(), same.state_dict())


def test_parameters_are_those_counted_by_hand() -> None:
    w = 24
    convolutions = 3 * 49 * w + 2 * 9 * w * w + 9 * w * 2 * w + 9 * 4 * w * w + 2 * w * w
    norms = 2 * (3 * w + 3 * 2 * w)
    assert parameters("resnet6_w24") == convolutions + norms + 10 * (2 * w) + 10


def test_a_wide_resnet18_is_torchvisions_to_the_bit() -> None:
    torch.manual_seed(3)
    theirs = models.resnet18(num_classes=10).eval()
    torch.manual_seed(3)
    ours = BasicResNet(3, 10, blocks=(2, 2, 2, 2)).eval()
    assert state.equal(ours.state_dict(), theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet6_w0", r"8 or more, got resnet6_w0; choose resnet6_w8"),
        ("resnet6_w7", r"8 or more, got resnet6_w7"),
        ("vit_tiny_w24", r"vit_tiny has one width; leave _w24 out, or choose resnet6, resnet18"),
        ("resnet50_w24", r"resnet50 has one width"),
        ("resnet6_wide", r"no model 'resnet6_wide'"),
        ("_w24", r"no model '_w24'"),
    ],
)
def test_an_impossible_width_is_refused(name: str, says: str) -> None:
    with pytest.raises(UnknownNameError, match=says):
        catalogue.entry(name)


@pytest.mark.parametrize("wide", ["resnet6", "resnet18"])
def test_a_narrow_model_is_trained_explained_and_pruned(bed: Bed, wide: str) -> None:
    settings = tiny(model={"name": f"{wide}_w12"}, method__pruning_rate=0.5)
    reports = list(federate(settings, bed.setting(), InProcess(1)))
    assert any(report.pruned for report in reports)
    assert reports[-1].units_kept["conv1"] == (6, 12)
    at_first = 4 * parameters(wide) * len(reports[0].cohort)
    assert reports[0].uplink_bytes < 0.1 * at_first
