"""What can be chosen about a run without changing a number; light, since the command imports it."""

from typing import Literal

RunAt = Literal["here", "threads", "processes", "dask", "work-pools", "sites"]
"""Who trains: this process without Prefect's tasks, threads or processes of Prefect's task runner,
the processes of a Dask cluster, the workers of a Prefect work pool, or institutions that have
the data (``fedx site``)."""

Track = Literal["mlflow", "nothing"]
"""Where numbers are copied to."""

Show = Literal["terminal", "json", "log", "nothing"]
"""Where progress goes: to people on stderr, to programs on stdout, to Prefect's log, or nowhere."""

Preset = Literal["paper", "fedx_protocol", "fewer_bytes"]
"""Settings that are shipped for a method: its own paper's, those under FedX's experiment, or those
that send little."""
