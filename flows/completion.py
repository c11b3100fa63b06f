"""What the shell offers after TAB: names of runs, data sets, models, methods and criteria.

Names are listed, never imported, so that an answer takes no longer than the command's start.
"""

import ast
import os
from collections.abc import Iterable
from pathlib import Path

import typer

import fedx_core
from fedx_core import plugins, strict_yaml


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Name the runs of the run folder, the newest first."""
    root = Path(context.params.get("run_root") or os.environ.get("FEDX_RUN_ROOT") or "runs")
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    newest_first = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
    return _starting((path.name for path in newest_first), incomplete)


def datasets(context: typer.Context, incomplete: str) -> list[str]:
    """Name the data sets of the settings."""
    try:
        settings = strict_yaml.read(context.params.get("params") or "params.yaml")
        return _starting(settings["datasets"], incomplete)
    except (OSError, ValueError, KeyError, TypeError):
        return []  # nobody reads an error in the middle of a line


def models(incomplete: str) -> list[str]:
    """Name the models of the catalogue, from its source."""
    source = Path(str(fedx_core.__file__)).with_name("models") / "catalogue.py"
    catalogue = next(
        node.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "CATALOGUE"
    )
    assert isinstance(catalogue, ast.Dict)
    return _starting((str(ast.literal_eval(k)) for k in catalogue.keys if k), incomplete)


def methods(incomplete: str) -> list[str]:
    """Name the methods."""
    return _starting(plugins.names("methods"), incomplete)


def relevance(incomplete: str) -> list[str]:
    """Name the criteria."""
    return _starting(plugins.names("relevance"), incomplete)


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
