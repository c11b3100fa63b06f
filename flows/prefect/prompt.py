"""Talk to Prefect's server, or hear within seconds that it is away.

Prefect's own client is patient: it tries again for minutes, which suits most flows. A round has a
deadline, and what is only shown must not hold a run up.
"""

import contextvars
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

T = TypeVar("T")

SECONDS = 5.0
"""How long one request may take."""

_TRY_LATER = (408, 429)


class Away(Exception):
    """Prefect's server does not answer, or not now."""


class Prompt:
    """Calls functions of Prefect, or methods of ``client``, that never wait long.

    Settings and client are kept in a copy of the context in which this was made, so they are
    nobody else's, generators may yield between calls, and a thread may use it that knows nothing of
    the flow run. One call at a time.
    """

    client: "SyncPrefectClient"

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._stack = ExitStack()

    def __enter__(self) -> "Prompt":
        """Open the client.

        Raises:
            RuntimeError: the server can't be reached, and never was by this process.
        """
        try:
            self._context.run(self._open)
        except BaseException:
            self._context.run(self._stack.close)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._context.run(self._stack.close)

    def __call__(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function.

        Raises:
            Away: the server can't be reached, is too slow, or is in trouble itself.
        """
        import httpx
        from prefect.exceptions import PrefectHTTPStatusError

        try:
            return self._context.run(function, *arguments, **named)
        except httpx.TransportError as error:
            raise Away(str(error) or type(error).__name__) from error
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status >= 500 or status in _TRY_LATER:
                raise Away(f"status {status}") from error
            raise

    def _open(self) -> None:
        from prefect.context import SyncClientContext
        from prefect.settings import (
            PREFECT_API_REQUEST_TIMEOUT,
            PREFECT_CLIENT_MAX_RETRIES,
            temporary_settings,
        )

        hurried = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: SECONDS}
        self._stack.enter_context(temporary_settings(hurried))
        # With settings of its own, so that nobody in here finds the flow's patient client.
        context = SyncClientContext(httpx_settings={"timeout": SECONDS})
        self.client = self._stack.enter_context(context).client
