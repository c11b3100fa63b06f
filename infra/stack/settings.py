"""What ``.env`` says, and what a shell needs to use the servers."""

import os
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedx_core.base.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
BUCKET = "fedx"
HEARTBEAT_SECONDS = 30
"""How often a flow run says that it lives; Prefect takes no less."""

_LINE = re.compile(
    r"""\s*(export\s+)?(?P<name>[A-Za-z_]\w*)="""
    r"""('(?P<single>[^']*)'|"(?P<double>[^"$`\\]*)"|(?P<bare>[^\s'"$`\\;&()<>|]*))(\s+\#.*|\s*)"""
)
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRETS = {
    "FEDX_PREFECT_AUTH": "fedx:",
    "FEDX_MLFLOW_SECRET": "",
    "FEDX_S3_SECRET": "",
    "FEDX_S3_WORKER_SECRET": "",
    "FEDX_S3_MLFLOW_SECRET": "",
    "FEDX_POSTGRES_PASSWORD": "",
}
_NEEDED = tuple(name for name in _SECRETS if name != "FEDX_POSTGRES_PASSWORD")
_ADDED = ("FEDX_MLFLOW_SECRET", "FEDX_S3_WORKER_SECRET", "FEDX_S3_MLFLOW_SECRET")
"""Secrets that files of earlier versions lack; they are drawn and added at the end."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Ports, secrets and numbers of workers.

    Args:
        prefect_port: of Prefect's server, API and pages.
        mlflow_port: of MLflow's.
        s3_port: of S3; SeaweedFS takes the three after it too, and the same four plus 10,000.
        prefect_auth: what Prefect's API and pages ask for, as ``user:password``.
        mlflow_secret: password of the user ``fedx`` at MLflow.
        s3_secret: secret key of the user ``fedx``, the coordinator.
        s3_worker_secret: secret key of the user ``fedx-worker``, of clients' workers.
        s3_mlflow_secret: secret key of the user ``fedx-mlflow``.
        prefect_database: SQLAlchemy's URL; empty keeps SQLite in ``var/prefect``.
        client_workers: workers that take any client's job.
        clients_at_once: clients that train at the same time, over all workers.
        sites: each has a queue, a deployment and a worker of its own.
        more: what else ``.env`` sets, for workers and shells.
    """

    prefect_port: int
    mlflow_port: int
    s3_port: int
    prefect_auth: str = field(repr=False)
    mlflow_secret: str = field(repr=False)
    s3_secret: str = field(repr=False)
    s3_worker_secret: str = field(repr=False)
    s3_mlflow_secret: str = field(repr=False)
    prefect_database: str = field(repr=False)
    client_workers: int
    clients_at_once: int
    sites: tuple[str, ...]
    more: Mapping[str, str] = field(repr=False)

    @property
    def s3(self) -> str:
        """Address of the object store."""
        return f"http://127.0.0.1:{self.s3_port}"

    @property
    def prefect(self) -> str:
        """Address of Prefect's pages."""
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """Address of MLflow."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def s3_ports(self) -> tuple[int, ...]:
        """S3, master, volumes, files; and gRPC of each, which SeaweedFS puts 10,000 above."""
        ports = tuple(range(self.s3_port, self.s3_port + 4))
        return ports + tuple(port + 10_000 for port in ports)

    def client_environment(self) -> dict[str, str]:
        """Return what whoever uses the servers has in the environment; ``.env`` goes before it."""
        mlflow = {
            "MLFLOW_TRACKING_USERNAME": "fedx",
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_secret,
        }
        return {
            "PREFECT_API_URL": f"{self.prefect}/api",
            "PREFECT_API_AUTH_STRING": self.prefect_auth,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "MLFLOW_TRACKING_URI": self.mlflow,
            # A server elsewhere is not told this one's password.
            **({} if "MLFLOW_TRACKING_URI" in self.more else mlflow),
            "AWS_ENDPOINT_URL_S3": self.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
            **self.s3_keys("fedx"),
            "FEDX_STORE": f"s3://{BUCKET}/runs",
            "FEDX_HOME": str(ROOT),
            **self.more,
        }

    def worker_environment(self) -> dict[str, str]:
        """Return what clients' workers have in the environment: S3 lets them do less."""
        return {**self.client_environment(), **self.s3_keys("fedx-worker"), **self.more}

    def s3_keys(self, user: str) -> dict[str, str]:
        """Return with what one of S3's users signs; see :mod:`infra.stack.identities`."""
        secret = {
            "fedx": self.s3_secret,
            "fedx-worker": self.s3_worker_secret,
            "fedx-mlflow": self.s3_mlflow_secret,
        }[user]
        return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret}


