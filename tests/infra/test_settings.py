import re
import stat
import subprocess
from pathlib import Path

import pytest

from fedx_core.base.errors import ConfigError
from infra.stack import settings

SECRETS = tuple(settings._SECRETS)


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    assert settings.create(path)
    return path


def test_a_new_env_is_the_example_with_secrets_of_its_own_for_its_owner_alone(
    env: Path, tmp_path: Path
) -> None:
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    other = tmp_path / "other"
    settings.create(other)
    one, two = settings.parse(env.read_text()), settings.parse(other.read_text())
    assert {name for name in one if one[name] != two[name]} == set(SECRETS)
    assert all(len(one[name]) >= 32 for name in SECRETS)
    example = settings.parse(settings.EXAMPLE.read_text())
    assert {**one, **dict.fromkeys(SECRETS, "")} == example


def test_an_env_that_is_there_is_left_as_it_is(env: Path) -> None:
    before = env.read_bytes()
    assert not settings.create(env)
    assert env.read_bytes() == before


def test_secrets_that_a_file_of_an_earlier_version_lacks_are_added_to_it(env: Path) -> None:
    said = env.read_text()
    env.write_text(re.sub(r"^FEDX_S3_(WORKER|MLFLOW)_SECRET=.*\n", "", said, flags=re.M))
    older = env.read_text()
    assert not settings.create(env)
    assert env.read_text().startswith(older)
    wanted = settings.load(env)
    assert len({wanted.s3_secret, wanted.s3_worker_secret, wanted.s3_mlflow_secret}) == 3
    assert min(map(len, (wanted.s3_worker_secret, wanted.s3_mlflow_secret))) >= 32


def test_what_env_lacks_is_as_the_example_has_it_but_never_a_secret(env: Path) -> None:
    lines = env.read_text().splitlines()
    env.write_text("\n".join(line for line in lines if line.startswith(SECRETS)))
    assert settings.load(env).prefect_port == 4200
    env.write_text("FEDX_PREFECT_PORT=4300\n")
    with pytest.raises(ConfigError, match=r"no FEDX_PREFECT_AUTH; set it there, or move"):
        settings.load(env)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("FEDX_PREFECT_PORT=many", "FEDX_PREFECT_PORT=many .* 1 to 65535"),
        ("FEDX_S3_PORT=60000", "FEDX_S3_PORT=60000 .* 1 to 55532"),
        ("FEDX_CLIENTS_AT_ONCE=0", "whole number, 1 to"),
        ("FEDX_SITES=north,../south", r"'\.\./south'"),
        ("FEDX_SITES=train", "not default or train"),
        ("two words", "is not NAME=value"),
        ("A='open", "is not NAME=value"),
        ("A=$HOME/b", "single quotes"),
    ],
)
def test_what_cannot_be_is_refused_by_name(env: Path, line: str, said: str) -> None:
    env.write_text(env.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=said):
        settings.load(env)


def test_a_missing_env_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`make up` makes it"):
        settings.load(tmp_path / ".env")


def test_our_reading_of_env_is_the_shells(env: Path) -> None:
    env.write_text(env.read_text() + "export QUOTED='a b' # why\nEMPTY=\nHASH=a#b\n")
    ours = settings.parse(env.read_text())
    script = f"set -a; . {env}; env -0"
    said = subprocess.run(
        ["env", "-i", "sh", "-c", script], capture_output=True, check=True
    ).stdout.decode()
    theirs = dict(pair.partition("=")[::2] for pair in said.split("\0"))
    assert ours["QUOTED"] == "a b"
    assert {name: theirs.get(name) for name in ours} == ours


def test_a_shell_that_loads_the_file_has_the_servers_and_keeps_its_own_proxies(
    env: Path, tmp_path: Path
) -> None:
    env.write_text(env.read_text() + "FEDX_RUN_ROOT='/a b'\nMLFLOW_TRACKING_URI=http://away\n")
    shell_file = tmp_path / "env"
    wanted = settings.load(env)
    settings.write_shell_file(shell_file, wanted)
    assert stat.S_IMODE(shell_file.stat().st_mode) == 0o600
    said = subprocess.run(
        ["sh", "-c", f"NO_PROXY=mine; . {shell_file}; env"], capture_output=True, check=True
    ).stdout.decode()
    assert "PREFECT_API_URL=http://127.0.0.1:4200/api\n" in said
    assert f"PREFECT_API_AUTH_STRING={wanted.prefect_auth}\n" in said
    assert "FEDX_STORE=s3://fedx/runs\n" in said
    assert "FEDX_RUN_ROOT=/a b\n" in said
    assert "NO_PROXY=127.0.0.1,localhost,mine\n" in said
    # Who names a server elsewhere means it.
    assert "MLFLOW_TRACKING_URI=http://away\n" in said


def test_secrets_are_not_shown_with_settings(env: Path) -> None:
    wanted = settings.load(env)
    for secret in (
        wanted.prefect_auth, wanted.s3_secret, wanted.s3_worker_secret, wanted.s3_mlflow_secret,
    ):  # fmt: skip
        assert not re.search(re.escape(secret), repr(wanted))
