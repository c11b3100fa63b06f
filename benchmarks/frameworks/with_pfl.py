"""pfl-research: FedAvg on its simulated backend, one client after another, one thread.

It averages parameters only; BatchNorm's statistics stay as they are.
"""

import dataclasses
import functools
import time
from typing import Any

import job
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """The job's model with the two methods that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, images: Tensor, labels: Tensor, **_: Any) -> Tensor:
        """Score one batch in training."""
        self.train()
        return functional.cross_entropy(self.inner(job.scaled(images)), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, **_: Any) -> dict[str, Weighted]:
        """Count correct predictions of one batch."""
        started = time.perf_counter()
        self.eval()
        hits = (self.inner(job.scaled(images)).argmax(1) == labels).sum().item()
        job.note("evaluate", time.perf_counter() - started)
        return {"accuracy": Weighted(hits, len(labels))}


class Averaging(FederatedAveraging):
    """FedAvg that does not score the model on each client before and after its training."""

    def get_next_central_contexts(self, *arguments: Any, **named: Any) -> Any:
        """Switch evaluation at clients off."""
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **named)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(one, do_evaluation=False) for one in contexts)
        return contexts, model, metrics

    def train_one_user(self, *arguments: Any, **named: Any) -> Any:
        """Take the time."""
        started = time.perf_counter()
        trained = super().train_one_user(*arguments, **named)
        job.note("train", time.perf_counter() - started)
        return trained


class Rounds(TrainingProcessCallback):
    """Notes the ends of rounds."""

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Note the beginning."""
        job.end_round()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the end of a round."""
        job.end_round()
        return False, Metrics()


def shuffled(user: int) -> PyTorchTensorDataset:
    """Give a client's images in a random order, as the others draw them."""
    images, labels = job.client(user)
    order = torch.randperm(len(labels))
    return PyTorchTensorDataset((images[order], labels[order]), user_id=str(user))


if __name__ == "__main__":
    torch.set_num_threads(1)
    net = Net(job.make_model())
    users = list(range(job.CLIENTS))
    for user in users:
        job.client(user)
    data = FederatedDataset(shuffled, MinimizeReuseUserSampler(users))
    size = job.TASK["batch_size"]
    adam = functools.partial(torch.optim.Adam, weight_decay=job.WEIGHT_DECAY)
    evaluation = NNEvalHyperParams(local_batch_size=size)
    Averaging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.ROUNDS,
            evaluation_frequency=1,
            train_cohort_size=job.CLIENTS,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=data, val_data=data, postprocessors=[WeightByDatapoints()]
        ),
        model=PyTorchModel(net, adam, torch.optim.SGD(net.parameters(), 1.0)),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=job.LEARNING_RATE, local_batch_size=size
        ),
        model_eval_params=evaluation,
        callbacks=[
            CentralEvaluationCallback(
                PyTorchTensorDataset(job.test()), model_eval_params=evaluation
            ),
            Rounds(),
        ],
    )
