"""Prefect as the doorbell: a flow run of ``fedx-site/<name>`` has a site's worker take a letter."""

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fedx_core.wire.messages import ClientJob
from flows.prefect import children
from flows.prefect.prompt import Away, Prompt

if TYPE_CHECKING:
    from uuid import UUID

FLOW = "fedx-site"


@dataclass
class Waking:
    """Rings, at most once at a time for each site; what was not answered by the end is taken back.

    Args:
        warn: takes one line for people.
    """

    warn: Callable[[str], None]
    _ask: Prompt = field(default_factory=Prompt, init=False)
    _rung: dict[str, "UUID"] = field(default_factory=dict, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def __enter__(self) -> "Waking":
        """Open Prefect's client."""
        self._ask.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take back what no worker has begun."""
        try:
            children.cancel(self._ask, self._rung.values())
        finally:
            self._ask.__exit__(kind, error, trace)

    def __call__(self, job: ClientJob, letter: bytes) -> bool:
        """Start a flow run, unless the site has one that has not ended.

        Returns:
            Whether to try again soon, since Prefect's server did not answer.
        """
        from prefect.exceptions import ObjectNotFound

        try:
            if (run_id := self._rung.get(job.client)) is not None:
                runs = children.read(self._ask, [run_id])
                if any(run.state is not None and not run.state.is_final() for run in runs):
                    return False
                if runs and runs[0].state is not None and runs[0].state.message:
                    self._tell(f"{job.client}: {runs[0].state.message}")
            self._ring(job, letter)
        except ObjectNotFound:
            self._tell(
                f"{job.client} does not take its order, and Prefect knows no {FLOW}/{job.client}; "
                f"start `fedx site serve` there, or deploy it with `python -m flows.sites.deploy "
                f"{job.client}`"
            )
        except Away as error:
            self._tell(f"Prefect's server does not answer ({error}), so {job.client} is not woken")
            return True
        return False

    def _ring(self, job: ClientJob, letter: bytes) -> None:
        from prefect.deployments import run_deployment

        from flows.prefect.client import name_of

        run: Any = self._ask(
            run_deployment,
            f"{FLOW}/{job.client}",
            parameters={"order": base64.b64encode(letter).decode()},
            flow_run_name=name_of(job.round_index, job.client, job.purpose, job.attempt),
            tags=[f"run:{job.run}", f"client:{job.client}"],
            idempotency_key=uuid.uuid4().hex,
            timeout=0,
            as_subflow=True,
        )
        self._rung[job.client] = run.id

    def _tell(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            self.warn(said)
