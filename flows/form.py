"""The form of ``fedx/round-loop`` on Prefect's pages: what may be chosen, and within which bounds.

When the flow is deployed, Prefect makes a JSON schema of its annotations. The form is drawn from
it, and the server refuses what does not fit before there is a run. The lists are those of the
plug-ins, and of the data sets in ``params.yaml``, at that time: deploy again after adding one. In
Python and on the command line they bind nobody; the core knows its names and bounds itself.

Everything may be left as it is. Choices and texts have a value for that instead of None, for which
Prefect would ask first, field by field, whether there shall be a value.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, WithJsonSchema

from fedx_core import plugins, strict_yaml
from flows import completion, preset

AS_SET = "as in params.yaml"
"""The choice that chooses nothing."""


def given(value: str | None) -> str | None:
    """Return what was chosen or typed, or None."""
    return None if value in (AS_SET, "") else value


def _one_of(names: Iterable[str]) -> WithJsonSchema:
    choices = list(names)
    return WithJsonSchema({"type": "string", **({"enum": [AS_SET, *choices]} if choices else {})})


def _data_sets() -> list[str]:
    """Name the data sets of ``params.yaml`` in this folder; none where it can't be read."""
    try:
        return list(strict_yaml.read("params.yaml")["datasets"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"

DataSet = Annotated[str | None, _one_of(_data_sets())]
Model = Annotated[str | None, _one_of(completion.models(""))]
Method = Annotated[str | None, _one_of(plugins.names("methods"))]
Preset = Annotated[str | None, _one_of(preset.NAMES)]
Criterion = Annotated[str | None, _one_of(plugins.names("relevance"))]
Text = Annotated[str | None, WithJsonSchema({"type": "string"})]
Name = Annotated[str | None, WithJsonSchema({"type": "string", "pattern": f"^({_NAME})?$"})]
Origin = Annotated[
    str | None, WithJsonSchema({"type": "string", "pattern": f"^({_NAME}@[1-9][0-9]*)?$"})
]
Share = Annotated[float, Field(ge=0, lt=1)] | None
Count = Annotated[int, Field(ge=1)] | None
