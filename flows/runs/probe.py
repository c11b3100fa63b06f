"""``fedx probe``: which encoder and which data are meant, and what the scores say.

A run keeps its probes in ``results/probe-<data set>.json``, the last one of each data set.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedx_core.base import config, cores, state, strict_json
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import RunError
from fedx_core.base.frozen_json import parse
from fedx_core.base.state import StateDict
from fedx_core.images import set_folder
from fedx_core.learning.evaluation import PRIMARY
from fedx_core.learning.training import pick_device
from fedx_core.predict import model_file, probe
from fedx_core.predict.model_file import Card
from fedx_core.predict.probe import Score, Settings
from fedx_core.record.journal import Journal
from fedx_core.rounds import federation
from fedx_core.store import open_store
from flows.base.progress import shown
from flows.runs import run_folder
from flows.runs.run_folder import RunFolder, write

TITLES = {"knn": "nearest neighbours", "linear": "linear probe", "fine_tuned": "fine-tuned"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What came of a probe, as its file holds it.

    Args:
        run: whose encoder it is.
        round_index: after which it was taken.
        model: in the catalogue.
        sha256: of the encoder's weights.
        dataset: that it was probed on.
        data: digest of that.
        metric: that the table shows.
        images: by part.
        settings: of the probe.
        scores: in their order.
    """

    run: str
    round_index: int
    model: str
    sha256: str
    dataset: str
    data: str
    metric: str
    images: Mapping[str, int]
    settings: Mapping[str, Any]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Line:
    """One row of the table: the same measure of both encoders.

    Args:
        measure: of :data:`TITLES`.
        share: of the labels.
        labelled: images with labels, the mean over draws.
        run: mean of the metric over draws, in [0, 1]; None where it can't be computed.
        spread: standard deviation over draws (n - 1); None for one draw.
        random: mean of the random encoder.
        random_spread: likewise.
    """

    measure: str
    share: float
    labelled: int
    run: float | None
    spread: float | None
    random: float | None
    random_spread: float | None

    @property
    def gain(self) -> float | None:
        """What the run's encoder has over the random one."""
        return None if self.run is None or self.random is None else self.run - self.random

    @property
    def title(self) -> str:
        """Say what was done, in words."""
        return TITLES[self.measure]


def carry_out(
    folder: RunFolder, dataset: str | None, data_root: str | None, settings: Settings, device: str
) -> tuple[Probe, Path]:
    """Probe a run's encoder and write the file.

    Args:
        folder: of the run.
        dataset: prepared data set; None for the run's own.
        data_root: folder of all data sets; None for the run's.
        settings: of the probe.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        RunError: the run has no committed round yet.
        DataError: the data is not prepared, or the encoder can't read it.
    """
    own = config.load(folder.config)
    root = Path(data_root or folder.notes().get("data_root") or "data")
    name = dataset or own.dataset
    prepared = set_folder.read(root / name / "prepared")
    weights, card = _model(folder, own, root)
    probe.check(card, prepared.description, name)
    pick_device(device)
    how = replace(own.training, device=device)
    encoder = probe.encoder_of(weights, card)
    scores = probe.probed(encoder, card, prepared, settings, how, cores.allowed())
    found = shown(scores, settings.steps, f"{folder.name}: probe on {name}")
    made = Probe(
        run=folder.name,
        round_index=card.round_index,
        model=card.model,
        sha256=state.digest(encoder.state_dict()),
        dataset=name,
        data=prepared.digest,
        metric=PRIMARY[prepared.description.label_kind],
        images={part: len(images) for part, images in prepared.parts.items()},
        settings=asdict(settings),
        scores=tuple(found),
    )
    path = folder.results / f"probe-{name}.json"
    write(path, strict_json.dumps(asdict(made), indent=1).encode() + b"\n")
    return made, path


def lines(made: Probe) -> list[Line]:
    """Put the scores into rows, draws of the same share together."""
    groups = dict.fromkeys((score.measure, score.share) for score in made.scores)
    found = []
    for measure, share in groups:
        alike = [s for s in made.scores if (s.measure, s.share) == (measure, share)]
        run, random = (_spread(made, alike, who) for who in ("run", "random"))
        labelled = [score.labelled for score in alike]
        found.append(Line(measure, share, round(sum(labelled) / len(labelled)), *run, *random))
    return found


def metrics(made: Probe) -> Iterator[tuple[str, float]]:
    """Yield the table's numbers by name, such as ``probe/eurosat/linear_0.01/run``."""
    for line in lines(made):
        share = "" if line.share == 1 else f"_{line.share:g}"
        place = f"probe/{made.dataset}/{line.measure}{share}"
        numbers = {
            "run": line.run, "run_spread": line.spread,
            "random": line.random, "random_spread": line.random_spread,
        }  # fmt: skip
        for name, value in numbers.items():
            if value is not None:
                yield f"{place}/{name}", value


def read(folder: RunFolder) -> list[Probe]:
    """Read all probes of a run, by data set.

    Raises:
        RunError: a file is damaged.
    """
    return [_read(path, folder) for path in sorted(folder.results.glob("probe-*.json"))]


def _read(path: Path, folder: RunFolder) -> Probe:
    try:
        return parse(Probe, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} can't be read ({error}); `fedx probe {folder.name}` writes it anew, or "
            "remove it"
        ) from error


def _spread(made: Probe, scores: Sequence[Score], who: str) -> tuple[float | None, float | None]:
    values = [s.metrics.get(made.metric) for s in scores if s.encoder == who]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    mean = sum(known) / len(known)
    if len(known) == 1:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1))


def _model(folder: RunFolder, own: ExperimentConfig, root: Path) -> tuple[StateDict, Card]:
    """Take the final model, or that of the last round of a run that goes on."""
    if folder.model.exists():
        return model_file.read_weights(folder.model)
    place, _ = run_folder.begun(folder, None)
    store = open_store(place)
    commits = Journal(store).commits()
    if not commits or not commits[-1].report.round_index:
        raise RunError(
            f"run {folder.name!r} has no finished round yet; wait for its first one, or go on with "
            f"`fedx resume {folder.name}`"
        )
    about = set_folder.read(root / own.dataset / "prepared", "test").description
    card = model_file.card_of(Journal(store), about, commits[-1].report.round_index)
    return federation.final_model(store), card
