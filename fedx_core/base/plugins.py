"""The file's name is the registry: ``methods/fedx.py`` is the method ``fedx``.

Each package of plug-ins has one class name that its files define:

    data       DataSet          partition  Partition     relevance  Criterion
    methods    Method           codec      Codec         models     Architecture

    objectives Objective        local_rules  Rule        exchanges  Exchange
    server_steps ServerStep     pruners    Pruner
    supports     Support            recovery   Recovery      asks       Ask

Another package adds its own by an entry point of the group ``fedx.methods``, ``fedx.codec`` and so
on, whose name is the plug-in's and whose object is the class; :func:`added` does so for a while.
"""

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedx_core.base.errors import ConfigError, PayloadError, UnknownNameError
from fedx_core.base.frozen_json import parse
from fedx_core.base.nearest import hint

CLASS_NAMES = {
    "data": "DataSet",
    "partition": "Partition",
    "relevance": "Criterion",
    "methods": "Method",
    "codec": "Codec",
    "models": "Architecture",
    "objectives": "Objective",
    "local_rules": "Rule",
    "exchanges": "Exchange",
    "server_steps": "ServerStep",
    "pruners": "Pruner",
    "supports": "Support",
    "recovery": "Recovery",
    "asks": "Ask",
}
SINGULAR = {
    "data": "data set",
    "partition": "partition rule",
    "relevance": "criterion",
    "methods": "method",
    "codec": "codec",
    "models": "model family",
    "objectives": "objective",
    "local_rules": "local rule",
    "exchanges": "exchange",
    "server_steps": "server step",
    "pruners": "pruner",
    "supports": "support",
    "recovery": "recovery",
    "asks": "question",
}
_BESIDE = {"base", "catalogue"}
"""Modules of a package that say what its plug-ins are and which there are."""
_added: dict[tuple[str, str], type[Any]] = {}
"""Of this process, by package and name; see :func:`added`."""


def names(package: str) -> list[str]:
    """List the plug-ins of a package, such as ``"methods"``, in alphabetical order."""
    path = importlib.import_module(f"fedx_core.{package}").__path__
    files = {
        module.name
        for module in pkgutil.iter_modules(path)
        if module.name not in _BESIDE and not module.name.startswith("_")
    }
    return sorted(files | set(_outside(package)) | {name for of, name in _added if of == package})


@cache
def _outside(package: str) -> dict[str, EntryPoint]:
    """Find what other packages add; asking takes some 40 ms."""
    return {point.name: point for point in entry_points(group=f"fedx.{package}")}


@contextmanager
def added(package: str, name: str, plugin: type[Any]) -> Iterator[None]:
    """Let this process alone know one more plug-in, as a test or a notebook wants it.

    Clients in other processes do not know it; for them there are entry points.

    Args:
        package: such as ``methods``.
        name: by which settings and jobs name it; goes before a file of that name.
        plugin: the class.
    """
    before = _added.get((package, name))
    _added[package, name] = plugin
    try:
        yield
    finally:
        del _added[package, name]
        if before is not None:
            _added[package, name] = before


def load(package: str, name: str) -> type[Any]:
    """Import one plug-in's class.

    Raises:
        UnknownNameError: there is no such file; lists the siblings and the nearest name.
    """
    plugin: type[Any]
    if (package, name) in _added:
        return _added[package, name]
    if name in _outside(package):
        plugin = _outside(package)[name].load()
        return plugin
    path = f"fedx_core.{package}.{name}"
    # Who asks for every job is not to list a folder each time.
    known = path in sys.modules and name not in _BESIDE and not name.startswith("_")
    if not known and name not in (siblings := names(package)):
        raise UnknownNameError(
            f"no {SINGULAR[package]} {name!r}; {hint(name, siblings)}choose one of "
            f"{', '.join(siblings)}, or add fedx_core/{package}/{name}.py"
        )
    plugin = getattr(importlib.import_module(path), CLASS_NAMES[package])
    return plugin


def build(package: str, name: str, params: Mapping[str, Any]) -> Any:
    """Construct one plug-in from its name and its parameters.

    Args:
        package: such as ``methods``.
        name: of its file.
        params: plain values of the types that its fields have; text is not read as a number or a
            switch here, but where settings are read (:mod:`fedx_core.base.parsing`).

    Raises:
        UnknownNameError: there is no such plug-in.
        ConfigError: a parameter is unknown, missing, of another type or impossible.
    """
    check_names(package, name, params)
    try:
        return parse(load(package, name), params)
    except PayloadError as error:
        raise ConfigError(f"{SINGULAR[package]} {name!r}: {error}") from error


def check_names(package: str, name: str, params: Mapping[str, Any]) -> None:
    """Check that a plug-in knows all of these parameters and gets all that it needs.

    Raises:
        ConfigError: a parameter is unknown or missing; says which it takes.
    """
    fields = {f.name: f for f in dataclasses.fields(load(package, name)) if f.init}
    for key in params:
        if key not in fields:
            raise ConfigError(
                f"{SINGULAR[package]} {name!r} has no parameter {key!r}; "
                f"{hint(key, fields)}it takes {', '.join(fields) or 'none'}"
            )
    for key, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and key not in params:
            raise ConfigError(
                f"{SINGULAR[package]} {name!r} needs the parameter {key!r}; write it beside its "
                "name"
            )
