"""Two federated jobs on random images: what they are, and their data on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.images import set_folder
from fedx_core.images.examples import Description, Examples

CLASSES = 10
EVALUATED = 512
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job: FedAvg with Adam for one epoch on uint8 images (3, 64, 64), all clients per round.

    Args:
        model: an entry of the catalogue.
        clients: all of them take part in every round.
        images: of each client.
    """

    model: str
    clients: int
    images: int


JOBS: Mapping[str, Job] = {
    "resnet18": Job(model="resnet18", clients=8, images=256),  # 11.2 million parameters
    "tiny100": Job(model="resnet6", clients=100, images=16),  # shows what a client costs by itself
}


def settings(job: Job, rounds: int) -> ExperimentConfig:
    """Write the job as an experiment: one thread per client, nothing that the plain loop lacks."""
    return config.parse(
        {
            "seed": 1,
            "prepare": [],
            "dataset": "noise",
            "datasets": {
                "noise": {
                    "source": {"name": "synthetic"},
                    "partition": {"name": "iid", "clients": job.clients},
                    "reference": {"per_class": 1},
                }
            },
            "model": {"name": job.model},
            "training": {
                "epochs": 1,
                "batch_size": BATCH_SIZE,
                "learning_rate": 0.001,
                "weight_decay": 0.0001,
                "flips": False,
                "normalisation": "published",
                "batch_norm": "aggregate",
                "eval_batch_size": BATCH_SIZE,
                "device": "cpu",
                "amp": False,
                "threads": 1,
                "memory_format": "contiguous",
            },
            "federation": {
                "rounds": rounds,
                "participation": 1.0,
                "min_reports": 0,
                "attempts": 1,
                "round_timeout": 0,
                "keep_states": 1,
            },
            "method": {"name": "fedavg"},
            "codec": {"name": "dense"},
        }
    )


def write(job: Job, folder: Path, clients: int | None = None) -> None:
    """Write shards, test and reference images of noise, the same at every call.

    Args:
        job: whose images.
        folder: to write into.
        clients: how many of its clients; None for all.
    """
    description = Description(
        name="noise",
        bands=("B04", "B03", "B02"),
        class_names=tuple(f"class {index}" for index in range(CLASSES)),
        label_kind="single",
        image_size=64,
        scale=255.0,
        published_mean=(0.0, 0.0, 0.0),
        published_std=(1.0, 1.0, 1.0),
    )
    made = config.as_plain(settings(job, 1).datasets["noise"])
    set_folder.write(folder / "prepared", description, {"test": _noise(EVALUATED, 7)}, made)
    held_back = {"reference": _noise(CLASSES, 8), "tuning": _noise(CLASSES, 9)}
    set_folder.write(folder / "reference", description, held_back, made)
    listed = []
    for index in range(job.clients if clients is None else clients):
        name = f"client{index:03d}"
        parts = {"train": _noise(job.images, 1000 + index), "test": _noise(0, 0)}
        set_folder.write(folder / "shards" / name, description, parts, {})
        listed.append({"name": name, "sizes": {"train": job.images, "test": 0}})
    listing: dict[str, Any] = {"clients": listed, "settings": made}
    set_folder.write_manifest(folder / "shards", listing)


def _noise(size: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    return Examples(
        images=random.integers(0, 256, (size, 3, 64, 64), dtype=np.uint8),
        labels=random.integers(0, CLASSES, size),
        groups=np.zeros(size, dtype=np.int16),
    )
