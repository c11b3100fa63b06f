"""Servers and clients in processes of their own, which tests kill, race and start again.

They are forked from a process that has torch loaded already, so each costs milliseconds.
"""

import itertools
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import LostRaceError, RunExistsError
from fedx_core.clients.client import Place
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome, attempt
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import FileStore, S3Store, open_store
from fedx_core.wire.messages import ClientFailure, ClientJob

_processes = multiprocessing.get_context("forkserver")
# All that a run would import by and by, which takes longer than the run.
_processes.set_forkserver_preload(
    [
        "pytest",
        "fedx_core.rounds.federation",
        "boto3",
        "safetensors.torch",
        "torchvision",
        "torch._dynamo",
    ]
)


@dataclass(frozen=True)
class Point:
    """Where a process ends as by ``kill -9``.

    Args:
        verb: of the store, or ``link``: between the bytes of an object and its name.
        key: pattern of the object's key.
        number: which of the calls that fit.
        after: once the call is done, instead of before it.
    """

    verb: Literal["put", "create", "get", "delete", "link"]
    key: str
    number: int = 1
    after: bool = False


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function of this module in a process of its own, with this one's environment."""
    process = _processes.Process(target=_begin, args=(dict(os.environ), work, arguments))
    process.start()
    return process


def channel() -> tuple[Connection, Connection]:
    """Return the two ends of a pipe that processes started here may be given."""
    return _processes.Pipe()


def _begin(
    environment: Mapping[str, str], work: Callable[..., None], arguments: Sequence[Any]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


def die_at(point: Point) -> None:
    """End this process where a point says; for processes that were started here."""
    calls = itertools.count(1)

    def armed(original: Callable[..., Any]) -> Callable[..., Any]:
        def verb(self: Any, *arguments: Any, **named: Any) -> Any:
            key = str(getattr(arguments[0], "key", arguments[0]))
            hit = bool(re.search(point.key, key)) and next(calls) == point.number
            if hit and not point.after:
                die()
            found = original(self, *arguments, **named)
            if hit:
                die()
            return found

        return verb

    if point.verb == "link":
        original_link = os.link
        beside = armed(lambda self, path: original_link(self, path))
        os.link = beside
        return
    for store in (FileStore, S3Store):
        setattr(store, point.verb, armed(getattr(store, point.verb)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def coordinate(settings: ExperimentConfig, setting: Setting, point: Point | None = None) -> None:
    """Begin a run, or go on with it, to its end or the point."""
    if point is not None:
        die_at(point)
    begun = Journal(open_store(setting.place.store)).run() is not None
    for _ in federate(settings, setting, InProcess(1), resume=begun):
        pass


def insist(settings: ExperimentConfig, setting: Setting, losses: Path) -> None:
    """Go on with a run until it is done, however often another server is faster."""
    while True:
        try:
            return coordinate(settings, setting)
        except (LostRaceError, RunExistsError) as error:
            with losses.open("a") as file:
                file.write(f"{error.code}\n")


def work(job: ClientJob, place: Place, point: Point | None, mid_train: bool, said: Any) -> None:
    """Do a client's job, to its end or the point, and send what came of it."""
    if point is not None:
        die_at(point)
    if mid_train:
        from fedx_core.learning import training

        batches = training.batches

        def few(*arguments: Any) -> Iterator[Any]:
            yield from itertools.islice(batches(*arguments), 1)
            die()

        training.batches = few
    said.send(attempt(job, place))


@dataclass
class InProcesses(InProcess):
    """Clients in processes of their own, one after another; some are killed.

    Args:
        victim: client that is killed.
        point: where; None kills it amid its training.
        attempts: how many of its tries are.
        sending: kill it while it sends a request that holds this, instead; see :meth:`watch`.
    """

    victim: str = field(kw_only=True)
    point: Point | None = None
    attempts: int = 1
    sending: str = ""
    _sender: BaseProcess | None = None

    def watch(self, request: str, size: int) -> None:
        """Be told by a proxy what is being sent, and how much of it has come."""
        if self.sending and self.sending in request and size and self._sender is not None:
            self._sender.kill()
            raise ConnectionResetError("with what its machine had not sent yet")

    def do(self, job: ClientJob, place: Place) -> Outcome:
        killed = job.client == self.victim and job.attempt < self.attempts
        killed &= job.purpose == "train"
        ours, theirs = _processes.Pipe(duplex=False)
        point = self.point if killed else None
        mid_train = killed and point is None and not self.sending
        process = start(work, job, place, point, mid_train, theirs)
        self._sender = process if killed else None
        theirs.close()
        with ours:
            try:
                outcome: Outcome = ours.recv()
            except EOFError:
                process.join()
                reason = f"its process ended with {process.exitcode}"
                outcome = ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
            process.join()
        return outcome


def objects(setting: Setting) -> dict[str, int]:
    """Return the sizes of all objects of a run in a folder, by key; the journal apart."""
    found = {}
    for folder, part in ((setting.place.store, "store"), (setting.place.memory, "memory")):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "journal" not in path.parts:
                found[f"{part}/{path.relative_to(folder)}"] = path.stat().st_size
    return found


def final_state(setting: Setting) -> str:
    """Return the SHA-256 of the bytes of the last committed state."""
    store = open_store(setting.place.store)
    ref = Journal(store).commits()[-1].state
    checkpoint.unpack_server_state(store.get(ref))
    return ref.sha256
