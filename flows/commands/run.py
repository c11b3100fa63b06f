"""``fedx run`` and ``fedx resume``: the flow on Prefect, or the same in this process."""

from dataclasses import replace
from typing import Annotated

from flows.commands.options import AsJson, Engine, Only, RunName, Without, taking_requests
from flows.deployments.start import start
from flows.settings.request import How, Request


@taking_requests
def run(
    request: Annotated[Request, Without("resume")],
    how: Annotated[How, Without("show")],
    engine: Engine = True,
    as_json: AsJson = False,
) -> None:
    """Run a federation: train at clients, aggregate, explain, prune, evaluate.

    Settings come from params.yaml; options go over it. Results are in runs/NAME: results/,
    model.safetensors, config.yaml.

        fedx run --dataset synthetic --rounds 4 --warmup-rounds 2
        fedx run --method fedavg --set federation.participation=0.5
        fedx run --method feddst --preset fedx_protocol
        fedx run --method fedavg --preset fewer_bytes
        fedx run --run-at work-pools --store s3://fedx/runs
    """
    start(request, how, engine=engine, as_json=as_json)


@taking_requests
def resume(
    run: RunName,
    request: Annotated[Request, Only("rounds", "run_root", "data_root", "store")],
    how: Annotated[How, Without("show")],
    engine: Engine = True,
    as_json: AsJson = False,
) -> None:
    """Go on with a run after its last committed round, to the same bytes.

    Settings are those of its first start; only the number of rounds may grow, so that a run which
    has ended goes on.

        fedx resume fedx-lrp-q0.5-synthetic-s1
        fedx resume base --rounds 40
    """
    start(replace(request, run=run, resume=True), how, engine=engine, as_json=as_json)
