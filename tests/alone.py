"""One client's training without a federation: twelve tiny images, batches of four."""

from typing import Any

import numpy as np
import torch

from bed import tiny
from fedx_core import state
from fedx_core.examples import Examples
from fedx_core.methods.base import Local, ModelInfo, model_info
from fedx_core.models import catalogue
from fedx_core.pixels import Pixels
from fedx_core.structure import unit_graph


def info_of(name: str = "resnet6", *, local_batch_norm: bool = False) -> ModelInfo:
    """What is known of a model of three bands and four classes."""
    entry = catalogue.entry(name)
    with torch.device("meta"):  # nobody asks for its weights
        model = catalogue.build(name, 3, 4, seed=1)
    graph = unit_graph(model, entry.family, entry.classifier)
    return model_info(model, graph, local_batch_norm=local_batch_norm)


def alone(**changed: Any) -> Local:
    """What a client's training sees: a new ResNet6, sent as it is; fields may be changed."""
    model = catalogue.build("resnet6", 3, 4, seed=1)
    random = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "client": "a",
        "round_index": 1,
        "model": model,
        "info": info_of(),
        "downlink": state.as_section(state.copy(model.state_dict()), "model"),
        "mask": None,
        "memory": {},
        "examples": Examples(
            random.integers(0, 256, (12, 3, 16, 16), dtype=np.uint8),
            random.integers(0, 4, 12),
            np.zeros(12, np.int16),
        ),
        "label_kind": "single",
        "pixels": Pixels(
            scale=255.0,
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
            input_size=None,
            memory_format="contiguous",
        ),
        "settings": tiny(training__batch_size=4, training__weight_decay=0.01).training,
        "seed": 5,
    }
    return Local(**(fields | changed))
