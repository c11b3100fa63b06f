"""What may be advised: settings by name, from a file such as ``presets/advise.yaml``."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedx_core.base import config, strict_yaml
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, UnknownNameError
from fedx_core.base.nearest import hint
from flows.runs.run_folder import checked
from flows.settings import preset

SHIPPED = preset.FOLDER / "advise.yaml"
SHARE = "of_rounds"
SHORT = {"learning_rate": "lr"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run.

    Args:
        name: of the file's entry, and of what of it is tried.
        entry: name of the file's entry.
        changes: settings by dotted path, shares of rounds still as such.
    """

    name: str
    entry: str
    changes: Mapping[str, Any]

    def settings(self, plain: Mapping[str, Any], rounds: int, seed: int) -> ExperimentConfig:
        """Return the settings of a run of some rounds.

        Args:
            plain: the settings that the candidate changes.
            rounds: in all.
            seed: of the experiment.

        Raises:
            ConfigError: there can be no such run.
        """
        changes = {path: _settled(value, rounds) for path, value in self.changes.items()}
        whole = {**changes, "federation.rounds": rounds, "seed": seed}
        try:
            return config.parse(config.override(plain, whole))
        except ConfigError as error:
            raise type(error)(f"candidate {self.name}: {error}") from error


def read(path: Path = SHIPPED, only: Sequence[str] = ()) -> list[Candidate]:
    """Read candidates in the file's order.

    Args:
        path: of the file.
        only: names of entries; all where there are none.

    Raises:
        ConfigError: the file is missing or not of that form.
        UnknownNameError: it has no entry of that name.
    """
    try:
        raw = strict_yaml.read(path)
    except OSError as error:
        raise ConfigError(
            f"can't read {path} ({error.strerror}); name another file with --candidates"
        ) from error
    entries = raw.get("candidates") if isinstance(raw, dict) else None
    base = raw.get("base") or {} if isinstance(raw, dict) else {}
    blocks = [base, *entries.values()] if isinstance(entries, dict) and entries else [None]
    if not all(isinstance(block, dict) for block in blocks):
        raise ConfigError(
            f"{path} must hold candidates: a mapping of names to settings by dotted path, and base "
            f"if they share some; {SHIPPED.name} beside the presets is one"
        )
    assert isinstance(entries, dict)
    for name in only:
        if name not in entries:
            raise UnknownNameError(
                f"no candidate {name!r} in {path}; {hint(name, entries)}choose of "
                f"{', '.join(entries)}"
            )
    return [
        Candidate(name=checked(word), entry=name, changes={**base, **changes})
        for name, block in entries.items()
        if not only or name in only
        for word, changes in _each(str(name), block)
    ]


def _each(name: str, block: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return all combinations of an entry's lists, each with its name."""
    tried = [path for path, value in block.items() if isinstance(value, list)]
    for values in itertools.product(*(block[path] for path in tried)):
        words = [f"{_word(path)}{value}" for path, value in zip(tried, values, strict=True)]
        yield "-".join([name, *words]), {**block, **dict(zip(tried, values, strict=True))}


def _word(path: str) -> str:
    leaf = path.rpartition(".")[2]
    return SHORT.get(leaf, leaf)


def _settled(value: Any, rounds: int) -> Any:
    """Turn shares of rounds into rounds, at least one."""
    if not isinstance(value, Mapping):
        return value
    if set(value) == {SHARE}:
        return max(1, round(float(value[SHARE]) * rounds))
    return {key: _settled(inner, rounds) for key, inner in value.items()}
