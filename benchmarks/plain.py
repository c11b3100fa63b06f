"""The floor: the same job as a plain PyTorch loop, without store, codec, journal or reports.

With two workers, two processes share the clients and the weights' memory.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.multiprocessing as mp
from jobs import BATCH_SIZE, CLASSES, Job
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.models import catalogue

Weights = dict[str, Tensor]
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Round:
    """Seconds of one round.

    Args:
        wall: from its start to its end.
        evaluate: of ``wall``, in evaluation.
        train: in local training, summed over clients.
        cpu: of all cores, in this process and its children.
    """

    wall: float
    evaluate: float
    train: float
    cpu: float


def cpu_seconds() -> float:
    """Return the CPU time that this process and its children have spent by now."""
    here = psutil.Process()
    times = [one.cpu_times() for one in (here, *here.children())]
    return float(sum(one.user + one.system for one in times))


@dataclass(frozen=True)
class Share:
    """One worker's clients with its own model, and the sum that it hands over."""

    model: nn.Module
    splits: list[Split]
    weight: float
    total: Weights

    def run(self, weights: Weights) -> float:
        """Train every client from ``weights`` into ``total``; return the seconds of training."""
        seconds = 0.0
        for value in self.total.values():
            value.zero_()
        for split in self.splits:
            self.model.load_state_dict(weights)
            started = time.perf_counter()
            _train(self.model, split)
            seconds += time.perf_counter() - started
            for name, value in self.model.state_dict().items():
                if name in self.total:
                    self.total[name].add_(value, alpha=self.weight)
        return seconds


def run(job: Job, folder: Path, rounds: int, workers: int) -> Iterator[Round]:
    """Run the job and yield each round's seconds; the first ``next`` includes all preparation."""
    torch.set_num_threads(1)
    model = catalogue.build(job.model, 3, CLASSES, seed=1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    splits = [_load(path) for path in sorted((folder / "shards").glob("client*"))]
    test = _load(folder / "prepared", "test")
    shares = [_share(job, splits[worker::workers], weights) for worker in range(workers)]
    if workers > 1:
        for part in (weights, *(share.total for share in shares)):
            for value in part.values():
                value.share_memory_()
    pipes = [_start(share, weights) for share in shares] if workers > 1 else []
    for _ in range(rounds):
        started, spent = time.perf_counter(), cpu_seconds()
        for pipe in pipes:
            pipe.send(True)
        seconds = [pipe.recv() for pipe in pipes] or [shares[0].run(weights)]
        for name in shares[0].total:
            weights[name].copy_(sum((share.total[name] for share in shares), torch.zeros(())))
        trained = time.perf_counter()
        _evaluate(model, weights, test)
        ended = time.perf_counter()
        yield Round(ended - started, ended - trained, sum(seconds), cpu_seconds() - spent)
    for pipe in pipes:
        pipe.send(False)


def _share(job: Job, splits: list[Split], weights: Weights) -> Share:
    total = {n: torch.zeros_like(v) for n, v in weights.items() if v.is_floating_point()}
    model = catalogue.build(job.model, 3, CLASSES, seed=1)
    return Share(model, splits, 1 / job.clients, total)


def _start(share: Share, weights: Weights) -> Connection:
    here, there = mp.Pipe()
    context = mp.get_context("fork")
    context.Process(target=_serve, args=(share, weights, there), daemon=True).start()
    return here


def _serve(share: Share, weights: Weights, pipe: Connection) -> None:
    torch.set_num_threads(1)
    while pipe.recv():
        pipe.send(share.run(weights))


def _load(folder: Path, part: str = "train") -> Split:
    images, labels = (np.load(folder / f"{part}.{what}.npy") for what in ("images", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)


def _train(model: nn.Module, split: Split) -> None:
    images, labels = split
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=0.0001)
    model.train()
    order = torch.randperm(len(labels))
    for start in range(0, len(labels), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(images[chosen].float().div_(255)), labels[chosen])
        loss.backward()
        optimiser.step()
        loss.item()


def _evaluate(model: nn.Module, weights: Weights, test: Split) -> None:
    images, labels = test
    model.load_state_dict(weights)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(labels), BATCH_SIZE):
            logits = model(images[start : start + BATCH_SIZE].float().div_(255))
            (logits.argmax(1) == labels[start : start + BATCH_SIZE]).sum().item()
