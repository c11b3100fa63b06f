"""The job as other frameworks run it: the same model, arrays, training and evaluation.

Imported by Pythons that have a framework but not FedX's own requirements: torch, NumPy, psutil and,
for models, torchvision are enough. What happened is noted as lines of JSON, since a framework's
clients may be processes of its own; ``benchmarks/peers.py`` reads them.
"""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.models import catalogue

Split = tuple[Tensor, Tensor]

TASK: dict[str, Any] = json.loads(os.environ["FEDX_BENCH_TASK"])
"""``model``, ``classes``, ``clients``, ``rounds``, ``batch_size``, ``folder`` of the arrays,
``events`` (a folder to note in), ``workers`` (clients at once)."""
CLIENTS: int = TASK["clients"]
ROUNDS: int = TASK["rounds"]
WORKERS: int = TASK["workers"]
LEARNING_RATE, WEIGHT_DECAY = 0.001, 0.0001


def make_model() -> nn.Module:
    """Build the model; the same weights at every call."""
    return catalogue.build(TASK["model"], 3, TASK["classes"], seed=1)


@cache
def client(index: int) -> Split:
    """Load a client's images, uint8, and labels."""
    return _load(sorted((Path(TASK["folder"]) / "shards").glob("client*"))[index], "train")


@cache
def test() -> Split:
    """Load the test images, uint8, and labels."""
    return _load(Path(TASK["folder"]) / "prepared", "test")


def scaled(images: Tensor) -> Tensor:
    """Turn stored pixels into a model's input."""
    return images.float().div_(255)


def train(model: nn.Module, index: int) -> None:
    """Train for one epoch with Adam."""
    started = time.perf_counter()
    images, labels = client(index)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    model.train()
    order = torch.randperm(len(labels))
    for start in range(0, len(labels), TASK["batch_size"]):
        chosen = order[start : start + TASK["batch_size"]]
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(scaled(images[chosen])), labels[chosen])
        loss.backward()
        optimiser.step()
        loss.item()
    note("train", time.perf_counter() - started)


def evaluate(model: nn.Module) -> None:
    """Count correct predictions on the test images."""
    started = time.perf_counter()
    images, labels = test()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(labels), TASK["batch_size"]):
            logits = model(scaled(images[start : start + TASK["batch_size"]]))
            (logits.argmax(1) == labels[start : start + TASK["batch_size"]]).sum().item()
    note("evaluate", time.perf_counter() - started)


def end_round() -> None:
    """Note the end of a round, or before the first one its beginning."""
    cpu = 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
            cpu += times.user + times.system
        except psutil.Error:  # it has just ended
            pass
    note("round", cpu)


def note(kind: str, seconds: float) -> None:
    """Write down that something took so many seconds and has ended now."""
    line = json.dumps({"kind": kind, "ended": time.time(), "seconds": seconds})
    with (Path(TASK["events"]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def _load(folder: Path, part: str) -> Split:
    images, labels = (np.load(folder / f"{part}.{what}.npy") for what in ("images", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)
