"""Plain values become typed settings, and what was checked is what is used.

Values may come as text, as shells and forms give them: ``5e-1``, ``8.0`` where a whole number is
wanted, ``off``. A field that names a plug-in says of which package, so that the plug-in's own
fields are read in the same way, wherever it stands:

    method: Annotated[Plugin, Slot("methods")]

Only this file imports pydantic, and only when settings are read.
"""

import copy
import dataclasses
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from fedx_core.base import plugins
from fedx_core.base.errors import ConfigError, FedXError
from fedx_core.base.nearest import hint, nearest

T = TypeVar("T")


class Block:
    """A block of settings; keys that it does not know are refused."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Plugin(Block):
    """A plug-in by its file's name, with its own parameters, which stand beside the name.

    Args:
        name: of the file.
        params: plain values that the plug-in's fields take as they are.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, package: str) -> Any:
        """Construct it from its package, such as ``methods``."""
        return plugins.build(package, self.name, self.params)


class Chooses:
    """Marks a block whose name decides which other settings it has."""


@dataclass(frozen=True)
class Slot(Chooses):
    """Marks a field that holds a plug-in: a block with its name and its parameters.

    The field's type is :class:`Plugin`, or a mapping with the name among the parameters.

    Args:
        package: of plug-ins, such as ``methods``.
    """

    package: str

    def read(self, block: Any) -> dict[str, Any]:
        """Check a block against its plug-in; return the name, and each given value in its type.

        Raises:
            ConfigError: no such plug-in, or a parameter is unknown, missing or impossible.
        """
        name = block.get("name") if isinstance(block, Mapping) else None
        if not isinstance(name, str):
            raise ConfigError(
                f"wanted a block with the {self.what}'s name, got {block!r}; write {{name: "
                f"NAME}}, where NAME is one of {', '.join(plugins.names(self.package))}"
            )
        params = {key: value for key, value in block.items() if key != "name"}
        kind = plugins.load(self.package, name)
        plugins.check_names(self.package, name, params)
        made = _validated(kind, params)
        return {"name": name, **{key: as_plain(getattr(made, key)) for key in params}}

    @property
    def what(self) -> str:
        """What its plug-ins are, in words."""
        return plugins.SINGULAR[self.package]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def made(block: Any) -> Any:
            read = self.read(block)
            return Plugin(name=read.pop("name"), params=read) if source is Plugin else read

        return core_schema.no_info_plain_validator_function(made)


@dataclass(frozen=True)
class Named(Chooses):
    """Marks a block whose name may stand for the whole of it: ``cosine`` for ``{name: cosine}``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def block(value: Any) -> Any:
            return {"name": value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(block, handler(source))


@dataclass(frozen=True, kw_only=True)
class Directions(Block):
    """A plug-in for each direction; ``{name: ...}`` alone stands for both.

    Args:
        down: for what the server sends.
        up: for what clients send.
    """

    down: Plugin
    up: Plugin


@dataclass(frozen=True)
class EachWay(Slot):
    """Marks a field of :class:`Directions`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import SchemaValidator, core_schema

        read = core_schema.no_info_plain_validator_function(self.read)
        way = core_schema.typed_dict_field(read)
        apart = SchemaValidator(core_schema.typed_dict_schema({"down": way, "up": way}))

        def made(block: Any) -> Directions:
            ways = both_ways(block)
            if not isinstance(ways, Mapping) or set(ways) != {"down", "up"}:
                said = ", ".join(map(str, block)) if isinstance(block, Mapping) else repr(block)
                raise ConfigError(
                    f"wanted the name of a {self.what}, or a block for each of down and up, "
                    f"got {said or 'an empty block'}"
                )
            if ways is block:
                found = apart.validate_python(ways)  # an error names the direction
            else:
                found = {way: self.read(block) for way in ways}
            down, up = found["down"], found["up"]
            return Directions(
                down=Plugin(name=down.pop("name"), params=down),
                up=Plugin(name=up.pop("name"), params=up),
            )

        return core_schema.no_info_plain_validator_function(made)


def both_ways(block: Any) -> Any:
    """Write out a block of one plug-in as one for each direction."""
    if isinstance(block, Mapping) and "name" in block:
        return {"down": dict(block), "up": dict(block)}
    return block


