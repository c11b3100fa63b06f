"""The flow's form, and what a flow run that is tried again does."""

import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from bed import ROOT, Bed, tiny
from fedx_core.base import plugins
from fedx_core.models import catalogue
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from flows.deployments.round_loop import fedx
from flows.running import again
from flows.settings import form, preset
from flows.settings.choices import RunAt
from flows.settings.request import Request

SCHEMA = parameter_schema(fedx).model_dump_for_openapi()
FIELDS: dict[str, dict[str, Any]] = SCHEMA["properties"]


def test_the_choices_of_the_form_are_the_plug_ins_the_models_and_the_data_sets() -> None:
    assert FIELDS["method"]["enum"] == [form.AS_SET, *plugins.names("methods")]
    assert FIELDS["relevance"]["enum"] == [form.AS_SET, *plugins.names("relevance")]
    assert FIELDS["model"]["enum"] == [form.AS_SET, *catalogue.names()]
    assert FIELDS["preset"]["enum"] == [form.AS_SET, *preset.NAMES]
    assert set(tiny().datasets) < set(FIELDS["dataset"]["enum"])
    assert FIELDS["run_at"]["enum"] == list(get_args(RunAt))


def test_every_field_has_a_description_a_default_and_a_place() -> None:
    assert all(field["description"][0].isupper() for field in FIELDS.values())
    assert all("default" in field for field in FIELDS.values())
    positions = [field["position"] for field in FIELDS.values()]
    assert positions == sorted(positions)
    assert list(FIELDS)[:5] == ["dataset", "model", "method", "preset", "relevance"]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("pruning_rate", [0, 0.5, 0.99, None], [1, 1.5, -0.1, "half"]),
        ("rounds", [1, 200, None], [0, -1, 2.5]),
        ("warmup_rounds", [1, None], [0]),
        ("workers", [1, None], [0]),
        ("method", ["fedx", form.AS_SET], ["fedprx", ""]),
        ("dataset", ["synthetic"], ["sythetic"]),
        ("run", ["", "a-1.b_c"], ["a b", "../a", "-a"]),
        ("branch_from", ["", "base@10"], ["base", "base@0", "@3"]),
        ("run_at", ["threads"], ["moon"]),
        ("overrides", [{}, {"training.epochs": 1}], [3]),
    ],
)
def test_prefects_server_refuses_what_can_not_be(
    field: str, good: list[Any], bad: list[Any]
) -> None:
    untouched = {name: about["default"] for name, about in FIELDS.items()}
    for value in good:
        assert validate(untouched | {field: value}, SCHEMA) == []
    for value in bad:
        assert validate(untouched | {field: value}, SCHEMA) != [], value


def test_deploying_imports_neither_torch_nor_mlflow() -> None:
    said = subprocess.run(
        [
            sys.executable, "-c",
            "import sys, flows.deployments.round_loop\n"
            "print(*{'torch', 'mlflow', 'boto3'} & set(sys.modules))",
        ],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == ""


def test_a_flow_run_that_began_nothing_starts_anew() -> None:
    request = Request(run="mine")
    assert again.go_on(request, ["fedx"]) == request


def test_a_flow_run_goes_on_with_the_run_that_its_tag_names(bed: Bed) -> None:
    request = Request(run_root=str(bed.runs), rounds=3)
    tags = ["fedx", again.tag_of("run")]
    assert again.go_on(request, tags) == replace(request, run="run", resume=False)
    next(iter(federate(tiny(), bed.setting(), InProcess(1))))
    assert again.go_on(request, tags) == replace(request, run="run", resume=True)
