"""Write ``docs/parameters.md`` from the code: settings, plug-ins, the flow, commands, variables.

python docs/make_parameters.py, or `make docs`
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import typer
import yaml
from griffe import Docstring

from fedx_core.base import config, plugins, strict_yaml
from fedx_core.methods.base import Method
from flows.cli import app
from flows.deployments.round_loop import fedx
from flows.settings import form

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parameters.md"
HEAD = """# Parameters

Written from the code by `make docs`; a test compares the two, so change the docstrings instead.

Settings stand in `params.yaml` and change numbers. Everything else says where and how a run goes,
and changes none.
"""
BLOCKS = ("model", "training", "federation")
KINDS = {
    "objectives": "Objectives: `training.objective`",
    "methods": "Methods: `method`",
    "local_rules": "Local rules: `method.local`",
    "exchanges": "Exchanges: `method.exchange`",
    "server_steps": "Server steps: `method.server`",
    "pruners": "Pruners: `method.pruner`",
    "relevance": "Criteria: `method.relevance`",
    "codec": "Wire formats: `codec`",
    "supports": "Weights that exist: `support`",
    "recovery": "After pruning: `recovery`",
    "data": "Data sets: `datasets.NAME.source`",
    "partition": "Partitions: `datasets.NAME.partition`",
}


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD, *settings(), *kinds(), *flow(), *commands(), *variables()]
    return "\n".join(parts)


def settings() -> Iterator[str]:
    """Describe the blocks of ``params.yaml`` with the values it has."""
    values = strict_yaml.read(ROOT / "params.yaml")
    yield "## Settings in `params.yaml`\n"
    yield from block(config.ExperimentConfig, "", values)
    for name in BLOCKS:
        kind = typing.get_type_hints(config.ExperimentConfig)[name]
        yield f"### `{name}`\n"
        yield from block(kind, f"{name}.", values[name])
    yield "### `training.schedule`, `training.round_schedule`\n"
    yield from block(config.Schedule, "training.schedule.", config.as_plain(config.Schedule()))
    yield "### `datasets.NAME`\n"
    yield from block(config.DatasetConfig, "datasets.NAME.", {})
    yield from block(config.ReferenceConfig, "datasets.NAME.reference.", {})
    yield "### `federation.selection`\n"
    yield from block(config.SelectionConfig, "federation.selection.", {})


def block(kind: type[Any], prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Describe one block's own values, not those of the blocks inside it."""
    about = described(kind)
    hints = typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        value = values.get(field.name)
        shown = "" if isinstance(value, dict | list) or field.name not in values else code(value)
        rows.append(
            (f"`{prefix}{field.name}`", type_of(hints[field.name]), shown, about[field.name])
        )
    yield table(("setting", "type", "in `params.yaml`", "meaning"), rows)


def kinds() -> Iterator[str]:
    """Describe every plug-in of every kind."""
    for package, title in KINDS.items():
        yield f"## {title}\n"
        shared: set[str] = set()
        if package == "methods":
            rows = parameters(Method, set())
            shared = {field.name for field in dataclasses.fields(Method)}
            yield "All methods take these; further ones are a method's own.\n"
            yield table(("parameter", "type", "default", "meaning"), rows)
        for name in plugins.names(package):
            plugin = plugins.load(package, name)
            yield f"### `{name}`\n"
            yield f"{first_line(plugin)}\n"
            if rows := parameters(plugin, shared):
                yield table(("parameter", "type", "default", "meaning"), rows)


def parameters(plugin: type[Any], shared: Set[str]) -> list[tuple[str, ...]]:
    """Describe a plug-in's fields, those left out that all of its kind have."""
    about = described(plugin)
    hints = typing.get_type_hints(plugin)
    return [
        (f"`{f.name}`", type_of(hints[f.name]), default_of(f), about.get(f.name, ""))
        for f in dataclasses.fields(plugin)
        if f.init and f.name not in shared
    ]


def flow() -> Iterator[str]:
    """Describe the parameters of the deployment ``fedx/round-loop``."""
    yield "## The flow: `fedx/round-loop`\n"
    yield "`prefect deployment run` takes them with `-p NAME=VALUE`, Prefect's pages in a form.\n"
    deployments = strict_yaml.read(ROOT / "prefect.yaml")["deployments"]
    deployed = next(one for one in deployments if one["name"] == "round-loop")["parameters"]
    about = arguments(inspect.getdoc(fedx.fn) or "")
    hints = typing.get_type_hints(fedx.fn)
    rows = [
        (
            f"`{name}`",
            chosen(deployed.get(name, p.default)),
            with_choices(about[name], hints[name]),
        )
        for name, p in inspect.signature(fedx.fn).parameters.items()
    ]
    yield table(("parameter", "default", "meaning"), rows)


