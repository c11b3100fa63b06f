"""What a run has written down, read again: for reports, comparisons and tracking."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import FedXError, RunError
from fedx_core.base.frozen_json import parse
from fedx_core.base.state import StateDict
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.wire.messages import RoundReport
from flows.runs import run_folder
from flows.runs.run_folder import RunFolder


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
        """Name of the run, also where a copy of its folder is called otherwise."""
        return str(self.notes.get("run") or self.folder.name)


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
        reports = tuple(
            parse(RoundReport, row, gaps=True) for row in json.loads(rounds.read_bytes())
        )
    except FileNotFoundError:
        reports = ()
    except (OSError, ValueError, FedXError) as error:
        raise _damaged(rounds, error, folder) from error
    if not reports:
        raise RunError(
            f"{folder.path} holds no finished round; start the run with "
            f"`fedx run --run {folder.name}`, or wait for its first round"
        )
    return Record(
        folder=folder, settings=config.load(folder.config), reports=reports, notes=folder.notes()
    )


@dataclass(frozen=True, kw_only=True)
class PruningEvent:
    """What a pruning event saw and what it decided.

    Args:
        round_index: after which round it took place.
        before: the model that was pruned, all entries, dead ones of earlier events zero.
        scores: one score a unit, float32 (units,), by layer in the model's order.
        mask: what is kept from then on.
    """

    round_index: int
    before: StateDict
    scores: Mapping[str, Tensor]
    mask: Mask


def pruning_events(folder: RunFolder) -> tuple[PruningEvent, ...]:
    """Read ``results/pruning/NNNN.safetensors`` of every pruning event, in order of rounds.

    Raises:
        RunError: a file is damaged.
    """
    return tuple(_event(path, folder) for path in sorted(folder.pruning.glob("*.safetensors")))


def clients(folder: RunFolder) -> dict[str, Any] | None:
    """Read who the clients are and what they hold, ``results/clients.json``.

    Returns:
        ``dataset``, ``label_kind``, ``class_names``, ``group_names`` and ``clients``: a list, in
        the run's order, of ``name``, ``sizes`` (images by part), ``labels`` (images per class, by
        part) and ``groups`` (images by group's name, by part). None where the run has no such
        file, since nobody has counted (sites that keep their data to themselves).

    Raises:
        RunError: the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(folder.counts.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder.counts, error, folder) from error
    return found


def _event(path: Path, folder: RunFolder) -> PruningEvent:
    try:
        tensors, about = checkpoint.unpack_state(path.read_bytes())
        parts = {
            part: {name: tensors[f"{part}/{name}"] for name in names}
            for part, names in about["order"].items()
        }
        return PruningEvent(
            round_index=about["round_index"],
            before=parts["before"],
            scores=parts["scores"],
            mask=Mask(about["mask_kind"], {n: kept.bool() for n, kept in parts["kept"].items()}),
        )
    except (OSError, KeyError, TypeError, AttributeError, FedXError) as error:
        raise _damaged(path, error, folder) from error


def _damaged(path: Path, error: Exception, folder: RunFolder) -> RunError:
    return RunError(f"{path} can't be read ({error}); `fedx resume {folder.name}` writes it anew")
