"""The few requests to Prefect's server that setting it up takes; importing Prefect takes longer."""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from fedx_core.base import strict_json
from fedx_core.base.errors import RunError

_RETRIES = 5


@dataclass(frozen=True)
class PrefectServer:
    """Prefect's API over HTTP.

    Args:
        url: of the API.
        auth: ``user:password``, or empty.
    """

    url: str
    auth: str = field(repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "PrefectServer":
        """Find the server that an environment names."""
        return cls(environment["PREFECT_API_URL"], environment.get("PREFECT_API_AUTH_STRING", ""))

    def get(self, path: str) -> dict[str, Any] | None:
        """Read one thing, or None where there is none of that name."""
        found: dict[str, Any] | None = self._ask("GET", path, None)
        return found

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Make or search."""
        return self._ask("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> None:
        """Change."""
        self._ask("PATCH", path, body)

    def _ask(self, verb: str, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.auth:
            headers["Authorization"] = f"Basic {base64.b64encode(self.auth.encode()).decode()}"
        request = Request(
            f"{self.url}{path}",
            None if body is None else strict_json.dumps(body).encode(),
            headers,
            method=verb,
        )
        for attempt in range(_RETRIES):
            try:
                with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except HTTPError as refusal:
                with refusal:
                    if verb == "GET" and refusal.code == 404:
                        return None
                    said = refusal.read().decode(errors="replace")[:300]
                if refusal.code == 503 and attempt + 1 < _RETRIES:  # SQLite is locked
                    time.sleep(0.5 * 2**attempt)
                    continue
                hint = "; is PREFECT_API_AUTH_STRING right?" if refusal.code == 401 else ""
                raise RunError(
                    f"Prefect refused {verb} {path} with {refusal.code}: {said}{hint}"
                ) from refusal
            except (URLError, OSError) as error:
                raise RunError(f"Prefect at {self.url} does not answer ({error})") from error
        raise AssertionError("the loop returns or raises")