def parsed(kind: type[T], values: Mapping[str, Any]) -> T:
    """Turn plain nested values into a frozen dataclass.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or can't be; named
            by its full path, with the nearest name where one is unknown.
    """
    import pydantic

    try:
        found: T = _validated(kind, values)
    except pydantic.ValidationError as error:
        raise _told(kind, values, error) from error
    _same_kind("", values, as_plain(found))
    return found


def as_plain(value: Any) -> Any:
    """Turn settings back into what ``params.yaml`` would say."""
    if isinstance(value, Plugin):
        return {"name": value.name, **as_plain(value.params)}
    if isinstance(value, Directions) and value.down == value.up:
        return as_plain(value.down)
    if dataclasses.is_dataclass(value):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(item) for item in value]
    return value


def known(kind: Any, values: Any) -> Iterator[str]:
    """Name every setting by dotted path, those of the named plug-ins too."""
    return (path for path, _ in _walked(kind, values, ""))


def choosing(kind: Any, values: Any) -> Iterator[str]:
    """Name the blocks, by dotted path, whose name decides which other settings they have."""
    return (path for path, marks in _walked(kind, values, "") if _first(Chooses, marks))


def _walked(kind: Any, values: Any, path: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Go through all settings, down into blocks and plug-ins; give path and marks of each."""
    values = values if isinstance(values, Mapping) else {}
    for name, annotation in typing.get_type_hints(kind, include_extras=True).items():
        if name not in getattr(kind, "__dataclass_fields__", {}):
            continue
        here, inner = f"{path}{name}", values.get(name)
        options = _options(annotation)
        yield here, tuple(mark for option in options for mark in _marks(option))
        for option in options:
            if (slot := _first(Slot, _marks(option))) is not None:
                yield from _of_plugin(slot, inner, here)
                for way in ("down", "up") if isinstance(slot, EachWay) else ():
                    yield f"{here}.{way}", (slot,)
                    ways = both_ways(inner)
                    one = ways.get(way) if isinstance(ways, Mapping) else None
                    yield from _of_plugin(slot, one, f"{here}.{way}")
            elif dataclasses.is_dataclass(block := _bare(option)):
                yield from _walked(block, inner, f"{here}.")
            elif typing.get_origin(option) is not None and isinstance(inner, Mapping):
                block = typing.get_args(option)[-1]
                for key in inner if dataclasses.is_dataclass(block) else ():
                    yield from _walked(block, inner[key], f"{here}.{key}.")


def _marks(annotation: Any) -> tuple[Any, ...]:
    """Return what is marked on a type."""
    return getattr(annotation, "__metadata__", ())


def _first(kind: type[T], marks: Sequence[Any]) -> T | None:
    """Return the first mark of a kind, if there is one."""
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _bare(annotation: Any) -> Any:
    """Take the marks off a type."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _of_plugin(slot: Slot, block: Any, path: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield f"{path}.name", ()
    if isinstance(block, Mapping) and block.get("name") in plugins.names(slot.package):
        yield from _walked(plugins.load(slot.package, block["name"]), block, f"{path}.")


def _options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


@functools.cache
def _adapter(kind: type[Any]) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid string": "text",
}
"""What pydantic calls a type, and what we do."""


def _validated(kind: Any, values: Mapping[str, Any]) -> Any:
    """Let pydantic check and convert; text such as ``1e3`` may be a whole number, too."""
    import pydantic

    try:
        return _adapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        mended: Any = copy.deepcopy(values)
        for each in error.errors():
            if each["type"] != "int_parsing" or not _is_whole(each["input"]):
                raise
            *parents, leaf = each["loc"]
            functools.reduce(operator.getitem, parents, mended)[leaf] = float(each["input"])
        return _adapter(kind).validate_python(mended)


