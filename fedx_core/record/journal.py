"""What has happened in a run, in write-once objects: open → closed → commit, round by round.

    run.json                the run: protocol, name, settings; whoever creates it owns the run
    journal/0007/open       the round has begun: base, mask, cohort
    journal/0007/closed     who counts, by hash; all that follows is a pure function of it
    journal/0007/closed.1   who counts instead, where updates were lost before the commit
    journal/0007/answered.1 what came of the round's first question beside training; .1.1 instead
    journal/0007/commit     the state by its hash, the report, what each client holds, and what led
                            to a pruning event
    journal/rollback.1      rounds after one named there are void; what comes in their place lies
                            beside them, in ``journal/0007.1``, ``.2`` after the second time

A killed server finds the last commit and repeats the step that is missing, to the same bytes. Two
servers can race for these names alone, and each is created only if absent: one wins.

Records are on the disk before the next step begins. The updates that ``closed`` names may not be:
where the machine went down before ``commit`` and took some along, whoever's update is lost trains
again, to the same bytes on the same machine, and the round is closed anew beside the first time.

A record is a line of JSON, and below it the SHA-256 of that line. Those of earlier versions lack
the second line.
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

from fedx_core.base import strict_json
from fedx_core.base.errors import (
    AlreadyExistsError,
    LostRaceError,
    PayloadError,
    RunExistsError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.record.records import Answered, Closed, Commit, Opened, Rollback, Run
from fedx_core.store import Buffer, Store
from fedx_core.wire.messages import LARGEST_RECORD, PROTOCOL

RUN_KEY = "run.json"


class Journal:
    """Reads and creates a run's write-once records."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._rollbacks: list[Rollback] | None = None

    def rollbacks(self) -> list[Rollback]:
        """Return how often the run was rolled back, the first time first; read once."""
        if self._rollbacks is None:
            found: list[Rollback] = []
            while (plain := self._read(f"journal/rollback.{len(found) + 1}")) is not None:
                found.append(parse(Rollback, plain))
            self._rollbacks = found
        return self._rollbacks

    def roll_back(self, to: int) -> Rollback:
        """Let the run go on after an earlier round; nothing is erased.

        Raises:
            LostRaceError: somebody else has rolled it back.
        """
        record = Rollback(to=to, last=len(self.commits()) - 1)
        self._create(f"journal/rollback.{len(self.rollbacks()) + 1}", record)
        self._rollbacks = None
        return record

    def mark(self, round_index: int) -> str:
        """Name a round in keys: ``0007``, or ``0007.1`` where one of that number is void."""
        number = max(
            (n for n, r in enumerate(self.rollbacks(), 1) if r.to < round_index), default=0
        )
        return _mark(round_index, number)

    def begin(self, run: Run) -> None:
        """Claim the run folder.

        Raises:
            RunExistsError: it holds a run already.
        """
        try:
            self.store.create(RUN_KEY, _summed(canonical(run)))
        except AlreadyExistsError as error:
            raise RunExistsError(
                f"run {run.name!r} exists already; go on with `fedx resume {run.name}`, "
                "or choose another name with --run"
            ) from error

    def run(self) -> Run | None:
        """Return the run that this store holds, or None.

        Raises:
            VersionError: it was written by another version.
            PayloadError: it is not as it was written.
        """
        if (data := self.store.read(RUN_KEY)) is None:
            return None
        plain = _plain(RUN_KEY, _line(data))
        found = plain.get("protocol") if isinstance(plain, dict) else None
        if found != PROTOCOL:
            raise VersionError(
                f"the run folder was written by protocol {found}, this is {PROTOCOL}; "
                "resume it with the version that began it, or start a new run"
            )
        return parse(Run, self._read(RUN_KEY))

    def open(self, record: Opened) -> None:
        """Say that a round has begun; a resumed server says the same again."""
        self._create(f"{self._folder(record.round_index)}/open", record)

    def opened(self, round_index: int) -> Opened | None:
        """Return how a round began, or None."""
        plain = self._read(f"{self._folder(round_index)}/open")
        return None if plain is None else parse(Opened, plain, gaps=True)

    def close(self, record: Closed, instead_of: int = 0) -> None:
        """Fix who counts in a round.

        Args:
            record: who does.
            instead_of: how many closings of the round were read and found to have lost updates.
        """
        self._create(self._closing(record.round_index, instead_of), record)

    def closings(self, round_index: int) -> list[Closed]:
        """Return who counts in a round, and before it what was put in its place; may be empty."""
        found: list[Closed] = []
        while (plain := self._read(self._closing(round_index, len(found)))) is not None:
            found.append(parse(Closed, plain, gaps=True))
        return found

    def closed(self, round_index: int) -> Closed | None:
        """Return who counts in a round, or None if that isn't fixed yet."""
        closings = self.closings(round_index)
        return closings[-1] if closings else None

    def answer(self, record: Answered, instead_of: int = 0) -> None:
        """Fix what came of a question beside training; see :meth:`close`."""
        folder = self._folder(record.round_index)
        self._create(_answering(folder, record.question, instead_of), record)

    def answers(self, round_index: int, question: int) -> list[Answered]:
        """Return what came of a question, and before it what was put in its place; may be empty."""
        return list(self._answers(self._folder(round_index), question).values())

    def commit(self, record: Commit) -> None:
        """Finish a round."""
        self._create(f"{self._folder(record.round_index)}/commit", record)

    def committed(self, round_index: int) -> Commit | None:
        """Return a round's commit, or None."""
        if round_index < 0:
            return None
        plain = self._read(f"{self._folder(round_index)}/commit")
        return None if plain is None else parse(Commit, plain, gaps=True)

    def commits(self) -> list[Commit]:
        """Return all commits in order; round 0 is the start."""
        found: list[Commit] = []
        while (commit := self.committed(len(found))) is not None:
            found.append(commit)
        return found

    def records(self) -> Iterator[tuple[str, Rollback | Opened | Answered | Closed | Commit]]:
        """Return all records below ``journal`` with their keys, those of void rounds too."""
        rollbacks = self.rollbacks()
        for number, rollback in enumerate(rollbacks, 1):
            yield f"journal/rollback.{number}", rollback
        for number, first in enumerate((0, *(rollback.to + 1 for rollback in rollbacks))):
            for round_index in itertools.count(first):
                found = list(self._of_round(f"journal/{_mark(round_index, number)}"))
                if not found:
                    break
                yield from found

    def _of_round(self, folder: str) -> Iterator[tuple[str, Opened | Answered | Closed | Commit]]:
        if (plain := self._read(key := f"{folder}/open")) is not None:
            yield key, parse(Opened, plain, gaps=True)
        for question in itertools.count(1):
            if not (answers := self._answers(folder, question)):
                break
            yield from answers.items()
        for number in itertools.count():
            if (plain := self._read(key := _closing(folder, number))) is None:
                break
            yield key, parse(Closed, plain, gaps=True)
        if (plain := self._read(key := f"{folder}/commit")) is not None:
            yield key, parse(Commit, plain, gaps=True)

    def _answers(self, folder: str, question: int) -> dict[str, Answered]:
        found: dict[str, Answered] = {}
        while (plain := self._read(key := _answering(folder, question, len(found)))) is not None:
            found[key] = parse(Answered, plain, gaps=True)
        return found

    def _folder(self, round_index: int) -> str:
        return f"journal/{self.mark(round_index)}"

    def _closing(self, round_index: int, number: int) -> str:
        return _closing(self._folder(round_index), number)

    def _create(self, key: str, record: Any) -> None:
        data = _summed(canonical(record))
        try:
            self.store.create(key, data)
        except AlreadyExistsError as error:
            # Fields that are newer than what is there have their defaults in both.
            present = self._read(key)
            if present is None or canonical(parse(type(record), present, gaps=True)) != canonical(
                record
            ):
                raise LostRaceError(
                    f"{key} was written by another server of this run; this one stops and has "
                    "changed nothing"
                ) from error

    def _read(self, key: str) -> Any:
        data = self.store.read(key, LARGEST_RECORD)
        if data is None:
            return None
        line = _line(data)
        if bytes(data) not in (line, _summed(line)):
            raise PayloadError(
                f"{key} is corrupt: it is not what its SHA-256 was made of; restore it from a copy"
            )
        return _plain(key, line)


def _mark(round_index: int, number: int) -> str:
    return f"{round_index:04d}" + (f".{number}" if number else "")


def _closing(folder: str, number: int) -> str:
    return f"{folder}/closed" + (f".{number}" if number else "")


def _answering(folder: str, question: int, number: int) -> str:
    return f"{folder}/answered.{question}" + (f".{number}" if number else "")


def _summed(line: bytes) -> bytes:
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _line(data: Buffer) -> bytes:
    return bytes(data).partition(b"\n")[0]


def _plain(key: str, line: bytes) -> Any:
    try:
        # Earlier versions wrote scores that are NaN as such, and not as null.
        return strict_json.loads(line, LARGEST_RECORD, finite=False)
    except PayloadError as error:
        raise type(error)(f"{key} is corrupt: {error}; restore it from a copy") from error
