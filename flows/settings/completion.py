"""What there is to choose from: names of runs, data sets, models, methods and criteria.

Forms list them and the shell offers them after TAB. They are read from files' names and sources,
never imported, so that an answer takes no longer than the command's start.
"""

import ast
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

import fedx_core
from fedx_core.base import plugins, strict_yaml

Names = Callable[[str | None], Sequence[str]]
"""Names that may be chosen, of a file with settings or of ``params.yaml``."""


def data_sets(params: str | None = None) -> list[str]:
    """Name the data sets of the settings; none where they can't be read."""
    try:
        return list(strict_yaml.read(params or "params.yaml")["datasets"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # nobody reads an error in the middle of a line


def models(params: str | None = None) -> list[str]:
    """Name the models of all families, from the families' source."""
    return [name for family in plugins.names("models") for name in _variants(family)]


def methods(params: str | None = None) -> list[str]:
    """Name the methods."""
    return plugins.names("methods")


def criteria(params: str | None = None) -> list[str]:
    """Name the criteria."""
    return plugins.names("relevance")


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the runs of the run folder, the newest first."""
    root = Path(context.params.get("run_root") or os.environ.get("FEDX_RUN_ROOT") or "runs")
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    newest_first = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
    return _starting((path.name for path in newest_first), incomplete)


def offering(names: Names) -> Callable[..., list[str]]:
    """Return what the shell asks for names that begin as the word under way."""

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        return _starting(names(context.params.get("params")), incomplete)

    return offer


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _variants(family: str) -> list[str]:
    """Read the keys of ``variants`` in the class of a family; import it only if it is elsewhere."""
    source = Path(str(fedx_core.__file__)).parent / "models" / f"{family}.py"
    if not source.exists():
        return list(plugins.load("models", family).variants)
    found: Any = (
        node.value
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "variants"
    )
    return [str(ast.literal_eval(key)) for key in next(found).keys]
