"""Where in an image a model sees a class: LRP carried on to the pixels.

The rules are those by which units are scored (``relevance/lrp.py``), with the run's own settings
where its criterion is LRP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedx_core.base.errors import SchemaError
from fedx_core.base.state import StateDict, require_same_layout
from fedx_core.clients.plan import MethodDesk, Plan, set_up
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.relevance import lrp

BATCH = 16
"""Images at once; changes nothing but memory and time."""


@dataclass(frozen=True)
class HeatMaps:
    """What one model makes of some images.

    Args:
        classes: int64 (n,): the class that is explained.
        maps: float32 (n, height, width): relevance, summed over bands; positive speaks for the
            class. Height and width are the model's, which may differ from the image's.
        logits: float32 (n,): of that class.
        probabilities: float32 (n,): of that class, in [0, 1].
    """

    classes: NDArray[np.int64]
    maps: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    @property
    def sums(self) -> NDArray[np.float64]:
        """Relevance of each whole image; its logit, if none were lost to biases."""
        return np.asarray(self.maps.sum((1, 2), dtype=np.float64))


def heat_maps(
    plan: Plan,
    models: Sequence[StateDict],
    images: NDArray[np.integer],
    labels: NDArray[np.integer],
) -> tuple[HeatMaps, ...]:
    """Explain the label of each image by each of some models.

    Where an image has several labels, the one that the last model is surest of is explained by all;
    where it has none, the class that the last model is surest of.

    Args:
        plan: how the models were trained.
        models: all entries of one architecture; at least one.
        images: uint8 or uint16 (n, bands, height, width), as stored.
        labels: int64 (n,), or 0 and 1 (n, classes).

    Returns:
        One for each model, in their order.

    Raises:
        SchemaError: a model or the images don't fit the plan, or their labels are of pixels.
    """
    if plan.label_kind == "pixels":
        raise SchemaError(
            "heat maps explain one label of an image, and this model says a class for each pixel; "
            "look at the units' relevance instead"
        )
    desk = set_up(plan)
    if images.shape[1] != plan.bands:
        raise SchemaError(
            f"images have {images.shape[1]} bands, the model was trained on {plan.bands}; prepare "
            "the data set that the run was trained on"
        )
    inputs = plan.pixels.to_input(images, torch.device("cpu"))
    for model in models:
        require_same_layout(desk.model.state_dict(), model)
    classes = torch.from_numpy(np.array(labels)).long()
    if classes.ndim == 2:
        classes = _surest(desk, models[-1], inputs, classes.bool())
    return tuple(_explain(desk, model, inputs, classes) for model in models)


def pruned(plan: Plan, model: StateDict, mask: Mask) -> StateDict:
    """Zero what a mask drops, as the plan's method does; BatchNorm is not measured anew."""
    desk = set_up(plan)
    return masks.apply(model, desk.method.support(desk, mask, "slices"))


def _explain(desk: MethodDesk, model: StateDict, inputs: Tensor, classes: Tensor) -> HeatMaps:
    desk.model.load_state_dict(model)
    maps, logits, probabilities = [], [], []
    criterion = _criterion(desk.plan)
    with criterion.down_to_pixels(desk.model, desk.graph, desk.entry) as twin:
        for start in range(0, len(inputs), BATCH):
            chosen = classes[start : start + BATCH, None]
            batch = inputs[start : start + BATCH].clone().requires_grad_()
            found = twin(batch)
            explained = found.gather(1, chosen)
            [relevance] = torch.autograd.grad(
                found, batch, torch.zeros_like(found).scatter(1, chosen, explained.detach())
            )
            maps.append(relevance.sum(1))
            logits.append(explained.detach()[:, 0])
            probabilities.append(_probabilities(desk.plan, found.detach()).gather(1, chosen)[:, 0])
    return HeatMaps(
        classes=classes.numpy(),
        maps=torch.cat(maps).float().contiguous().numpy(),
        logits=torch.cat(logits).numpy(),
        probabilities=torch.cat(probabilities).numpy(),
    )


def _surest(desk: MethodDesk, model: StateDict, inputs: Tensor, labels: Tensor) -> Tensor:
    desk.model.load_state_dict(model)
    desk.model.eval()
    with torch.inference_mode():
        logits = torch.cat([desk.model(part) for part in torch.split(inputs, BATCH)])
    allowed = torch.where(labels.any(1, keepdim=True), labels, True)
    return torch.where(allowed, logits, -torch.inf).argmax(1).clone()


def _probabilities(plan: Plan, logits: Tensor) -> Tensor:
    return logits.softmax(1) if plan.label_kind == "single" else logits.sigmoid()


def _criterion(plan: Plan) -> lrp.Criterion:
    own = dict(plan.method.params.get("relevance", {}))
    if own.pop("name", "") != "lrp":
        own = {}
    return lrp.Criterion(**own)
