"""What a site's people have agreed to: plans, by the hash of their bytes.

    asked/HASH      a plan that an order named and nobody has agreed to
    asked/HASH.job  the job that named it
    approved/HASH   a plan that is agreed to: the same bytes

A plan says all that a site computes and sends: model, passes over the data, method and codec. One
approval covers every round that follows it; any other setting is another plan.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedx_core.asks.base import Ask
from fedx_core.base import plugins, strict_json
from fedx_core.base.config import Plugin
from fedx_core.base.errors import FedXError, PayloadError, PlanError, SiteError, TooBigError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.clients.plan import Plan, set_up
from fedx_core.sites.manifest import MANIFEST_SIZE
from fedx_core.store import Buffer, FileStore, reference
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob

MAX_PLAN = 256 * 1024
"""Bytes of the longest plan that is looked at."""

SHORTEST = 8
"""Digits of a hash by which people may name a plan."""

_HASH = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class Asked:
    """A plan that an order named, waiting for people.

    Args:
        sha256: of its bytes.
        plan: what it says.
        job: the first that named it.
    """

    sha256: str
    plan: Plan
    job: ClientJob


@dataclass(frozen=True)
class Unreadable:
    """A plan that waits and can't be read, so that nobody can agree to it.

    Args:
        sha256: the name that it lies under.
        why: it can't, and what to do.
    """

    sha256: str
    why: str


class Approvals:
    """Plans of one site.

    Args:
        folder: see the module's docstring.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FileStore(folder)

    def require(self, sha256: str) -> None:
        """Let a plan pass if people have agreed to it.

        Raises:
            PlanError: they have not.
        """
        data = self._files.read(f"approved/{_hash(sha256)}")
        if data is None or reference("", data).sha256 != sha256:
            raise PlanError(
                f"nobody at this site has agreed to plan {sha256[:12]}; its people read it and "
                f"agree with `fedx site approve {sha256[:12]}`, then the coordinator's next "
                "attempt counts"
            )

    def ask(self, job: ClientJob, plan: Buffer) -> None:
        """Keep a plan for people to read.

        Args:
            job: that names it.
            plan: its bytes.

        Raises:
            TooBigError: it is longer than any plan.
            PayloadError: these are not the bytes that the job names, or no plan.
        """
        if len(plan) > MAX_PLAN:
            raise TooBigError(f"a plan of {len(plan)} bytes, wanted {MAX_PLAN} at most")
        sha256 = reference("", plan).sha256
        if sha256 != job.plan.sha256:
            raise PayloadError(f"plan {job.plan.sha256[:12]} has other bytes than its hash says")
        _plan(plan)
        if self._files.read(f"asked/{sha256}.job") is None:
            self._files.put(f"asked/{sha256}", plan)
            self._files.put(f"asked/{sha256}.job", canonical(job))

    def asked(self) -> Iterator[Asked | Unreadable]:
        """Go through the plans that wait, in order of their hashes; one hides no other."""
        for sha256 in self._waiting():
            try:
                yield self._asked(sha256)
            except FedXError as error:
                yield Unreadable(sha256, str(error))

    def _waiting(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "asked").glob("*.job"))

    def approved(self) -> tuple[str, ...]:
        """Name the plans that are agreed to."""
        return tuple(sorted(path.name for path in (self.folder / "approved").glob("[0-9a-f]*")))

    def find(self, prefix: str) -> Asked:
        """Return the one waiting plan whose hash begins so.

        Raises:
            PlanError: there is none, or several, or too few digits to tell.
        """
        return self._asked(_only(prefix, self._waiting(), "waiting"))

    def agreed(self, prefix: str) -> str:
        """Return the hash of the one approved plan that begins so.

        Raises:
            PlanError: as :meth:`find`.
        """
        return _only(prefix, self.approved(), "approved")

    def approve(self, sha256: str) -> None:
        """Agree to a plan that waits.

        Raises:
            PlanError: none of this hash waits.
            PayloadError: its bytes have changed since.
        """
        asked = self._asked(_hash(sha256))
        plan = self._files.read(f"asked/{asked.sha256}")
        assert plan is not None
        self._files.put(f"approved/{sha256}", plan)
        self._files.delete(f"asked/{sha256}.job")
        self._files.delete(f"asked/{sha256}")

    def withdraw(self, sha256: str) -> None:
        """Agree no longer; what is being trained goes on to its end.

        Raises:
            PlanError: the plan was not agreed to.
        """
        self.require(sha256)
        self._files.delete(f"approved/{sha256}")

    def _asked(self, sha256: str) -> Asked:
        plan, job = (self._files.read(f"asked/{sha256}{end}") for end in ("", ".job"))
        if plan is None or job is None:
            raise PlanError(f"no plan {sha256[:12]} waits; `fedx site approve` lists those that do")
        if reference("", plan).sha256 != sha256:
            raise PayloadError(
                f"{self.folder / 'asked' / sha256} has changed since it came; delete it, and the "
                "coordinator's next attempt brings it again"
            )
        try:
            return Asked(sha256, _plan(plan), parse(ClientJob, strict_json.loads(job, MAX_PLAN)))
        except ValueError as error:
            raise SiteError(
                f"{self.folder / 'asked' / sha256}.job is damaged ({error}); delete it, and the "
                "coordinator's next attempt brings it again"
            ) from error


