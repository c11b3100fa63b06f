"""What a site needs for a job, granted: the coordinator's side of an order.

A grant to store something names its exact length, and both sides derive a payload's length from
the plan and the mask. Where senders choose what they send (``Schema.flips``), the site says the
length first, and is granted it then, if it can be one.
"""

from dataclasses import dataclass, field

from fedx_core.asks.base import Ask
from fedx_core.base import plugins
from fedx_core.base.errors import TooBigError
from fedx_core.clients.plan import MethodDesk, read_plan, set_up
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.sites.grants import Grant
from fedx_core.sites.manifest import MANIFEST_SIZE
from fedx_core.sites.notes import NOTE_SIZE
from fedx_core.sites.orders import intent_key, taken_key
from fedx_core.sites.presigner import Presigner
from fedx_core.store import Store
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob, Ref, Schema


@dataclass
class Granting:
    """Grants for the jobs of one run.

    Args:
        store: of the run.
        presigner: of that store.
    """

    store: Store
    presigner: Presigner
    _desk: MethodDesk | None = field(default=None, init=False, repr=False)
    _plan: Ref | None = field(default=None, init=False, repr=False)
    _mask: tuple[Ref | None, Mask | None] | None = field(default=None, init=False, repr=False)

    def grants(self, job: ClientJob, seconds: float) -> tuple[Grant, ...]:
        """Grant what a job names.

        Args:
            job: of one site.
            seconds: that the grants shall live.
        """
        least, most = self.lengths(job)
        stored = [(taken_key(job), NOTE_SIZE), (job.report_key, MANIFEST_SIZE)]
        if least != most:
            stored.append((intent_key(job), NOTE_SIZE))
        elif most:
            stored.append((job.uplink_key, most))
        return (
            *(self.presigner.get(ref.key, ref.size, seconds) for ref in job.named),
            *(self.presigner.put(key, size, seconds) for key, size in stored),
        )

    def for_ready(self, job: ClientJob, size: int, seconds: float) -> tuple[Grant, ...]:
        """Grant to store a payload of the length that its site has said, and the report.

        Raises:
            TooBigError: no payload of this job has that length.
        """
        least, most = self.lengths(job)
        if not least <= size <= most:
            raise TooBigError(
                f"{job.client} has a payload of {size} bytes, wanted {least} to {most}; not granted"
            )
        plan = self.presigner.get(job.plan.key, job.plan.size, seconds)
        stored = ((job.uplink_key, size), (job.report_key, MANIFEST_SIZE))
        return (plan, *(self.presigner.put(key, length, seconds) for key, length in stored))

    def lengths(self, job: ClientJob) -> tuple[int, int]:
        """Return the fewest and the most bytes of what a job's client sends; 0 for nothing."""
        ask: Ask = plugins.build("asks", job.purpose, {})
        desk = self._desk_of(job.plan)
        if not ask.updates:
            schema = ask.schema(desk.plan)
            return frame.lengths(schema) if schema.entries else (0, 0)
        schema = self._uplink(job, desk)
        return desk.up.lengths(schema) if schema.entries else (0, 0)

    def _uplink(self, job: ClientJob, desk: MethodDesk) -> Schema:
        if self._mask is None or self._mask[0] != job.mask:
            masked = desk.method.masked(desk)
            mask = checkpoint.fetch_mask(self.store, job.mask, desk, masked)
            self._mask = (job.mask, mask)
        return desk.wire(self._mask[1], job.variant).up

    def _desk_of(self, plan: Ref) -> MethodDesk:
        if self._desk is None or self._plan != plan:
            read = read_plan(self.store.get(plan))
            self._desk, self._plan, self._mask = set_up(read), plan, None
        return self._desk
