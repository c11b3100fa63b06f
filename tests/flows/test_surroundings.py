"""What a machine brings along: a proxy, a home that can't be written, servers that are gone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bed import ROOT
from flows.doctor import surroundings

DOWN = "http://127.0.0.1:9"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_is_not_asked_for_servers_of_this_machine(name: str) -> None:
    environment = {name: "http://proxy:3128", "NO_PROXY": "hub.example, localhost"}
    surroundings.ask_this_machine_directly(environment)
    wanted = "hub.example,localhost,127.0.0.1,::1"
    assert environment["NO_PROXY"] == environment["no_proxy"] == wanted
    again = dict(environment)
    surroundings.ask_this_machine_directly(again)
    assert again == environment


def test_the_spelling_that_programs_prefer_is_the_one_that_counts() -> None:
    environment = {"http_proxy": "http://proxy", "no_proxy": "a", "NO_PROXY": "b"}
    surroundings.ask_this_machine_directly(environment)
    assert environment["no_proxy"].startswith("a,")


def test_without_a_proxy_nothing_is_set() -> None:
    environment: dict[str, str] = {}
    surroundings.ask_this_machine_directly(environment)
    assert environment == {}


PROBE = """
import flows, os, urllib.request, httpx, requests
from urllib.parse import urlsplit
url = os.environ["URL"]
for get in (lambda: urllib.request.urlopen(url, timeout=20).status,
            lambda: httpx.get(url).status_code, lambda: requests.get(url).status_code):
    assert get() == 200
from fedx_core.store import open_store
assert open_store("s3://bucket/x").read("nothing") is None
"""


def test_all_clients_of_local_servers_go_past_the_proxy(plain_s3: str) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), DOWN)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x"}
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={
            **environment, **proxies, **keys, "PYTHONPATH": str(ROOT),
            "URL": f"{plain_s3}/health", "AWS_ENDPOINT_URL_S3": plain_s3,
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("home", ["/proc/1", "/dev/null", "/dev/null/none"])
def test_where_no_home_can_be_written_prefect_and_matplotlib_get_another(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment: dict[str, str] = {}
    surroundings.find_a_home(environment)
    for name in ("PREFECT_HOME", "MPLCONFIGDIR"):
        assert Path(environment[name]).is_dir()
        assert Path(environment[name]).is_relative_to(tmp_path)


def test_a_home_that_can_be_written_or_a_folder_that_was_named_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    environment: dict[str, str] = {}
    surroundings.find_a_home(environment)
    assert environment == {}
    monkeypatch.setenv("HOME", "/dev/null")
    named = {"PREFECT_HOME": "/mine", "MPLCONFIGDIR": "/mine"}
    surroundings.find_a_home(named)
    assert named == {"PREFECT_HOME": "/mine", "MPLCONFIGDIR": "/mine"}


def test_a_shell_that_points_at_servers_that_are_down_is_told_what_to_do() -> None:
    shell = {
        "PREFECT_API_URL": f"{DOWN}/api",
        "AWS_ENDPOINT_URL_S3": DOWN,
        "MLFLOW_TRACKING_URI": DOWN,
        "FEDX_STORE": "s3://fedx/runs",
    }
    said = surroundings.gone("s3://fedx/runs", shell, engine=True)
    assert "`make up`" in said
    wanted = "unset PREFECT_API_URL AWS_ENDPOINT_URL_S3 MLFLOW_TRACKING_URI FEDX_STORE"
    assert f"`{wanted}`" in said
    assert surroundings.gone("", shell, engine=False) == ""
    assert "AWS_ENDPOINT_URL_S3)" in surroundings.gone("s3://fedx/runs", shell, engine=False)
    elsewhere = {"PREFECT_API_URL": "https://prefect.example/api"}
    assert surroundings.gone("", elsewhere, engine=True) == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        up = {"PREFECT_API_URL": f"http://127.0.0.1:{server.getsockname()[1]}/api"}
        assert surroundings.gone("", up, engine=True) == ""


def test_a_run_names_the_servers_that_are_down_and_makes_no_folder(
    fedx: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", DOWN)
    assert fedx("run", "--no-engine", "--store", "s3://fedx/runs") == 1  # type: ignore[operator]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error E_RUN: nothing answers at http://127.0.0.1:9, where this shell")
    assert not list(Path().glob("runs/*"))
