"""Flower's simulation: FedAvg over Ray, each client one core and one thread.

A client builds its model once a process and keeps it, which Flower leaves to its users.
"""

import job
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

CLIENT, SERVER = ClientApp(), ServerApp()
MODELS: list[nn.Module] = []


@CLIENT.train()
def train(message: Message, context: Context) -> Message:
    """Train one client."""
    torch.set_num_threads(1)
    if not MODELS:
        MODELS.append(job.make_model())
    model, index = MODELS[0], int(context.node_config["partition-id"])
    job.client(index)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    job.train(model, index)
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(job.client(index)[1])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@SERVER.main()
def serve(grid: Grid, context: Context) -> None:
    """Run all rounds."""
    torch.set_num_threads(1)
    model = job.make_model()

    def evaluated(number: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        job.evaluate(model)
        job.end_round()
        return MetricRecord({"done": number})

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=job.CLIENTS,
        min_available_nodes=job.CLIENTS,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(job.make_model().state_dict()),
        num_rounds=job.ROUNDS,
        evaluate_fn=evaluated,
    )


if __name__ == "__main__":
    run_simulation(
        server_app=SERVER,
        client_app=CLIENT,
        num_supernodes=job.CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": job.WORKERS, "include_dashboard": False},
        },
    )
