"""Runs of one sweep lie below one parent in MLflow's table."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TAG = "fedx.sweep.parent"


def parent(client: "MlflowClient", experiment_id: str, sweep: str) -> str:
    """Return the id of a sweep's parent run, made by whoever comes first.

    Where two come first at once, both made one; the older stays, and the maker of the other takes
    it back. Each visit asks again, so whoever took the wrong one is put right by the next.

    Args:
        client: of the tracking server or database.
        experiment_id: of the runs.
        sweep: its name.
    """
    if found := _parents(client, experiment_id, sweep):
        return str(found[0].info.run_id)
    made = client.create_run(experiment_id, tags={TAG: sweep}, run_name=sweep)
    client.set_terminated(made.info.run_id)
    first = str(_parents(client, experiment_id, sweep)[0].info.run_id)
    if first != made.info.run_id:
        client.delete_run(made.info.run_id)
    return first


def _parents(client: "MlflowClient", experiment_id: str, sweep: str) -> list["Run"]:
    quoted = sweep.replace("'", "")
    found = client.search_runs([experiment_id], f"tags.`{TAG}` = '{quoted}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
