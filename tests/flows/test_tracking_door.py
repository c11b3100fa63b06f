"""The door before MLflow, without MLflow: what is let through, and what is answered."""

import asyncio
import base64
from typing import Any

import pytest

from fedx_core.base.errors import ConfigError
from flows.tracking import door

HOST, PAGE = b"127.0.0.1:5050", b"http://127.0.0.1:5050"
SECRET = b"Basic " + base64.b64encode(b"fedx:password")
OWN = [(b"host", HOST), (b"authorization", SECRET)]


def ask(headers: list[tuple[bytes, bytes]], **scope: Any) -> Any:
    """Return the status of an answer, or the reason why a connection was closed."""
    said: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {}

    asked = {"type": "http", "method": "POST", "path": "/api", "headers": headers, **scope}
    closed = door.Door(inside, "fedx:password", [HOST.decode()], [PAGE.decode()])
    asyncio.run(closed(asked, receive, send))
    return said[0].get("status", said[0].get("code"))


def test_who_knows_the_password_is_let_through() -> None:
    assert ask(OWN) == 200
    assert ask([*OWN, (b"origin", PAGE)]) == 200
    assert ask([], type="lifespan") == 200


@pytest.mark.parametrize(
    "shown",
    [
        [], [b"Basic "], [b"Basic " + base64.b64encode(b"fedx:other")], [SECRET + b" "],
        [SECRET.lower()], [SECRET, SECRET], [b"Bearer x"], [b"\xff"],
    ],
)  # fmt: skip
def test_who_does_not_is_asked_for_it(shown: list[bytes]) -> None:
    assert ask([(b"host", HOST), *((b"authorization", each) for each in shown)]) == 401


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", SECRET)],
        [*OWN, (b"host", HOST)],
        [(b"host", b"evil.example"), (b"authorization", SECRET)],
        [(b"host", b"127.0.0.1"), (b"authorization", SECRET)],
        [*OWN, (b"origin", b"http://evil.example")],
        [*OWN, (b"origin", b"null")],
        [*OWN, (b"origin", PAGE), (b"origin", b"http://evil.example")],
    ],
)
def test_other_names_and_other_pages_are_refused_whatever_they_bring(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert ask(headers) == 403


def test_health_is_for_everybody_and_nothing_beside_it() -> None:
    assert ask([], method="GET", path="/health") == 200
    for path in ("/health/", "/health/../api", "/Health", "/healthz"):
        assert ask([(b"host", HOST)], method="GET", path=path) == 401
    assert ask([(b"host", HOST)], method="POST", path="/health") == 401


def test_a_websocket_of_a_stranger_is_closed() -> None:
    assert ask([(b"host", HOST)], type="websocket") == 1008


@pytest.mark.parametrize("auth", ["", "fedx:", "fedx", "fedx:short"])
def test_without_a_password_there_is_no_server(monkeypatch: pytest.MonkeyPatch, auth: str) -> None:
    monkeypatch.setenv(door.AUTH, auth)
    with pytest.raises(ConfigError, match="FEDX_MLFLOW_AUTH is not set"):
        door.app()
