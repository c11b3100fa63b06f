"""A federation small enough that a round of three clients takes a fraction of a second."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedx_core.base import config, strict_yaml
from fedx_core.base.config import ExperimentConfig
from fedx_core.clients.client import Place
from fedx_core.rounds.start import Setting
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

ROOT = Path(__file__).parent.parent
NARROW = "resnet6_w8"
"""An eighth of ResNet6's channels, which take half of its time."""

TINY: dict[str, Any] = {
    "dataset": "synthetic",
    "datasets.synthetic.source.image_size": 32,
    "datasets.synthetic.source.train": 96,
    "datasets.synthetic.source.validation": 60,
    "datasets.synthetic.source.test": 40,
    "datasets.synthetic.partition.clients": 3,
    "datasets.synthetic.reference.per_class": 2,
    "datasets.countries.source.image_size": 32,
    "datasets.countries.source.train": 96,
    "datasets.countries.source.validation": 90,
    "datasets.countries.source.test": 40,
    "datasets.countries.reference.per_class": 2,
    "training.epochs": 1,
    "training.batch_norm": "aggregate",  # what the table of final hashes was made with
    "training.batch_size": 16,
    "training.device": "cpu",
    "model.name": NARROW,
    "federation.rounds": 3,
    "method.pruning_rate": 0.5,
    "method.warmup_rounds": 2,
    "method.relevance": {"name": "magnitude"},
}


def tiny(**overrides: Any) -> ExperimentConfig:
    """Settings of a tiny federation; overrides by dotted path with __ for the dot."""
    dotted = {path.replace("__", "."): value for path, value in overrides.items()}
    if dotted.get("method.name", "fedx") != "fedx":
        shared = {k: v for k, v in TINY.items() if not k.startswith("method.")}
        return config.parse(config.override(_params(), shared | dotted))
    return config.parse(config.override(_params(), TINY | dotted))


@cache
def _params() -> dict[str, Any]:
    """Read ``params.yaml`` once for all tests: that takes longer than all else here."""
    found: dict[str, Any] = strict_yaml.read(ROOT / "params.yaml")
    return found


def tiny_resnet6(**overrides: Any) -> ExperimentConfig:
    """The same with ResNet6 as it is, for tests that count its parameters."""
    return tiny(**({"model": {"name": "resnet6"}} | overrides))


def tiny_data_in(root: Path, **overrides: Any) -> Path:
    """Prepare the data sets ``synthetic`` and ``countries`` below a folder, and return it."""
    for name in ("synthetic", "countries"):
        for stage in (prepare, partition, reference):
            stage(tiny(**overrides), name, root)
    return root


@dataclass(frozen=True)
class Bed:
    """Where one test's runs live."""

    data: Path
    runs: Path

    def setting(self, run: str = "run", dataset: str = "synthetic") -> Setting:
        folder = self.runs / run
        return Setting(
            run=run,
            data=self.data / dataset,
            place=Place(
                store=str(folder / "store"),
                shards=str(self.data / dataset / "shards"),
                memory=str(folder / "clients"),
            ),
        )
