"""The file's name is the registry: ``methods/fedx.py`` is the method ``fedx``.

Each package of plug-ins has one class name that its files define:

    data       DataSet          partition  Partition     relevance  Criterion
    methods    Method           codec      Codec
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from fedx_core.errors import ConfigError, PayloadError, UnknownNameError
from fedx_core.frozen_json import parse
from fedx_core.nearest import hint

CLASS_NAMES = {
    "data": "DataSet",
    "partition": "Partition",
    "relevance": "Criterion",
    "methods": "Method",
    "codec": "Codec",
}
SINGULAR = {
    "data": "data set",
    "partition": "partition rule",
    "relevance": "criterion",
    "methods": "method",
    "codec": "codec",
}


def names(package: str) -> list[str]:
    """List the plug-ins of a package, such as ``"methods"``, in alphabetical order."""
    path = importlib.import_module(f"fedx_core.{package}").__path__
    return sorted(
        module.name
        for module in pkgutil.iter_modules(path)
        if module.name != "base" and not module.name.startswith("_")
    )


def load(package: str, name: str) -> type[Any]:
    """Import one plug-in's class.

    Raises:
        UnknownNameError: there is no such file; lists the siblings and the nearest name.
    """
    siblings = names(package)
    if name not in siblings:
        raise UnknownNameError(
            f"no {SINGULAR[package]} {name!r}; {hint(name, siblings)}choose one of "
            f"{', '.join(siblings)}, or add fedx_core/{package}/{name}.py"
        )
    module = importlib.import_module(f"fedx_core.{package}.{name}")
    plugin: type[Any] = getattr(module, CLASS_NAMES[package])
    return plugin


def build(package: str, name: str, params: Mapping[str, Any]) -> Any:
    """Construct one plug-in from its name and its parameters.

    Args:
        package: such as ``methods``.
        name: of its file.
        params: plain values of the types that its fields have; text is not read as a number or a
            switch here, but where settings are read (:mod:`fedx_core.parsing`).

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
            raise ConfigError(f"{SINGULAR[package]} {name!r} needs the parameter {key!r}")