def _is_whole(text: Any) -> bool:
    try:
        return float(text).is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def _told(kind: Any, values: Mapping[str, Any], error: Any) -> ConfigError:
    """Say the first thing that is wrong in our words."""
    errors = error.errors(include_url=False)
    # What is missing often only has another name.
    first = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
    path = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    meant = _of_a_data_set(first["loc"], values)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FedXError):
        kind_of_error = type(cause) if isinstance(cause, ConfigError) else ConfigError
        placed = _placed(path, str(cause), values)
        setting = "" if placed.startswith(f"{path}: ") else placed.split(maxsplit=1)[0]
        return kind_of_error(_to_do(setting, placed + meant) + more)
    got = first.get("input")
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool | None) else ""
    match first["type"]:
        case "missing":
            return ConfigError(f"{path} is missing{meant or '; add it to params.yaml'}{more}")
        case "unexpected_keyword_argument":
            return ConfigError(f"no setting {path!r}; {_instead(kind, values, path)}{more}")
        case "dataclass_type" | "dataclass_exact_type" | "mapping_type" | "dict_type":
            wanted = f"{path or 'settings'}: wanted a block of settings{shown}"
            return ConfigError(f"{wanted}; write its settings below it, each indented{more}")
    said = re.sub("^Input should be ", "wanted ", first["msg"])
    for theirs, ours in _WORDS.items():
        said = said.replace(theirs, ours)
    choices = re.findall("'([^']*)'", first.get("ctx", {}).get("expected", ""))
    choice = hint(got, choices).strip() if isinstance(got, str) else ""
    return ConfigError(
        _to_do(path, f"{path}: {said}{shown}{f'; {choice}' if choice else ''}") + more
    )


def _to_do(path: str, said: str) -> str:
    """Say where a value is corrected, unless it is said what to do."""
    if ";" in said:
        return said
    return f"{said}; correct it in params.yaml{f' or with --set {path}=VALUE' if path else ''}"


def _placed(path: str, said: str, values: Any) -> str:
    """Put the path of a block before what its class says, or of the field that it begins with."""
    if not path or said.startswith(f"{path}."):
        return said
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    word = said.split(maxsplit=1)[0]
    return f"{path}.{said}" if isinstance(values, Mapping) and word in values else f"{path}: {said}"


def _instead(kind: Any, values: Mapping[str, Any], path: str) -> str:
    """Say which setting may have been meant, and which the block takes."""
    block, _, leaf = path.rpartition(".")
    there = list(dict.fromkeys(known(kind, values)))
    takes = [p.rpartition(".")[2] for p in there if p.rpartition(".")[0] == block]
    if (near := nearest(leaf, takes)) is not None:
        meant: str | None = f"{block}.{near}" if block else near
    else:
        elsewhere = (p for p in there if p.rpartition(".")[2] == leaf)
        meant = next(elsewhere, nearest(path, there))
    said = f"did you mean {meant!r}? " if meant else ""
    return f"{said}{block or 'params.yaml'} takes {', '.join(takes)}"


def _of_a_data_set(loc: Sequence[Any], values: Mapping[str, Any]) -> str:
    """Hint at the data set that was meant where a path with another name began a new one."""
    if len(loc) < 3 or loc[0] != "datasets" or len(values["datasets"][loc[1]]) > 2:
        return ""
    said = hint(str(loc[1]), [name for name in values["datasets"] if name != loc[1]])
    return f"; {said.strip()}" if said else ""


def _same_kind(path: str, given: Any, found: Any) -> None:
    """Refuse what types let pass: true for a number, and numbers that JSON has no word for."""
    if isinstance(found, Mapping) and isinstance(given, Mapping):
        for key, value in given.items():
            _same_kind(f"{path}.{key}" if path else str(key), value, found.get(key))
    elif isinstance(found, list) and isinstance(given, list | tuple):
        for index, (one, other) in enumerate(zip(given, found, strict=False)):
            _same_kind(f"{path}.{index}", one, other)
    elif isinstance(given, bool) and isinstance(found, int | float) and not isinstance(found, bool):
        raise ConfigError(_to_do(path, f"{path}: wanted a number, got {str(given).lower()}"))
    elif isinstance(found, float) and not math.isfinite(found):
        raise ConfigError(_to_do(path, f"{path}: wanted a finite number, got {given!r}"))
    elif isinstance(found, int) and not -(2**63) <= found < 2**63:
        said = f"{path}: wanted a whole number of 64 bits at most, got {given!r}"
        raise ConfigError(_to_do(path, said))
