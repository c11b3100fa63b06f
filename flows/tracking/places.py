"""Tracking URIs: which one, under which name it is noted, and how long a run waits for it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedx_core.base.locks import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCAL = "sqlite:///mlflow.db"
UI = "http://127.0.0.1:5000"
"""Where ``mlflow server`` listens if it isn't told."""

_SQLITE = "sqlite:///"


def default() -> str:
    """Return the URI of MLFLOW_TRACKING_URI, or that of ``mlflow.db`` in this folder."""
    return absolute(os.environ.get("MLFLOW_TRACKING_URI") or LOCAL)


def absolute(uri: str) -> str:
    """Spell out a database's path, so that the place has one name from every folder."""
    path = uri.removeprefix(_SQLITE)
    return uri if path == uri else f"{_SQLITE}{Path(path).absolute()}"


def public(uri: str) -> str:
    """Leave out user and password: what is noted, shown and compared."""
    return re.sub(r"(?<=://)[^/]*@", "", uri)


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps files: beside a database, else as the server says."""
    path = absolute(uri).removeprefix(_SQLITE)
    return None if path == absolute(uri) else (Path(path).parent / "mlruns").as_uri()


def ui_of(uri: str) -> str:
    """Return the address of the pages; a database has them where ``mlflow server`` shows it."""
    return public(uri).rstrip("/") if uri.startswith(("http://", "https://")) else UI


def prefect_page(flow_run: str) -> str:
    """Return the address of a flow run's page, without a password.

    Empty where the server ends with the run: such a one has no pages.
    """
    if not flow_run:
        return ""
    from prefect.settings import get_current_settings

    ui = get_current_settings().ui_url
    return f"{public(ui)}/runs/flow-run/{flow_run}" if ui else ""


def connect(uri: str) -> "MlflowClient":
    """Open a client that gives up in time: some 25 s for a server that never answers.

    Every call names the run it means; nothing of MLflow's own state of the process is used.
    """
    # MLflow's own defaults wait for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Stdout belongs to the command.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    with _made_by_one(uri):
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        return MlflowClient(tracking_uri=uri, registry_uri=registry)


@contextmanager
def _made_by_one(uri: str) -> Iterator[None]:
    """Let one process at a time open a database: MLflow makes its tables when it finds none."""
    path = absolute(uri).removeprefix(_SQLITE)
    if path == absolute(uri):
        yield
        return
    with exclusive(Path(path).with_name(f".{Path(path).name}.lock")):
        yield
