"""MLflow's server behind a password: ``mlflow server --app-name fedx``.

MLflow by itself asks nobody who they are. Its own app ``basic-auth`` keeps a database of users and
rights, which one person's servers have no use for, and decides route by route. Here every request
but that for its health wants the user and password of FEDX_MLFLOW_AUTH; one to another host's name
or from another page is refused, whatever it brings, since a browser adds what it was told once.

MLflow's clients send MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fedx_core.base.errors import ConfigError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

AUTH = "FEDX_MLFLOW_AUTH"
HEALTH = "/health"


def app() -> "Door":
    """Make MLflow's app, behind the door; uvicorn calls it.

    Raises:
        ConfigError: nobody has set a password.
    """
    auth = os.environ.get(AUTH, "")
    if len(auth.partition(":")[2]) < 8:
        raise ConfigError(f"{AUTH} is not set; set it to USER:PASSWORD, of 8 characters or more")
    hosts, origins = (
        frozenset(filter(None, os.environ.get(f"MLFLOW_SERVER_{name}", "").split(",")))
        for name in ("ALLOWED_HOSTS", "CORS_ALLOWED_ORIGINS")
    )
    # Neither its jobs nor whom it starts has use for it.
    del os.environ[AUTH]
    from mlflow.server.fastapi_app import app as mlflow

    return Door(mlflow, auth, hosts, origins)


class Door:
    """Lets a request through to an ASGI app, or answers it.

    Args:
        inside: the app.
        auth: ``user:password``.
        hosts: names, with ports, by which the server may be called.
        origins: whose pages may call it.
    """

    def __init__(
        self, inside: App, auth: str, hosts: Collection[str], origins: Collection[str]
    ) -> None:
        self._inside = inside
        self._wanted = b"Basic " + base64.b64encode(auth.encode())
        self._hosts = {host.encode() for host in hosts}
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        status = 200 if scope["type"] == "lifespan" else self._judge(scope)
        if status == 200:
            await self._inside(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send, status)

    def _judge(self, scope: Scope) -> int:
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == HEALTH:
            return 200
        said: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            said.setdefault(name.lower(), []).append(value)
        if len(said.get(b"host", ())) != 1 or said[b"host"][0] not in self._hosts:
            return 403
        if any(origin not in self._origins for origin in said.get(b"origin", ())):
            return 403
        shown = said.get(b"authorization", [])
        return 200 if len(shown) == 1 and hmac.compare_digest(shown[0], self._wanted) else 401


async def _refuse(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="MLflow of FedX", charset="UTF-8"'))
        said = f"the user and password of {AUTH} are wanted"
    else:
        said = "this server is called by another name, and by its own pages alone"
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": said.encode()})
