"""YAML from people and from other machines: bounded, and with one meaning only.

It is YAML 1.2's core schema, whose values are those of JSON: ``5e-1`` is a number, ``no`` and
``2024-01-01`` are text, and keys are text as they stand. What another reader would read otherwise,
or nobody meant, is refused with its line: the second of two equal keys, ``.nan`` and ``.inf``,
numbers beyond 64 bits, tags. Aliases count as often as they are used, so a few hundred bytes can't
unfold to gigabytes.
"""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from fedx_core.base.errors import ConfigError

LARGEST = 1 << 20
"""Bytes that a file may have."""

DEPTH = 32
"""Blocks that may stand in one another."""

MOST = 100_000
"""Values that a file may hold, what aliases repeat included."""

_TAG = "tag:yaml.org,2002:"
_FORMS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",
}
"""What unquoted text is, by its form; all else is text."""


def read(path: Path | str, limit: int = LARGEST) -> Any:
    """Read one file.

    Args:
        path: of the file, UTF-8.
        limit: bytes that it may have.

    Raises:
        OSError: it can't be read.
        ConfigError: as :func:`loads`.
    """
    with Path(path).open("rb") as file:
        data = file.read(limit + 1)
    return loads(data, str(path), limit)


def loads(data: bytes | str, what: str, limit: int = LARGEST) -> Any:
    """Read one YAML document as plain values: None, bool, int, float, str, list and dict.

    Args:
        data: of the document.
        what: it is, in errors, such as a file's name.
        limit: bytes that it may have.

    Raises:
        ConfigError: it is longer, no YAML, or ambiguous; says the line.
    """
    import yaml

    if len(data) > limit:
        raise ConfigError(f"{what} has more than {limit:,} bytes; settings are shorter")
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{what}, line {line}: this is not UTF-8; save it as UTF-8") from error
    try:
        loader = _loader()(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{what} is not YAML that can be read{where}: {said}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {str(error).splitlines()[0]}") from error


def setting(text: str) -> tuple[str, Any]:
    """Read ``PATH=VALUE``, a dotted path and YAML.

    Raises:
        ConfigError: it is not of that form.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(f"{text!r} is not PATH=VALUE, as in training.epochs=1")
    return path, loads(value, f"the value of {path}")


def dumps(value: Any) -> str:
    """Write plain values in their order, so that readers of YAML 1.1 read the same."""
    import yaml

    return yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


@cache
def _dumper() -> type[Any]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes text that either version of YAML takes for something else."""

    for kind in ("int", "float"):
        Dumper.add_implicit_resolver(_TAG + kind, re.compile(rf"(?:{_FORMS[kind]})\Z"), None)
    return Dumper


@cache
def _loader() -> type[Any]:
    """Make the reader; here, since YAML takes a while to import."""
    import yaml
    from yaml import AliasEvent, ScalarNode

    tags = {kind: _TAG + kind for kind in (*_FORMS, "str", "seq", "map")}

    def refuse(mark: Any, said: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=said, problem_mark=mark)

    class Loader(yaml.SafeLoader):
        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.depth = self.count = 0
            self.sizes: dict[str, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call] # PyYAML
            anchor, is_alias = event.anchor, isinstance(event, AliasEvent)
            before = self.count
            self.count += 1
            if is_alias:
                if anchor in self.anchors and anchor not in self.sizes:
                    raise refuse(event.start_mark, f"alias *{anchor} stands within itself")
                self.count += self.sizes.get(anchor, 0)
            self.depth += 1
            if self.depth > DEPTH:
                raise refuse(event.start_mark, f"more than {DEPTH} blocks stand in one another")
            if self.count > MOST:
                raise refuse(event.start_mark, f"more than {MOST:,} values, aliases unfolded")
            node = super().compose_node(parent, index)
            self.depth -= 1
            if anchor is not None and not is_alias:
                self.sizes[anchor] = self.count - before
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, ScalarNode):
                    raise refuse(key.start_mark, "a key must be one word, not a list or a block")
                if key.value in lines:
                    raise refuse(
                        key.start_mark,
                        f"key {key.value[:80]!r} stands twice, first on line {lines[key.value]}; "
                        "leave one out",
                    )
                lines[key.value] = key.start_mark.line + 1
            self.flatten_mapping(node)
            return {key.value: self.construct_object(value, deep=True) for key, value in node.value}

    def whole(loader: Any, node: Any) -> int:
        digits = node.value.lstrip("+-")
        base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
        # Longer ones are not even read, which takes the square of their length.
        value = int(node.value, base) if len(digits) <= 24 else None
        if value is None or not -(2**63) <= value < 2**64:
            raise refuse(node.start_mark, f"a whole number of {len(digits)} digits, beyond 64 bits")
        return value

    def real(loader: Any, node: Any) -> float:
        name = node.value.lower().lstrip("+-")
        value = math.nan if name == ".nan" else math.inf if name == ".inf" else float(node.value)
        if not math.isfinite(value):
            raise refuse(node.start_mark, f"{node.value[:40]} is no finite number")
        return value

    Loader.yaml_implicit_resolvers = {
        None: [(tags[kind], re.compile(rf"(?:{form})\Z")) for kind, form in _FORMS.items()]
    }
    Loader.yaml_constructors = {
        **{
            tags[kind]: yaml.SafeLoader.yaml_constructors[tags[kind]]
            for kind in ("null", "bool", "str", "seq", "map")
        },
        tags["int"]: whole,
        tags["float"]: real,
        None: yaml.SafeLoader.yaml_constructors[None],
    }
    return Loader
