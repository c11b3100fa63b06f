"""What a coordinator asks of a site: a job with the grants that it needs, signed and sealed.

Whoever carries an order (Prefect's database among them) can neither read nor change it. A site
takes it only if its coordinator signed it, for this site, and if it grants nothing that the job
does not name:

    get   the plan, the downlink, the mask
    put   the payload, the announcement of a payload whose length is not known before, the report,
          and a word that the order has arrived
    get   one object under ``inbox/SITE/``, where the next order will lie
"""

import math
import re
from dataclasses import dataclass

from fedx_core.base import strict_json
from fedx_core.base.errors import (
    IdentifierError,
    PayloadError,
    StaleError,
    TooBigError,
    UnknownSiteError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites.grants import Grant
from fedx_core.sites.keys import Keys, Public, check_name, seal, unsigned
from fedx_core.wire.messages import ClientJob

MAX_ORDER = 64 * 1024
"""Bytes of the longest order; one with seven grants takes some eight thousand."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Of a run whose orders a site takes: it becomes part of folders' names there."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Order:
    """One job of one site, and all that it may touch for it.

    Args:
        job: what to do.
        grants: what it may fetch and store for it.
        inbox: where the next order will lie; None where the site is not to wait for one.
        expires: seconds since 1970, by the coordinator's clock.
    """

    job: ClientJob
    grants: tuple[Grant, ...]
    inbox: Grant | None
    expires: float

    @property
    def all_grants(self) -> tuple[Grant, ...]:
        """The job's grants and the inbox."""
        return (*self.grants, *(() if self.inbox is None else (self.inbox,)))


def intent_key(job: ClientJob) -> str:
    """Say where a site announces a payload whose length it alone knows."""
    return f"{job.report_key}.intent"


def taken_key(job: ClientJob) -> str:
    """Say where a site leaves word that it has the order."""
    return f"{job.report_key}.taken"


def inbox_prefix(site: str) -> str:
    """Say where orders for a site lie; what follows is random and serves once."""
    return f"inbox/{check_name(site)}/"


def issue(order: Order, keys: Keys, site: Public) -> bytes:
    """Sign an order as its coordinator, and seal it to its site.

    Raises:
        TooBigError: it is longer than a site reads.
    """
    letter = seal(site, keys.signed("order", canonical(order)))
    if len(letter) > MAX_ORDER:
        raise TooBigError(f"an order of {len(letter)} bytes, sites read {MAX_ORDER} at most")
    return letter


def open_order(data: bytes, keys: Keys, coordinator: Public, *, now: float | None = None) -> Order:
    """Read an order, or refuse it; nothing of it is done before.

    Args:
        data: what :func:`issue` wrote.
        keys: of this site.
        coordinator: whose orders it takes.
        now: seconds since 1970; None where it does not matter how old an order is.

    Raises:
        TooBigError: it is longer than any order.
        SignatureError: it is not sealed to this site, or not signed by its coordinator.
        VersionError: the coordinator speaks another protocol.
        UnknownSiteError: its job is for another site.
        IdentifierError: a name or a key in it could lead elsewhere.
        PayloadError: it is malformed, or grants more than its job names.
        StaleError: it has expired.
    """
    if len(data) > MAX_ORDER:
        raise TooBigError(f"an order of {len(data)} bytes, wanted {MAX_ORDER} at most")
    said = unsigned(coordinator, "order", keys.open(data))
    try:
        order = parse(Order, strict_json.loads(said, MAX_ORDER, finite=False))
    except ValueError:
        # What is wrong in it would be shown with its value, and that may be a signed URL.
        raise PayloadError(
            "an order that is signed but malformed; install one version of FedX at the "
            "coordinator and at all sites"
        ) from None
    _check_job(order.job, keys.name)
    _check_grants(order)
    if now is not None and not order.expires > now:
        raise StaleError(
            f"an order of round {order.job.round_index} that expired {now - order.expires:.0f} s "
            "ago by this machine's clock; the coordinator sends another, unless this clock is "
            "wrong (`fedx doctor --site`)"
        )
    return order


def _check_job(job: ClientJob, site: str) -> None:
    """Check what becomes part of names and paths at a site."""
    if job.client != site:
        raise UnknownSiteError(
            f"an order for {job.client[:80]!r}, this is {site}; the coordinator has mixed up "
            "the keys of two sites, nothing was done"
        )
    if not RUN_NAME.fullmatch(job.run):
        raise IdentifierError(
            f"an order of run {job.run[:80]!r}; run names match {RUN_NAME.pattern}"
        )
    if job.round_index < 0 or job.attempt < 0:
        raise IdentifierError(f"an order of round {job.round_index}, attempt {job.attempt}")
    if job.memory is not None and not job.memory.key.startswith(f"memory/{site}/"):
        raise IdentifierError(f"an order that names {job.memory.key[:80]!r} as memory of {site}")
    for ref in (*job.named, *([job.memory] if job.memory else [])):
        if not (_SHA256.fullmatch(ref.sha256) and ref.size >= 0):
            raise PayloadError(f"an order whose reference to {ref.key[:80]!r} is malformed")


def _check_grants(order: Order) -> None:
    """Check that an order grants what its job names, each once, and nothing else."""
    job = order.job
    fetched = {ref.key: ref for ref in job.named}
    stored = {job.uplink_key, job.report_key, intent_key(job), taken_key(job)}
    seen: set[tuple[str, str]] = set()
    for grant in order.grants:
        named = grant.key in fetched if grant.verb == "get" else grant.key in stored
        if not named or (grant.verb, grant.key) in seen:
            raise IdentifierError(
                f"an order that grants {grant.verb} of {grant.key[:80]!r}, which its job "
                f"{'names once' if named else 'does not name'}"
            )
        if grant.verb == "get" and grant.size != fetched[grant.key].size:
            raise PayloadError(
                f"an order that grants {grant.size} bytes of {grant.key!r}, which has "
                f"{fetched[grant.key].size}"
            )
        seen.add((grant.verb, grant.key))
    inbox = order.inbox
    if inbox is not None and (
        inbox.verb != "get" or not inbox.key.startswith(inbox_prefix(job.client))
    ):
        raise IdentifierError(
            f"an order whose inbox is {inbox.verb} of {inbox.key[:80]!r}, wanted get under "
            f"{inbox_prefix(job.client)}"
        )
    if any(g.size < 0 or not math.isfinite(g.expires) for g in order.all_grants):
        raise PayloadError("an order with a grant of negative size or without an end")
    if not math.isfinite(order.expires):
        raise PayloadError("an order without an end")
