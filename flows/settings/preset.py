"""Settings that are shipped: presets of each method, what may be tuned, and the figures' grids.

    presets/protocol.yaml        what all methods share under `fedx_protocol`
    presets/fewer_bytes.yaml     the same under `fewer_bytes`
    presets/methods/NAME.yaml    of one method:
        source                   where `paper` is from, and what it can't say here
        paper                    its own paper's settings
        fedx_protocol            its own settings under FedX's experiment, and under `fewer_bytes`
        tuning                   what is tried under `fedx_protocol`, judged by validation
    presets/figN.yaml            a grid as `fedx sweep` takes it

Every method that learns labels and can be judged by the server gets the same number of trials,
:data:`TRIALS`.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fedx_core.base import plugins, strict_yaml
from fedx_core.base.errors import ConfigError, UnknownNameError
from fedx_core.base.nearest import hint
from flows.settings.choices import Preset

NAMES: tuple[str, ...] = get_args(Preset)
TRIALS = 6
TUNING_SEED = 1000
"""No figure's seed, so that what was tuned is reported on draws that the tuning has not seen."""

FOLDER = Path(__file__).with_name("presets")


@dataclass(frozen=True, kw_only=True)
class Presets:
    """What is shipped for one method; settings by dotted path.

    Args:
        source: where ``paper`` is from.
        paper: settings of its own paper, as far as they are settings here.
        fedx_protocol: settings under FedX's experiment, those of all methods included.
        fewer_bytes: settings that send little, likewise.
        tuning: values to be tried, by setting; all combinations are.
    """

    source: str
    paper: Mapping[str, Any]
    fedx_protocol: Mapping[str, Any]
    fewer_bytes: Mapping[str, Any]
    tuning: Mapping[str, list[Any]]

    @property
    def trials(self) -> int:
        """Combinations of what is tuned; 0 where nothing is."""
        return len(list(itertools.product(*self.tuning.values()))) if self.tuning else 0


def of(method: str) -> Presets:
    """Read a method's presets.

    Raises:
        UnknownNameError: there is no such method, or it has no presets.
    """
    plugins.load("methods", method)
    path = FOLDER / "methods" / f"{method}.yaml"
    if not path.exists():
        raise UnknownNameError(
            f"method {method!r} has no presets; add flows/settings/presets/methods/{method}.yaml, "
            "or leave the preset out"
        )
    found = _read(path)
    own = found["fedx_protocol"]
    return Presets(
        source=found["source"],
        paper=found["paper"],
        fedx_protocol={**_read(FOLDER / "protocol.yaml"), **own},
        fewer_bytes={**_read(FOLDER / "fewer_bytes.yaml"), **own},
        tuning=found["tuning"],
    )


def settings(preset: str, method: str) -> dict[str, Any]:
    """Return a preset as settings by dotted path; the method's block is replaced as a whole.

    Raises:
        UnknownNameError: there is no such preset or method.
    """
    if preset not in NAMES:
        raise UnknownNameError(
            f"no preset {preset!r}; {hint(preset, NAMES)}choose one of {', '.join(NAMES)}"
        )
    values: Mapping[str, Any] = getattr(of(method), preset)
    own = {
        path.removeprefix("method."): value
        for path, value in values.items()
        if path.startswith("method.")
    }
    others = {path: value for path, value in values.items() if not path.startswith("method.")}
    return {**others, "method": {"name": method, **own}}


def tuning_grid(method: str, dataset: str | None = None) -> dict[str, Any]:
    """Write a grid of all trials of a method, judged by validation, for ``fedx sweep``.

    Args:
        method: a file of ``fedx_core/methods``.
        dataset: a key of ``datasets``; None leaves that of the settings.

    Raises:
        ConfigError: nothing of it is tuned.
    """
    tuning = of(method).tuning
    if not tuning:
        why = (
            "it learns without labels, and trials are those of learning them"
            if plugins.load("methods", method).pre_trains
            else "without a global model there is nothing that the server could judge by validation"
        )
        raise ConfigError(f"nothing of {method!r} is tuned: {why}")
    judged = {"federation.selection": {"metric": "loss", "patience": 0, "min_delta": 0.0}}
    return {
        "name": f"tune-{method}",
        "preset": "fedx_protocol",
        "base": {**({"dataset": dataset} if dataset else {}), **judged},
        "grid": {"method.name": method, **tuning, "seed": TUNING_SEED},
    }


def grid(figure: str) -> dict[str, Any]:
    """Return the grid of one of the paper's figures, such as ``fig2``."""
    return _read(FOLDER / f"{figure}.yaml")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = strict_yaml.read(path)
    return found
