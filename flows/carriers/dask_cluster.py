"""Where clients run on Dask: on a cluster of this machine's own, or on one that is there."""

import os
from typing import TYPE_CHECKING, Any

from fedx_core.base.errors import ConfigError, RunError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

SCHEDULER = "FEDX_DASK_SCHEDULER"


def task_runner(workers: int) -> "TaskRunner[Any]":
    """Describe the cluster: the scheduler of FEDX_DASK_SCHEDULER, or processes of this machine.

    A cluster of our own is closed to others by certificates that it makes for itself.
    Each process does one client at a time and keeps its model, and all open shards by their paths,
    so a scheduler's workers must see the same folders as this machine.

    Args:
        workers: processes of a cluster of our own.

    Raises:
        ConfigError: Dask is not installed.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"--run-at dask needs Dask, which is not installed ({error}); install it with "
            "`pip install 'fedx[dask]'`, or use --run-at processes"
        ) from error
    if address := os.environ.get(SCHEDULER):
        return DaskTaskRunner(address=address)
    import dask

    # Pages of processes, over plain HTTP, that nobody looks at.
    dask.config.set({f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")})
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": 1,  # as torch has for each client; models are kept by thread
            # Without an address Dask tries port 8787 first, which another run may have.
            "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            "dashboard_address": None,
            # Dask unpickles what it is sent: nobody else on this machine may connect.
            "security": True,
        }
    )


def reach(runner: Any) -> None:
    """Start the cluster, or find its scheduler, before anything depends on it.

    Raises:
        RunError: no scheduler answers.
    """
    try:
        _ = runner.client  # made when it is first asked for
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"no Dask scheduler answers at {os.environ.get(SCHEDULER, 'this machine')} ({error}); "
            f"start one with `dask scheduler`, or unset {SCHEDULER} for a cluster of this machine"
        ) from error
