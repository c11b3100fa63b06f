"""The forms on Prefect's pages, made of the requests: what may be chosen, and within which bounds.

When a flow is deployed, Prefect makes a JSON schema of its parameters. The form is drawn from it,
and the server refuses what does not fit before there is a run. The lists are those of the plug-ins,
and of the data sets in ``params.yaml``, at that time: deploy again after adding one. In Python they
bind nobody; the core knows its names and bounds itself.

Everything may be left as it is. Choices and texts have a value for that instead of None, for which
Prefect would ask first, field by field, whether there shall be a value.
"""

import inspect
import os
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, WithJsonSchema

from flows.settings import request
from flows.settings.request import Asked

AS_SET = "as in params.yaml"
"""The choice that chooses nothing."""

T = TypeVar("T")


def asking(function: Callable[..., T]) -> Callable[..., T]:
    """Make a flow's function whose parameters are the fields of the requests that it takes.

    Args:
        function: of requests alone; its docstring becomes the flow's description, with a line for
            each field.

    Returns:
        A function of keyword arguments, each of which may be left out.
    """
    kinds = dict(typing.get_type_hints(function))
    kinds.pop("return")
    asked = {name: list(request.fields(kind)) for name, kind in kinds.items()}
    every = [each for group in asked.values() for each in group]

    def filled(**values: Any) -> T:
        if unknown := sorted(set(values) - {each.name for each in every}):
            raise TypeError(f"{function.__name__}() has no parameter {unknown[0]!r}")
        return function(
            **{
                name: kinds[name](
                    **{each.name: _given(each, values.get(each.name)) for each in group}
                )
                for name, group in asked.items()
            }
        )

    filled.__name__, filled.__qualname__ = function.__name__, function.__qualname__
    filled.__module__ = function.__module__
    filled.__doc__ = _described(inspect.getdoc(function) or "", every)
    parameters = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=_first(each), annotation=_type(each)
        )
        for each in every
    ]
    returned = inspect.signature(function, eval_str=True).return_annotation
    vars(filled)["__signature__"] = inspect.Signature(parameters, return_annotation=returned)
    filled.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": returned}
    return filled


def _given(asked: Asked, value: Any) -> Any:
    """Return what was chosen or typed, or what is taken where nothing was."""
    if value in (None, "", AS_SET):
        value = os.environ.get(asked.said.variable) if asked.said.variable else None
    return asked.default if value in (None, "") else value


def _plain(asked: Asked) -> Any:
    """Return the type of a field without None."""
    options = typing.get_args(asked.type)
    return options[0] if type(None) in options else asked.type


def _choices(asked: Asked) -> list[str]:
    """List what may be chosen; empty where anything may be typed."""
    plain = _plain(asked)
    if typing.get_origin(plain) is Literal:
        return list(typing.get_args(plain))
    return list(asked.said.names(None)) if asked.said.names else []


def _first(asked: Asked) -> Any:
    """Return what the form begins with."""
    if asked.said.form is not None:
        return asked.said.form
    if _plain(asked) is str and asked.said.variable:
        return ""
    if asked.default is not None or _plain(asked) in (int, float):
        return asked.default
    return AS_SET if asked.said.names or _choices(asked) else ""


def _type(asked: Asked) -> Any:
    """Return the annotation that Prefect makes a schema of."""
    plain, said, choices = _plain(asked), asked.said, _choices(asked)
    if isinstance(asked.default, Mapping):
        return dict[str, Any]
    if plain in (int, float):
        bounded = Annotated[plain, Field(ge=said.least, lt=said.below)]  # type: ignore[valid-type] # made here
        return bounded | None if asked.default is None else bounded
    if plain is bool or (choices and _first(asked) in choices):
        return plain
    schema: dict[str, Any] = {"type": "string"}
    if choices:
        schema["enum"] = [AS_SET, *choices]
    if said.pattern is not None:
        schema["pattern"] = f"^({said.pattern})?$"
    return Annotated[str | None, WithJsonSchema(schema)]


def _described(text: str, every: list[Asked]) -> str:
    """Add a line for each field to a docstring, where Prefect looks for it."""
    lines = [
        textwrap.fill(f"{each.name}: {_help(each)}", 100, initial_indent="    ",
                      subsequent_indent="        ", break_on_hyphens=False)
        for each in every
    ]  # fmt: skip
    return "\n".join([text, "", "Args:", *lines])


def _help(asked: Asked) -> str:
    """Say what a field is, and what is taken where it is left as it is."""
    said, first = asked.said, _first(asked)
    left = said.left or (AS_SET if said.setting else "")
    if first not in (None, "") or not left:
        return f"{said.help}."
    variable = f"{said.variable}, or " if said.variable else ""
    return f"{said.help}. {'None' if first is None else 'Empty'}: {variable}{left}."