def load(path: Path) -> Settings:
    """Read ``.env``; what it lacks is as ``.env.example`` has it, secrets apart.

    Raises:
        ConfigError: the file is missing, or a value can't be.
    """
    if not path.exists():
        raise ConfigError(f"no {path} yet; `make up` makes it from {EXAMPLE.name}")
    said = parse(path.read_text())
    values = parse(EXAMPLE.read_text()) | said
    for name in _NEEDED:
        if not said.get(name):
            raise ConfigError(
                f"{path} gives no {name}; set it there, or move the file away and let `make up` "
                "make a new one with new secrets"
            )
    return _settings(values, str(path))


def of(environment: Mapping[str, str]) -> Settings:
    """Read settings from an environment, as containers have them; the rest is as in the example.

    Raises:
        ConfigError: a value can't be.
    """
    example = parse(EXAMPLE.read_text())
    said = {name: environment[name] for name in example if name in environment}
    return _settings(example | said, "the environment")


def _settings(values: dict[str, str], path: str) -> Settings:
    def number(name: str, least: int, most: int) -> int:
        text = values.pop(name)
        if not (text.isdecimal() and least <= int(text) <= most):
            raise ConfigError(f"{name}={text} in {path}; use a whole number, {least} to {most}")
        return int(text)

    del values["FEDX_POSTGRES_PASSWORD"]  # for infra/compose.yaml alone
    sites = tuple(name for name in re.split(r"[,\s]+", values.pop("FEDX_SITES")) if name)
    for site in sites:
        if not _SITE.fullmatch(site) or site in ("default", "train"):
            raise ConfigError(
                f"FEDX_SITES names {site!r} in {path}; use letters, digits, dots and dashes, but "
                "not default or train"
            )
    return Settings(
        prefect_port=number("FEDX_PREFECT_PORT", 1, 65_535),
        mlflow_port=number("FEDX_MLFLOW_PORT", 1, 65_535),
        s3_port=number("FEDX_S3_PORT", 1, 55_532),
        prefect_auth=values.pop("FEDX_PREFECT_AUTH"),
        mlflow_secret=values.pop("FEDX_MLFLOW_SECRET"),
        s3_secret=values.pop("FEDX_S3_SECRET"),
        s3_worker_secret=values.pop("FEDX_S3_WORKER_SECRET"),
        s3_mlflow_secret=values.pop("FEDX_S3_MLFLOW_SECRET"),
        prefect_database=values.pop("FEDX_PREFECT_DATABASE"),
        client_workers=number("FEDX_CLIENT_WORKERS", 0, 64),
        clients_at_once=number("FEDX_CLIENTS_AT_ONCE", 1, 1000),
        sites=sites,
        more=values,
    )


def create(path: Path) -> bool:
    """Write ``.env`` with new secrets, readable by its owner alone.

    One that is there stays as it is; secrets that its version of FedX did not have yet are added.

    Returns:
        Whether it was made.

    Raises:
        ConfigError: one that is there is not of the form of ``.env``.
    """
    text = EXAMPLE.read_text()
    for name in _SECRETS:
        text, found = re.subn(rf"^{name}=$", f"{name}={_draw(name)}", text, flags=re.M)
        assert found == 1
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        said = parse(path.read_text())
        if lacking := [name for name in _ADDED if not said.get(name)]:
            with path.open("a") as file:
                file.write("".join(f"\n{name}={_draw(name)}" for name in lacking) + "\n")
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return True


def _draw(name: str) -> str:
    return f"{_SECRETS[name]}{secrets.token_urlsafe(24)}"


def parse(text: str) -> dict[str, str]:
    """Read lines of ``NAME=value``, as a shell does; comments and quotes go.

    Raises:
        ConfigError: a line is something else.
    """
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ConfigError(
                f"line {number} of .env is not NAME=value; put a value with spaces or signs of "
                "the shell between single quotes"
            )
        values[found["name"]] = found["single"] or found["double"] or found["bare"] or ""
    return values


def write_shell_file(path: Path, settings: Settings) -> None:
    """Write what a shell loads to use the servers, with its secrets for the owner alone."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(settings.client_environment().items())
    ]
    # A proxy has no way to this machine's servers.
    lines.append('export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}"')
    beside = path.with_name(f".{path.name}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
    beside.replace(path)
