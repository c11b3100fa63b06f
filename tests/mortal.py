"""Clients in worker processes that stay, as on a work pool, until one of them is killed.

Who is killed is drawn from the run's seed, and when as a share of what a job takes; so the process
may be anywhere: reading the plan, training, uploading, done and not yet heard of.
"""

import json
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from coordinators import channel, start
from fedx_core.base import seeding
from fedx_core.base.config import ExperimentConfig
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, Outcome, attempt
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.wire.messages import ClientFailure, ClientJob


def labour(jobs: Connection) -> None:
    """Do jobs as they come, for as long as somebody sends any."""
    while True:
        try:
            job, place = jobs.recv()
        except EOFError:
            return
        jobs.send(attempt(job, place))


@dataclass(eq=False)
class Worker:
    """A process that does one job after another."""

    process: BaseProcess
    pipe: Connection
    job: ClientJob | None = None
    began: float = 0.0
    dies: float | None = None
    """When, by the monotonic clock, unless its job is done before."""
    killed: bool = False

    def give(self, job: ClientJob, place: Place, dies_after: float | None) -> None:
        """Hand it a job, and say after how many seconds it dies."""
        self.job, self.began = job, time.monotonic()
        self.dies = None if dies_after is None else self.began + dies_after
        self.pipe.send((job, place))


@dataclass
class Mortal:
    """Some workers, of which now and then one is killed amid a job and another one started.

    Args:
        rate: share of the tries in which the worker is killed, in [0, 1].
        seed: of the draws; each is of its round, client and attempt alone.
    """

    rate: float
    seed: int = 0
    workers: int = 2
    killed: list[tuple[str, int, str, int]] = field(default_factory=list)
    """Purpose, round, client and attempt of every job that a kill has ended."""
    _queue: list[tuple[ClientJob, Place]] = field(default_factory=list)
    _staff: list[Worker] = field(default_factory=list)
    _typical: float = 0.1
    """Seconds that the last job took."""

    def __enter__(self) -> "Mortal":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._staff:
            worker.pipe.close()  # which is how it hears that there is no more to do

    def server_step(self, name: str, step: Any, *arguments: Any) -> Any:
        return step(*arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        self._queue += [(job, place) for job in jobs]

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        assert timeout is None
        while len(self._staff) < self.workers:
            self._staff.append(_hired())
        for worker in self._staff:
            if self._queue and worker.job is None:
                job, place = self._queue.pop(0)
                worker.give(job, place, self._drawn(job))
        busy = [worker for worker in self._staff if worker.job]
        last = [worker.dies for worker in busy if worker.dies is not None]
        left = max(min(last) - time.monotonic(), 0.0) if last else None
        heard = wait([worker.pipe for worker in busy], left)
        outcomes = []
        for worker in busy:
            if worker.pipe in heard:
                outcomes.append(self._outcome(worker))
            elif worker.dies is not None and worker.dies <= time.monotonic():
                worker.process.kill()
                worker.dies, worker.killed = None, True
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        raise AssertionError("nobody is late")

    def memory(self) -> float:
        """Return the MiB that the larger of the workers holds."""
        sizes = (psutil.Process(w.process.pid).memory_info().rss for w in self._staff)
        return max(sizes, default=0) / 2**20

    def _drawn(self, job: ClientJob) -> float | None:
        """Say after how many seconds of a job its worker dies, if it does."""
        place = (job.round_index, job.client, job.purpose, job.attempt)
        draws = random.Random(seeding.derive(self.seed, *place))
        return draws.uniform(0.0, 1.2) * self._typical if draws.random() < self.rate else None

    def _outcome(self, worker: Worker) -> Outcome:
        job = worker.job
        assert job is not None
        try:
            outcome: Outcome = worker.pipe.recv()
        except (EOFError, OSError):  # the latter if it has read half of its job, or sent half
            self._buried(worker)
            self.killed.append((job.purpose, job.round_index, job.client, job.attempt))
            return ClientFailure(client=job.client, attempt=job.attempt, reason="killed")
        if worker.killed:  # when it had said all
            self._buried(worker)
        self._typical = time.monotonic() - worker.began
        worker.job = worker.dies = None
        return outcome

    def _buried(self, worker: Worker) -> None:
        worker.process.join()
        assert worker.process.exitcode == -signal.SIGKILL
        worker.pipe.close()
        self._staff.remove(worker)


def _hired() -> Worker:
    ours, theirs = channel()
    worker = Worker(start(labour, theirs), ours)
    theirs.close()  # or its end would not be heard
    return worker


@dataclass
class Recalled(InProcess):
    """Clients in this process; the same ones are lost in the same rounds as in another run.

    Args:
        lost: by round, who did not count.
    """

    lost: dict[int, list[str]] = field(default_factory=dict)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if job.purpose == "train" and job.client in self.lost.get(job.round_index, ()):
            return ClientFailure(client=job.client, attempt=job.attempt, reason="as recalled")
        return super().do(job, place)


def soak(settings: ExperimentConfig, setting: Setting, rate: float, figures: Path) -> None:
    """Run a federation, and write down after each round what its process holds."""
    me, rows = psutil.Process(), []
    with Mortal(rate) as runtime:
        for _ in federate(settings, setting, runtime):
            held = (me.memory_info().rss / 2**20, me.num_fds(), me.num_threads())
            rows.append([*held, runtime.memory(), time.monotonic()])
    figures.write_text(json.dumps({"rows": rows, "killed": runtime.killed}))


def replay(settings: ExperimentConfig, setting: Setting, lost: dict[int, list[str]]) -> None:
    """Run a federation in which the same clients are lost, without anything going wrong."""
    for _ in federate(settings, setting, Recalled(lost=lost)):
        pass
