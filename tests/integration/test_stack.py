"""`make up` and what it leaves: everything is there, once, for this machine alone, and it ends."""

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import tracked
from bed import ROOT, tiny
from fedx_core.base import config
from fedx_core.store import open_store
from infra.stack import bootstrap, processes
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration
NAMES = {"s3", "prefect", "mlflow", "worker-server", "worker-client-1"} | {
    f"worker-site-client-0{n}" for n in range(3)
}
SECRETS = tuple(f"canary-of-{who}" for who in ("prefect", "tracking", "s3", "workers", "mlflow"))
Up = tuple[Any, Settings]


def pids(live: Any) -> dict[str, int]:
    found = {name: processes.find(name, live.stack.var) for name in NAMES}
    return {name: running.process.pid for name, running in found.items() if running}


def experiment(settings: Settings) -> dict[str, Any]:
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=fedx"
    found: dict[str, Any] = json.loads(tracked.ask(settings, path))["experiment"]
    return found


def test_everything_that_a_run_needs_is_there_after_up(stack: Up, s3: str) -> None:
    live, settings = stack
    assert set(pids(live)) == NAMES
    server = live.prefect(settings)
    pools = {name: server.get(f"/work_pools/{name}") for name in ("fedx-server", "fedx-clients")}
    assert pools["fedx-server"]["concurrency_limit"] == bootstrap.RUNS_AT_ONCE
    assert pools["fedx-clients"]["concurrency_limit"] == settings.clients_at_once
    # Whoever may start runs may not choose a site's command or folder.
    for pool in pools.values():
        assert {"command", "working_dir"} & set(
            pool["base_job_template"]["variables"]["properties"]
        ) == set()
    for name, queue in (("train", "default"), ("client-00", "client-00")):
        deployed = server.get(f"/deployments/name/fedx-client/{name}")
        assert (deployed["work_pool_name"], deployed["work_queue_name"]) == ("fedx-clients", queue)
    assert server.get("/deployments/name/fedx/round-loop")["work_pool_name"] == "fedx-server"
    (zombies,) = server.post("/automations/filter", {})
    assert zombies["enabled"]
    assert zombies["trigger"]["within"] >= 90
    assert zombies["actions"][0]["state"] == "CRASHED"
    open_store(f"{s3}/there").put("a", b"1")
    tags = {tag["key"] for tag in experiment(settings)["tags"]}
    assert "mlflow.sharedViewState.fedx" in tags
    assert live.stack.charts_url().startswith(f"{settings.mlflow}/#/experiments/")


def test_up_again_changes_nothing(stack: Up) -> None:
    live, settings = stack
    live.up()  # takes over what somebody may have changed in the code since
    server = live.prefect(settings)

    def state() -> list[Any]:
        return [
            pids(live),
            (live.folder / ".env").read_bytes(),
            [
                [(each["name"], each["updated"]) for each in server.post(path, {})]
                for path in ("/deployments/filter", "/automations/filter")
            ],
            sorted(each["name"] for each in server.post("/work_queues/filter", {})),
            experiment(settings),
        ]

    before = state()
    said: list[str] = []
    type(live.stack)(live.stack.var, live.stack.env, said.append).up()
    assert said == []
    assert state() == before


def test_a_killed_server_comes_back_and_the_others_are_left_alone(stack: Up) -> None:
    live, settings = stack
    before = pids(live)
    for process in processes.marked(live.stack.var)["mlflow"]:
        if process.pid == before["mlflow"]:
            process.kill()  # its child lives on and holds the port
    lines, whole = live.stack.status()
    assert not whole
    assert any(line.split()[:2] == ["mlflow", "stopped"] for line in lines)
    live.up()
    after = pids(live)
    assert after.pop("mlflow") != before.pop("mlflow")
    assert after == before
    assert live.stack.status()[1]
    assert experiment(settings)["name"] == "fedx"


