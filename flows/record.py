"""What a run has written down, read again: for reports, comparisons and tracking."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedx_core import config
from fedx_core.config import ExperimentConfig
from fedx_core.errors import FedXError, RunError
from fedx_core.messages import RoundReport, parse
from flows import run_folder
from flows.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, finished or still going.

    Args:
        folder: where it lies.
        settings: it ran with.
        reports: of its committed rounds, at least one.
        notes: what ``run.yaml`` says.
    """

    folder: RunFolder
    settings: ExperimentConfig
    reports: tuple[RoundReport, ...]
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.name


def find(root: Path, names: Iterable[str]) -> list[Record]:
    """Read runs by name, or by the path of their folder where a name has a slash.

    Raises:
        RunError: there is no such run, or it has no round yet.
    """
    return [
        read(RunFolder(Path(name)) if "/" in name else run_folder.find(root, name))
        for name in names
    ]


def read(folder: RunFolder) -> Record:
    """Read one run's record.

    Raises:
        RunError: the folder holds no run with a finished round, or a file of it is damaged.
    """
    rounds = folder.results / "rounds.json"
    try:
        reports = tuple(parse(RoundReport, row) for row in json.loads(rounds.read_bytes()))
    except FileNotFoundError:
        reports = ()
    except (OSError, ValueError, FedXError) as error:
        raise RunError(
            f"{rounds} can't be read ({error}); `fedx resume {folder.name}` writes it anew"
        ) from error
    if not reports:
        raise RunError(
            f"{folder.path} holds no finished round; start the run with "
            f"`fedx run --run {folder.name}`, or wait for its first round"
        )
    return Record(
        folder=folder, settings=config.load(folder.config), reports=reports, notes=folder.notes()
    )
