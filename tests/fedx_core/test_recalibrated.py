"""BatchNorm's statistics, measured anew on the server's reference set."""

import copy
import json

import pytest
import torch
from torch import nn

from bed import NARROW, Bed, tiny
from fedx_core.base.frozen_json import parse
from fedx_core.clients.plan import Plan
from fedx_core.images import set_folder
from fedx_core.models import catalogue
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store


def pooled_layer_by_layer(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Measure BatchNorm after BatchNorm over all images' pixels, those before it being settled."""
    slow = copy.deepcopy(model).double().eval()
    for norm in [m for m in slow.modules() if isinstance(m, nn.BatchNorm2d)]:
        seen: list[torch.Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        with torch.no_grad():
            for image in inputs.double():
                slow(image[None])
        handle.remove()
        values = torch.cat(seen).transpose(0, 1).flatten(1)
        norm.running_mean, norm.running_var = values.mean(1), values.var(1, correction=0)
    return slow


@pytest.mark.parametrize("size", [1, 3, 19, 100])
def test_recalibrated_statistics_weigh_pixels_however_images_are_cut_into_batches(
    bed: Bed, size: int
) -> None:
    settings = tiny(
        training__batch_norm="recalibrate",
        training__eval_batch_size=size,
        federation__rounds=1,
        method__name="fedavg",
        codec__name="dense",
    )
    setting = bed.setting(f"size-{size}")
    list(federate(settings, setting, InProcess(1)))
    store = open_store(setting.place.store)
    found = final_model(store)
    plan = parse(Plan, json.loads(bytes(store.get(Journal(store).commits()[0].plan))))
    reference = set_folder.read(setting.data / "reference").parts["reference"]
    inputs = plan.pixels.to_input(reference.images, torch.device("cpu"))
    model = catalogue.build(NARROW, 3, 10, seed=1)
    model.load_state_dict(found)
    for name, value in pooled_layer_by_layer(model, inputs).state_dict().items():
        if "running_mean" in name:
            torch.testing.assert_close(found[name].double(), value, atol=2e-3, rtol=2e-3)
        elif "running_var" in name:  # of a sample, so a little more than that of the pixels there
            torch.testing.assert_close(found[name].double(), value, atol=2e-3, rtol=2e-2)