def test_nothing_listens_to_other_machines(stack: Up) -> None:
    live, settings = stack
    heard = {
        (name, connection.laddr.ip, connection.laddr.port)
        for name, group in processes.marked(live.stack.var).items()
        for process in group
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    ports = {port for _, _, port in heard}
    assert {settings.prefect_port, settings.mlflow_port, *settings.s3_ports} <= ports
    assert [each for each in heard if not ipaddress.ip_address(each[1]).is_loopback] == []


def test_prefect_and_mlflow_ask_for_their_secrets_and_mlflow_for_its_own_name(stack: Up) -> None:
    _, settings = stack
    stranger = {"Host": "mlflow.example.org"}
    for url, headers, code in (
        (f"{settings.prefect}/api/admin/version", {}, 401),
        (f"{settings.mlflow}/", {}, 401),
        (f"{settings.mlflow}/", stranger, 403),
    ):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20)
        assert refusal.value.code == code
        refusal.value.close()


def test_a_command_in_a_shell_uses_the_stack_contacts_nobody_else_and_writes_no_secret(
    stack: Up,
) -> None:
    live, settings = stack
    shell_file = live.stack.shell_file()
    assert shell_file.stat().st_mode & 0o777 == 0o600
    params = live.folder / "shell.yaml"
    plain = config.as_plain(tiny(federation__rounds=1, method__name="fedavg"))
    params.write_text(yaml.safe_dump(plain))
    command = f'-m flows.cli run --run in-a-shell --params "{params}"'
    done = subprocess.run(
        ["sh", "-ec", f'. "{shell_file}"; exec "{sys.executable}" {command}'],
        cwd=ROOT,
        env={**os.environ, **live.guarded, "PREFECT_HOME": str(live.folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = live.prefect(settings).post(
        "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["fedx in-a-shell"]}}}
    )
    assert [run["state_type"] for run in runs] == ["COMPLETED"]

    # All that has run on the stack until here ran under the guard.
    guarded = [" ".join(contact["process"]) for contact in live.contacts if "guarded" in contact]
    for who in (
        "prefect server start", "mlflow server", "prefect worker start", "infra.stack.charts",
        "prefect --no-prompt deploy", "flows.cli run",
    ):  # fmt: skip
        assert any(who in process for process in guarded), f"{who} ran without the guard"
    assert [contact for contact in live.contacts if "refused" in contact] == []
    # SeaweedFS is no Python program: what it is connected to is looked at instead.
    for process in processes.marked(live.stack.var)["s3"]:
        assert "-master.telemetry=false" in process.cmdline()
        for connection in process.net_connections("inet"):
            if connection.raddr:
                assert ipaddress.ip_address(connection.raddr.ip).is_loopback

    seen = [log.read_text(errors="replace") for log in (live.stack.var / "log").iterdir()]
    seen += [done.stdout, done.stderr]
    seen += [
        " ".join(process.cmdline())
        for group in processes.marked(live.stack.var).values()
        for process in group
    ]
    assert [text for text in seen if any(secret in text for secret in SECRETS)] == []


def test_the_guard_refuses_and_writes_down_who_tried(live: Any, tmp_path: Path) -> None:
    tries = (
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import asyncio; asyncio.run(asyncio.open_connection('198.51.100.1', 80))",
    )
    log = tmp_path / "guard.jsonl"
    for code in tries:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **live.guarded, "NETWORK_GUARD": str(log)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "the network guard refuses" in done.stderr
    refused = [json.loads(line).get("refused", "") for line in log.read_text().splitlines()]
    for host in ("example.org", "192.0.2.1", "198.51.100.1"):
        assert any(host in line for line in refused)


def test_a_worker_ends_at_the_first_signal(stack: Up) -> None:
    live, _ = stack
    worker = processes.find("worker-site-client-00", live.stack.var).process
    worker.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 60
    while processes.alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes.alive(worker)
    live.up()
    assert set(pids(live)) == NAMES
