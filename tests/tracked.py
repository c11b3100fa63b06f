"""MLflow's server of a stack, asked by somebody who knows the password."""

import base64
import json
import urllib.request
from typing import Any

from infra.stack.settings import Settings


def ask(settings: Settings, path: str, body: dict[str, Any] | None = None) -> bytes:
    """Ask MLflow for something.

    Raises:
        HTTPError: it refuses.
    """
    secret = base64.b64encode(f"fedx:{settings.mlflow_secret}".encode()).decode()
    request = urllib.request.Request(
        f"{settings.mlflow}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {secret}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.read()
        return found
