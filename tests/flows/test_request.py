"""One request: the command's options and the form's fields are made of it and say the same."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from prefect.utilities.callables import parameter_schema
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.options import Only, Without, taking_requests
from flows.deployments.round_loop import fedx
from flows.deployments.sweep_flow import fedx_sweep
from flows.settings import form, request
from flows.settings.request import How, Request, Said, SweepRequest, overrides_of

ONLY_IN_THE_FORM = {"resume", "show"}
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


def options(command: str) -> dict[str, Any]:
    return {option.name: option for option in COMMANDS[command].params}


def fields(flow: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = parameter_schema(flow).model_dump_for_openapi()["properties"]
    return found


@pytest.mark.parametrize(
    ("kinds", "command", "flow"),
    [((Request, How), "run", fedx), ((SweepRequest,), "sweep", fedx_sweep)],
)
def test_the_command_and_the_form_ask_for_each_field_in_the_same_words(
    kinds: tuple[type[Any], ...], command: str, flow: Any
) -> None:
    asked = [each for kind in kinds for each in request.fields(kind)]
    in_form, in_command = fields(flow), options(command)
    assert list(in_form) == [each.name for each in asked]
    for each in asked:
        described = " ".join(in_form[each.name]["description"].split())
        assert described.startswith(each.said.help)
        if each.name in ONLY_IN_THE_FORM:
            assert each.name not in in_command
        elif each.name != "grid":  # an argument of the command
            assert in_command[each.name].help == f"{each.said.help}."
            assert in_command[each.name].envvar == each.said.variable


def test_a_value_that_is_left_as_it_is_leaves_the_default_or_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @form.asking
    def told(request: Request, how: How) -> Any:
        """Tell."""
        return request, how

    untouched = {name: about["default"] for name, about in fields(fedx).items()}
    for name in ("FEDX_RUN_ROOT", "FEDX_DATA_ROOT", "FEDX_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert told() == (Request(), How())
    assert told(**untouched) == (Request(), How(run_at="threads"))
    monkeypatch.setenv("FEDX_RUN_ROOT", "elsewhere")
    assert told(**untouched)[0].run_root == "elsewhere"
    assert told(run_root="here", method="fedavg")[0] == Request(run_root="here", method="fedavg")
    with pytest.raises(TypeError, match="no parameter 'metod'"):
        told(metod="fedavg")


@dataclass(frozen=True)
class Small:
    """A request of two fields."""

    share: Annotated[float | None, Said(help="A share", least=0, below=1)] = None
    name: Annotated[str | None, Said(help="A name", left="made up", options=("--called",))] = None


def test_a_command_gets_the_request_that_its_options_say() -> None:
    seen: list[Any] = []
    small = typer.Typer()

    @small.command()
    @taking_requests
    def all_of_it(small: Small, loud: bool = False) -> None:
        seen.append((small, loud))

    @small.command()
    @taking_requests
    def some(small: Annotated[Small, Only("name")], run: Annotated[How, Without("show")]) -> None:
        seen.append((small, run))

    run = CliRunner()
    assert (
        run.invoke(small, ["all-of-it", "--share", "0.5", "--called", "x", "--loud"]).exit_code == 0
    )
    assert run.invoke(small, ["some", "--called", "y", "--workers", "3"]).exit_code == 0
    assert seen == [(Small(0.5, "x"), True), (Small(name="y"), How(workers=3))]
    assert run.invoke(small, ["some", "--share", "0.5"]).exit_code == 2
    assert run.invoke(small, ["all-of-it", "--share", "-1"]).exit_code == 2
    assert "made up" in run.invoke(small, ["some", "--help"]).output


def test_a_request_names_the_settings_that_it_changes_and_those_by_path_come_last() -> None:
    asked = Request(method="fedavg", rounds=3, overrides={"federation.rounds": 4, "seed": 2})
    assert overrides_of(asked) == {"method.name": "fedavg", "federation.rounds": 4, "seed": 2}
    assert overrides_of(Request()) == {}