def commands() -> Iterator[str]:
    """Describe every subcommand of ``fedx``."""
    yield "## Commands\n"
    for name, command in subcommands(typer.main.get_command(app)):
        yield f"### `fedx {name}`\n"
        yield f"{(command.help or '').split(chr(10) * 2)[0].replace(chr(10), ' ')}\n"
        hints = typing.get_type_hints(command.callback)
        rows = []
        for option in command.params:
            is_argument = option.param_type_name == "argument"
            names = [option.name.upper()] if is_argument else [*option.opts, *option.secondary_opts]
            # Options without a value say in words what is taken then.
            left = option.show_default if isinstance(option.show_default, str) else ""
            said = (
                (option.help or "").removesuffix(".") + f"; if not given, {left}."
                if left
                else (option.help or "")
            )
            rows.append(
                (
                    ", ".join(f"`{name}`" for name in names),
                    f"`{option.envvar}`" if option.envvar else "",
                    with_choices(said, hints.get(option.name)),
                )
            )
        if rows:
            yield table(("option", "variable", "meaning"), rows)


def subcommands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Go through the commands of a group and of the groups in it, with their whole names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from subcommands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def variables() -> Iterator[str]:
    """Describe the environment, from ``.env.example``."""
    yield "## Variables\n"
    yield "As `.env.example` has them; none is needed on one machine.\n"
    heading = re.compile(r"^# (.+?) -{9,}\n", re.M)
    _, *parts = heading.split((ROOT / ".env.example").read_text())
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        yield f"### {title}\n"
        yield table(("variable", "value", "meaning"), assignments(text))


def assignments(text: str) -> Iterator[tuple[str, str, str]]:
    """Read variables; one that says nothing of itself takes the comment above it."""
    line = re.compile(r"(?:# )?([A-Z][A-Z0-9_]+)=(\S*)(?:[ ]+# (.*))?")
    above: list[str] = []
    fresh = False
    for one in text.splitlines():
        found = line.fullmatch(one)
        if found:
            name, value, said = found.groups()
            yield f"`{name}`", f"`{value}`" if value else "", said or " ".join(above)
        elif one.startswith("# "):
            above = [*above, one[2:]] if fresh else [one[2:]]
        fresh = not found


def described(kind: type[Any]) -> dict[str, str]:
    """Collect what a class and its bases say of their fields; the nearest class wins."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not object and base.__doc__:
            found |= arguments(inspect.cleandoc(base.__doc__))
    return found


def arguments(docstring: str) -> dict[str, str]:
    """Read the ``Args:`` of a Google docstring."""
    return {
        argument.name: prose(argument.description)
        for section in Docstring(docstring).parse("google", warnings=False)
        if section.kind.value == "parameters"
        for argument in section.value
    }


def first_line(kind: type[Any]) -> str:
    """Return the first paragraph of what a plug-in says of itself."""
    return prose((inspect.getdoc(kind) or "").split("\n\n")[0])


def prose(text: str) -> str:
    """Turn a docstring's markup into Markdown on one line."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", " ".join(text.split()))
    return text.replace("``", "`")


def default_of(field: "dataclasses.Field[Any]") -> str:
    """Show a field's default; nothing where it must be given."""
    if field.default is not dataclasses.MISSING:
        return code(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return code(field.default_factory())
    return ""


def type_of(hint: Any) -> str:
    """Name a type as ``params.yaml`` would: choices by their values."""
    if choices := choices_of(hint):
        return choices
    options = [h for h in typing.get_args(hint) if h is not type(None)]
    if len(options) < len(typing.get_args(hint)):
        return f"{' or '.join(map(type_of, options))}, or null"
    name = getattr(hint, "__name__", str(hint))
    if dataclasses.is_dataclass(hint):
        return "plug-in" if hint is config.Plugin else "block"
    return {"tuple": "list", "Mapping": "block"}.get(name, name)


def chosen(value: Any) -> str:
    """Show what a field of the form holds until somebody fills it in."""
    if value in (None, "", {}, form.AS_SET):
        return "as in `params.yaml`" if value == form.AS_SET else ""
    return code(value)


def with_choices(meaning: str, hint: Any) -> str:
    """Add the values of a ``Literal`` where the text does not name them all."""
    choices = choices_of(hint)
    named = all(re.search(rf"\b{choice.strip('`')}\b", meaning) for choice in choices.split(", "))
    return f"{meaning} ({choices})".strip() if choices and not named else meaning


def choices_of(hint: Any) -> str:
    """List the values of a ``Literal``, also of one that may be left out; else nothing."""
    for kind in (hint, *typing.get_args(hint)):
        if typing.get_origin(kind) is typing.Literal:
            return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return ""


def code(value: Any) -> str:
    """Show a value as YAML has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = getattr(value, "name", type(value).__name__)
    text = yaml.safe_dump(value, default_flow_style=True, explicit_end=False, width=10_000)
    return f"`{text.splitlines()[0]}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Lay out a Markdown table, bars in cells escaped."""
    lines = [head, ("---",) * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    PAGE.write_text(page())