def describe(plan: Plan, job: ClientJob) -> str:
    """Say in words what a plan does with a site's data, and what leaves the site.

    Args:
        plan: that waits.
        job: the first that named it.

    Raises:
        FedXError: this version of FedX can't follow the plan at all.
    """
    settings = plan.training
    labels = {
        "single": "one label per image",
        "multi": "several labels per image",
        "pixels": "one label per pixel",
    }[plan.label_kind]
    passes = "1 pass" if settings.epochs == 1 else f"{settings.epochs} passes"
    return f"""\
run     {job.run}, which asks in round {job.round_index} to {_ask(job.purpose).verb}
reads   images and labels of the shard of {job.client}, and nothing else at this site:
        the training part to train, the test part to score the model if it is asked to
trains  {plan.model}, {plan.bands} bands in, {plan.classes} classes out ({labels})
        {passes} over the training part per round, {settings.batch_size} images per step,
        {settings.optimiser} at a learning rate of {settings.learning_rate:g}
learns  {_named(settings.objective)}
method  {_named(plan.method)}
codec   {_codecs(plan)}
weights {_weights(plan)}
leaves  {_leaving(plan)}
        {MANIFEST_SIZE:,} bytes of signed report a job: how many images, how many seconds,
        and averages such as the loss; of scoring, the metrics{_counting(plan)}
        {_statistics_size(plan):,} bytes, if it is asked for before the first round:
        the number of pixels, and two sums for each band
stays   images, labels, and what the method keeps between rounds"""


def _leaving(plan: Plan) -> str:
    desk = set_up(plan)
    up = desk.wire(None).up
    if not up.entries:
        return "no update: the method sends none"
    _, most = desk.up.lengths(up)
    sections = ", ".join(sorted({entry.name.partition("/")[0] for entry in up.entries}))
    return (
        f"at most {most:,} bytes of update per round, less once units are pruned:\n        "
        f"{len(up.entries)} tensors of {sections}"
    )


def _weights(plan: Plan) -> str:
    exist = "all exist"
    if plan.support is not None and plan.support.name != "dense":
        exist = f"of those that exist: {_named(plan.support)}"
    drawn = "the coordinator's" if plan.first_model is None else "drawn here, from the plan's seed"
    return f"{exist}; the first ones are {drawn}"


def _codecs(plan: Plan) -> str:
    method = plan.method.build("methods")
    down = method.downlink_codec or plan.codec
    up = method.uplink or plan.uplink or plan.codec
    other = f"; of what the site sends, {_named(up)}" if up != down else ""
    return _named(down) + other


def _counting(plan: Plan) -> str:
    schema = _ask("evaluate").schema(plan)
    if not schema.entries:
        return ""
    return (
        f", and {frame.lengths(schema)[1]:,} bytes:\n        "
        "for each two classes, how many test pixels of one were said to be of the other"
    )


def _statistics_size(plan: Plan) -> int:
    return frame.lengths(_ask("statistics").schema(plan))[1]


def _ask(name: str) -> Ask:
    ask: Ask = plugins.build("asks", name, {})
    return ask


def _named(plugin: Plugin) -> str:
    said = _shown({"name": plugin.name, **plugin.params})
    return textwrap.fill(said, 90, subsequent_indent=" " * 8)


def _shown(value: object) -> str:
    """Write a parameter so that nothing in it passes for a line of the description."""
    if isinstance(value, Mapping):
        given = {key: said for key, said in sorted(value.items()) if key != "name"}
        params = ", ".join(f"{_shown(key)} {_shown(said)}" for key, said in given.items())
        name = _shown(value.get("name", "settings"))
        return f"{name} ({params})" if params else name
    return value if isinstance(value, str) and _WORD.fullmatch(value) else repr(value)


def _plan(data: Buffer) -> Plan:
    try:
        return parse(Plan, strict_json.loads(data, MAX_PLAN))
    except (ValueError, RecursionError) as error:
        raise PayloadError(
            f"this is no plan that this version of FedX can read ({error}); install the "
            "coordinator's version"
        ) from error


def _only(prefix: str, hashes: Sequence[str], which: str) -> str:
    found = [each for each in hashes if each.startswith(prefix)]
    if len(found) != 1 or len(prefix) < SHORTEST:
        there = ", ".join(each[:12] for each in hashes) or "none"
        raise PlanError(
            f"{len(found)} {which} plans begin with {prefix[:64]!r}; name one by {SHORTEST} digits "
            f"or more. {which.capitalize()}: {there}"
        )
    return found[0]


def _hash(sha256: str) -> str:
    if not _HASH.fullmatch(sha256):
        raise PlanError(f"{sha256[:80]!r} is no hash of a plan: 64 hexadecimal digits are")
    return sha256
