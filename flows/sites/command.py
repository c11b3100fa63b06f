"""The one command that a site's worker runs, what goes in, and what comes out.

In goes an order as text, on stdin. Out comes one line of JSON on stdout: ``{"done": ...}``, or an
error as ``fedx --json`` says it. What else the command has to say is for the site's own log.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fedx_core.base.errors import PayloadError, TooBigError

if TYPE_CHECKING:
    from anyio.abc import Process

COMMAND = (sys.executable, "-m", "flows.sites.take")

ORDER_LENGTH = 87_384
"""Characters of the longest order in base64: ``fedx_core.sites.orders.MAX_ORDER`` bytes."""
ORDER_PATTERN = "[A-Za-z0-9+/]+={0,2}"

PASSED_ON = (
    "PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy",
    "FEDX_SITE_HOME", "FEDX_SHARDS", "FEDX_PLAIN_HTTP",
)  # fmt: skip
"""What the command gets of the worker's environment; Prefect's password is not among it."""

WATCH_SECONDS = 2.0
"""How often we ask whether the work is still wanted."""
GRACE_SECONDS = 5.0
"""What the command gets to end by itself: its answer may be stored, and the coordinator content."""
ANSWER_LENGTH = 4096


def order_of(parameters: Mapping[str, Any]) -> str:
    """Return the one thing that is read of a flow run.

    Args:
        parameters: of the flow run; whatever is beside ``order`` is left alone.

    Raises:
        PayloadError: there is no order, or something that can't be one.
        TooBigError: it is too long.
    """
    order = parameters.get("order")
    if not isinstance(order, str):
        raise PayloadError("no order: the flow run has no text in its parameter 'order'")
    if len(order) > ORDER_LENGTH:
        raise TooBigError(
            f"an order of {len(order)} characters; at most {ORDER_LENGTH} are looked at"
        )
    if not re.fullmatch(ORDER_PATTERN, order) or len(order) % 4:
        raise PayloadError("the order is not base64; only a coordinator's letters are opened")
    return order


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return what the command may know, taken by name from the worker's environment.

    Args:
        own: of the worker; the site's people have set it, no flow run has.
    """
    kept = {name: own[name] for name in PASSED_ON if name in own}
    # No module is taken from the folder that it happens to run in.
    return {**kept, "PYTHONSAFEPATH": "1"}


async def carry_out(order: str, wanted: Callable[[], Awaitable[bool]]) -> Mapping[str, Any] | None:
    """Run the command on one order.

    Args:
        order: see :func:`order_of`.
        wanted: says whether the work is still asked for.

    Returns:
        ``{"done": text}``; ``{"error": {"code", "message", ...}}``, of a command that died, too; or
        None if the work was not wanted any more, and its processes were killed for it.
    """
    import anyio

    killed = False
    process = await anyio.open_process(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        env=environment(os.environ),
        start_new_session=True,
    )

    async def watch() -> None:
        nonlocal killed
        await anyio.sleep(WATCH_SECONDS)
        while await wanted():
            await anyio.sleep(WATCH_SECONDS)
        await anyio.sleep(GRACE_SECONDS)
        killed = True
        _kill(process)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            said = await _talk(process, order)
            code = await process.wait()
            group.cancel_scope.cancel()
    finally:
        _kill(process)
        with anyio.CancelScope(shield=True):
            await process.aclose()
    return None if killed else _understood(said, code)


async def _talk(process: "Process", order: str) -> bytes:
    """Hand over the order and return the end of what the command prints."""
    import anyio

    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(anyio.BrokenResourceError):
        await process.stdin.send(order.encode())
    await process.stdin.aclose()
    said = b""
    async for part in process.stdout:
        said = (said + part)[-ANSWER_LENGTH:]
    return said


def _understood(said: bytes, code: int) -> Mapping[str, Any]:
    """Read the command's last line."""
    with suppress(ValueError, IndexError, RecursionError):
        answer = json.loads(said.splitlines()[-1])
        if isinstance(answer, dict) and ("done" in answer) == (code == 0):
            return answer
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    message = f"{' '.join(COMMAND[1:])} died ({ended}); the site's log says more"
    return {"error": {"code": "E_RUN", "message": message}}


def _kill(process: "Process") -> None:
    """End the command and all that it has started; there is nothing that it could lose."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
