"""The server's steps as tasks of Prefect, wherever clients train."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fedx_core.wire.messages import ServerState

T = TypeVar("T")


def server_task(name: str, step: Callable[..., T], arguments: Sequence[Any]) -> T:
    """Run a server's step as a task named after it and its round, such as ``prune-r7``.

    The task has no parameters and no result; what the step returns comes back past the engine,
    which would keep every result until the flow ends.
    """
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    returned: list[T] = []

    def body() -> None:
        returned.append(step(*arguments))

    Task(
        body,
        name=name,
        task_run_name=f"{name}-r{_round_of(name, arguments)}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )()
    return returned[0]


def _round_of(name: str, arguments: Sequence[Any]) -> int:
    """Find out a step's round: the state's own, or the next one for steps before it exists."""
    state = next(argument for argument in arguments if isinstance(argument, ServerState))
    return state.round_index + (name in ("dispatch", "aggregate"))
