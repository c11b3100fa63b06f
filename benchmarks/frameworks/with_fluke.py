"""fluke: FedAvg, one client after another, one thread, a fresh optimiser in each round."""

import time
from typing import Any

import job
import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.utils import ClientObserver, FederationObserver
from torchmetrics import Accuracy


class Evaluation(ClassificationEval):
    """fluke's own, timed."""

    def evaluate(self, *arguments: Any, **named: Any) -> Any:
        """Take the time."""
        started = time.perf_counter()
        found = super().evaluate(*arguments, **named)
        job.note("evaluate", time.perf_counter() - started)
        return found


class Watch(FederationObserver, ClientObserver):
    """Notes rounds and clients."""

    def start_round(self, round: int, global_model: Any) -> None:  # noqa: A002  fluke's name
        """Note the beginning of the first."""
        if round == 1:
            job.end_round()

    def end_round(self, round: int) -> None:  # noqa: A002  fluke's name
        """Note the end."""
        job.end_round()

    def start_fit(self, round: int, client_id: int, model: Any) -> None:  # noqa: A002  fluke's name
        """Start the clock."""
        self._started = time.perf_counter()

    def end_fit(self, round: int, client_id: int, model: Any, loss: float) -> None:  # noqa: A002  fluke's name
        """Note a client's training."""
        job.note("train", time.perf_counter() - self._started)


def loader(split: job.Split, *, shuffle: bool) -> FastDataLoader:
    """Give images in batches."""
    return FastDataLoader(
        *split, num_labels=job.TASK["classes"], batch_size=job.TASK["batch_size"], shuffle=shuffle,
        transforms=job.scaled,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    classes = job.TASK["classes"]
    environment = FlukeENV()
    environment.set_seed(0)
    environment.set_device("cpu")
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=True)
    accuracy = Accuracy(task="multiclass", num_classes=classes, top_k=1)
    environment.set_evaluator(Evaluation(eval_every=1, n_classes=classes, accuracy=accuracy))
    data = DummyDataContainer(
        [loader(job.client(index), shuffle=True) for index in range(job.CLIENTS)],
        [None] * job.CLIENTS,
        loader(job.test(), shuffle=False),
        classes,
    )
    settings = DDict(
        client=DDict(
            batch_size=job.TASK["batch_size"],
            local_epochs=1,
            loss="CrossEntropyLoss",
            persistency=False,
            optimizer=DDict(name="Adam", lr=job.LEARNING_RATE, weight_decay=job.WEIGHT_DECAY),
            scheduler=DDict(name="StepLR", step_size=1, gamma=1),
        ),
        server=DDict(weighted=True, lr=1.0),
        model=job.make_model(),
    )
    federation = FedAVG(job.CLIENTS, DataSplitter(data), settings)
    federation.set_callbacks([Watch()])
    federation.run(job.ROUNDS, 1.0)
