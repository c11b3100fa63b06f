"""What servers hold before a run can use them: made where it is missing, else left alone.

Addresses and secrets come from an environment, so the same serves containers:

    python -m infra.stack bootstrap
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedx_core.base import strict_json
from fedx_core.base.errors import RunError
from infra.stack.prefect_api import PrefectServer
from infra.stack.services import CLIENT_POOL, SERVER_POOL
from infra.stack.settings import BUCKET, HEARTBEAT_SECONDS, ROOT

RUNS_AT_ONCE = 2
SILENCE_SECONDS = 90
"""After this long without a heartbeat a flow run counts as crashed: three of them missed."""
AUTOMATION = "fedx: crash runs without heartbeat"

_TEMPLATE = ROOT / "infra" / "pools" / "process.json"
_DEPLOYMENTS = ROOT / "prefect.yaml"
_POOLS = {
    SERVER_POOL: "Loops over rounds; apart from clients, since a loop waits for its clients.",
    CLIENT_POOL: "Clients' rounds; a queue for each site with a worker of its own.",
}

Say = Callable[[str], None]


def make_bucket(environment: Mapping[str, str]) -> None:
    """Make the bucket of runs and of MLflow's files.

    Raises:
        RunError: the object store refuses.
    """
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    ).client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, proxies={}),
    )
    try:
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)
    except client.exceptions.BucketAlreadyOwnedByYou:
        pass  # somebody else's `make up`, in the same moment
    except (ClientError, BotoCoreError) as error:
        raise RunError(
            f"the object store at {environment['AWS_ENDPOINT_URL_S3']}: {error}; is the secret in "
            ".env the one that it was started with? `make down up` starts it with that one"
        ) from error


def make_pools(server: PrefectServer, clients_at_once: int, sites: Sequence[str]) -> None:
    """Make work pools and queues; the clients' pool takes as many at once as ``.env`` says."""
    limits = {SERVER_POOL: RUNS_AT_ONCE, CLIENT_POOL: clients_at_once}
    for name, description in _POOLS.items():
        pool = server.get(f"/work_pools/{name}")
        if pool is None:
            server.post(
                "/work_pools/",
                {
                    "name": name,
                    "type": "process",
                    "description": description,
                    "base_job_template": json.loads(_TEMPLATE.read_text()),
                    "concurrency_limit": limits[name],
                },
            )
        elif name == CLIENT_POOL and pool["concurrency_limit"] != clients_at_once:
            server.patch(f"/work_pools/{name}", {"concurrency_limit": clients_at_once})
    for site in sites:
        if server.get(f"/work_pools/{CLIENT_POOL}/queues/{site}") is None:
            server.post(
                f"/work_pools/{CLIENT_POOL}/queues",
                {"name": site, "description": f"Clients at {site}."},
            )


def make_automation(server: PrefectServer) -> None:
    """Have runs of our deployments crashed when their heartbeat stays away.

    A worker that dies takes its runs with it, and Prefect would show them as running for ever.
    Runs that somebody starts in a shell are left alone: their heartbeat is not ours to set.
    """
    found = server.post("/automations/filter", {"automations": {"name": {"any_": [AUTOMATION]}}})
    if not found:
        server.post("/automations/", automation())


def automation() -> dict[str, Any]:
    """Describe the automation as Prefect's API takes it.

    Source: "Detect zombie flows" of Prefect's documentation; there for all runs.
    """
    alive = "prefect.flow-run.heartbeat"
    ends = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")
    return {
        "name": AUTOMATION,
        "description": f"A heartbeat is due each {HEARTBEAT_SECONDS} s.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
            "match_related": {"prefect.resource.id": ["prefect.deployment.*"]},
            "after": [alive],
            "expect": [alive, *(f"prefect.flow-run.{end}" for end in ends)],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": SILENCE_SECONDS,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"no heartbeat for {SILENCE_SECONDS} s",
            }
        ],
    }


def deploy(
    server: PrefectServer,
    environment: Mapping[str, str],
    sites: Sequence[str],
    folder: Path,
    say: Say,
) -> None:
    """Deploy what ``prefect.yaml`` lists, and a deployment of ``train`` for each site.

    A deployment's version is a digest of all that it is made from, so nothing is done while the
    server has the present ones.

    Args:
        server: to deploy at.
        environment: for Prefect's command.
        sites: names of sites.
        folder: takes the file that is deployed.
        say: takes a line.
    """
    plan = deployments(sites)
    if all(_is_current(server, each) for each in plan["deployments"]):
        return
    say(
        "deploying fedx/round-loop, fedx-sweep/sweep, fedx-client/train"
        + "".join(f", {s}" for s in sites)
    )
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    _run(
        "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file),
        environment={**environment, "PREFECT_HOME": str(folder)},
    )  # fmt: skip


def deployments(sites: Sequence[str]) -> dict[str, Any]:
    """Return ``prefect.yaml`` with a deployment for each site and the version of all."""
    plan: dict[str, Any] = yaml.safe_load(_DEPLOYMENTS.read_text())
    train = next(each for each in plan["deployments"] if each["name"] == "train")
    for site in sites:
        pool = {**train["work_pool"], "work_queue_name": site}
        plan["deployments"].append({**train, "name": site, "work_pool": pool})
    # The form of the loop lists plug-ins and data sets.
    made_from = [
        ROOT / "params.yaml",
        *(p for name in ("fedx_core", "flows") for p in sorted((ROOT / name).rglob("*.py"))),
    ]
    version = hashlib.sha256(f"{ROOT} {strict_json.dumps(plan)}".encode())
    for path in made_from:
        version.update(path.as_posix().encode() + path.read_bytes())
    for each in plan["deployments"]:
        each["version"] = version.hexdigest()[:12]
    return plan


def prepare_charts(environment: Mapping[str, str]) -> str:
    """Make MLflow's experiment with its charts, and return their address."""
    return _run("infra.stack.charts", environment=environment).strip()


def _is_current(server: PrefectServer, deployment: Mapping[str, Any]) -> bool:
    # A flow is called after its function.
    flow = deployment["entrypoint"].rpartition(".")[2].replace("_", "-")
    found = server.get(f"/deployments/name/{flow}/{deployment['name']}")
    return found is not None and found["version"] == deployment["version"]


def _run(module: str, *arguments: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RunError(
            f"`python -m {' '.join([module, *arguments])}` failed:\n"
            f"{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout
