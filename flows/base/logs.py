"""The core's log lines among Prefect's: on the page of the flow run that they belong to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

CORE = "fedx_core"
_TASKS = "prefect.task_runs"


class _Forward(logging.Handler):
    """Hands records to a flow run's logger, also from threads that know nothing of the run."""

    def __init__(self, to: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        self._to.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out that a task has completed: dozens of equal lines in a round would bury it."""
    return not record.getMessage().startswith("Finished in state Completed")


@contextmanager
def shown() -> Iterator[None]:
    """Show what the core logs, from INFO on, in the flow run or task run that this is called in.

    What Prefect would say of each task that has completed is left out; the task's page says it.

    Inside another one of the same process, the outer one keeps showing everything.
    """
    from prefect.logging import get_run_logger

    core = logging.getLogger(CORE)
    if any(isinstance(handler, _Forward) for handler in core.handlers):
        yield
        return
    handler, level = _Forward(get_run_logger()), core.level
    core.addHandler(handler)
    logging.getLogger(_TASKS).addFilter(_is_news)
    core.setLevel(min(core.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        logging.getLogger(_TASKS).removeFilter(_is_news)
        core.removeHandler(handler)
        core.setLevel(level)
