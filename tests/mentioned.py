"""Commands that a text mentions and nobody runs: do they take what they are given?

``fedx`` commands with their options and settings, ``make`` targets, deployments of
``prefect.yaml``, and the options of benchmarks.
"""

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer
import yaml

from fedx_core.base import config, plugins, strict_yaml
from fedx_core.base.errors import ConfigError
from flows.settings import preset
from flows.settings.request import Request, fields

ROOT = Path(__file__).parent.parent
NAMED = {
    f"--{field.name.replace('_', '-')}": field.said.setting
    for field in fields(Request)
    if field.said.setting
}
"""Options that are settings."""


def commands(text: str) -> Iterator[list[str]]:
    """Split a block into commands without their comments and variables."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set(";&|"):
                words.append(word)
                continue
            while words and re.match(r"(\w+=|export$)", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def check_command(words: Sequence[str], place: str) -> None:
    """Look up what a command calls; programs of others are taken as they are."""
    program, arguments = Path(words[0]).name, list(words[1:])
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        for word in arguments:
            assert "=" in word or word in targets, f"{place}: no make {word}"
    elif program == "fedx":
        check_fedx(arguments, place)
    elif program == "python" and arguments and not arguments[0].startswith("-"):
        assert (ROOT / arguments[0]).exists(), f"{place}: no {arguments[0]}"
        if arguments[0].startswith("benchmarks/") and not any("$" in word for word in arguments):
            check_benchmark(arguments[0], arguments[1:], place)
    elif program == "prefect" and arguments[:2] == ["deployment", "run"]:
        deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        name = arguments[2].partition("/")[2]
        assert name in {one["name"] for one in deployments}, f"{place}: no deployment {name}"


@cache
def fedx() -> Any:
    from flows.cli import app

    return typer.main.get_command(app)


def check_fedx(arguments: Sequence[str], place: str) -> None:
    options = {name for p in fedx().params for name in p.opts} | {"--help", "-h"}
    if arguments and not arguments[0].startswith("-"):
        command = fedx().commands.get(arguments[0])
        assert command, f"{place}: no command fedx {arguments[0]}"
        if hasattr(command, "commands") and len(arguments) > 1:
            assert arguments[1] in command.commands, f"{place}: no fedx {' '.join(arguments[:2])}"
            command = command.commands[arguments[1]]
        options = {n for p in command.params for n in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in arguments:
        if word.startswith("--"):
            name = word.partition("=")[0]
            assert name in options, f"{place}: fedx {arguments[0]} has no {name}"
    if arguments and arguments[0] in ("run", "data") and not any("$" in w for w in arguments):
        check_settings(arguments, place)


def check_settings(arguments: Sequence[str], place: str) -> None:
    """Read the settings of a run or a data set as the command would, and build what they name."""
    given = dict(pairwise(arguments))
    named = [f"{NAMED[option]}={value}" for option, value in given.items() if option in NAMED]
    by_path = [word for before, word in pairwise(arguments) if before == "--set"]
    try:
        chosen = dict(map(strict_yaml.setting, [*named, *by_path]))
        if "--preset" in given:
            chosen = preset.settings(given["--preset"], given["--method"]) | chosen
        settings = config.load(ROOT / "params.yaml", chosen)
        settings.method.build("methods")
        # A text may name a data set that it adds, or none: `fedx data NAME`.
        name = arguments[1] if arguments[0] == "data" and arguments[1:] else settings.dataset
        if dataset := settings.datasets.get(name):
            dataset.partition.build("partition")
            plugins.load("data", dataset.source.name)
    except ConfigError as error:
        raise AssertionError(f"{place}: {error}") from error


class Taken(Exception):
    """A script has taken its arguments."""


def check_benchmark(script: str, arguments: Sequence[str], place: str) -> None:
    """Let a script take its arguments, and stop it there."""
    take = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser) -> None:
        take(parser, arguments)
        raise Taken

    folder, heard = str(ROOT / "benchmarks"), io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        patch.object(sys, "path", [folder, *sys.path]),
        contextlib.redirect_stderr(heard),
        contextlib.suppress(Taken),
    ):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit:
            raise AssertionError(f"{place}: {heard.getvalue().splitlines()[-1]}") from None
        raise AssertionError(f"{place}: {script} takes no arguments")
