"""Servers that a run starts by itself, tried by somebody without a secret."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import strangers
from bed import ROOT

RUN = """
import sys, time
from flows.deployments.start import _reach_prefect
_reach_prefect(quietly=True)
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    client.read_flows()  # whoever started it gets in
    print(client.api_url, flush=True)
    sys.stdin.read()
"""


def test_the_prefect_server_of_a_run_wants_a_password_that_nobody_is_shown(
    tmp_path: Path,
) -> None:
    import os

    home = {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**kept, **home},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdin is not None
        said = run.stdout.readline()
        mine = psutil.Process(run.pid)
        everybody = [mine, *mine.children(recursive=True)]
        passwords = {
            value.removeprefix("fedx:")
            for each in everybody
            for name, value in each.environ().items()
            if name == "PREFECT_SERVER_API_AUTH_STRING"
        }
        heard = strangers.ports(everybody)
        commands = [" ".join(each.cmdline()) for each in everybody]
        let_in = {port: dict(strangers.let_in(port)) for _, port in heard}
        files = strangers.files(everybody)
        run.stdin.close()
        said += run.stdout.read()
    assert len(heard) == 1, said
    ((address, port),) = heard
    assert address == "127.0.0.1"
    assert f":{port}/" in said
    assert let_in == {port: {}}
    assert [path for path in files if not strangers.is_its_owners(path)] == []
    assert len(passwords) == 1
    (password,) = passwords
    assert len(password) >= 32
    assert not any(password in text for text in (said, *commands))


def test_dask_on_this_machine_takes_nobody_without_a_certificate(tmp_path: Path) -> None:
    pytest.importorskip("prefect_dask")
    program = """
from flows.carriers import dask_cluster
def main():
    import sys
    with dask_cluster.task_runner(2) as runner:
        dask_cluster.reach(runner)
        print(runner.client.submit(sum, (1, 2)).result(), flush=True)
        sys.stdin.read()
if __name__ == "__main__":
    main()
"""
    script = tmp_path / "cluster.py"
    script.write_text(program)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdin is not None
        assert run.stdout.readline() == "3\n"
        mine = psutil.Process(run.pid)
        heard = strangers.ports([mine, *mine.children(recursive=True)])
        # Worker processes have an HTTP port that can't be left out; there is nothing behind it.
        # Silent ports are waited for, all at once. Worker processes have an HTTP port that can't be
        # left out; there is nothing behind it.
        with ThreadPoolExecutor() as at_once:
            tried = at_once.map(strangers.answers_without_certificate, [p for _, p in heard])
            said = dict(zip((port for _, port in heard), tried, strict=True))
        open_ports = {port: said[port] for port in said if said[port] and [*strangers.let_in(port)]}
        run.stdin.close()
    assert {address for address, _ in heard} == {"127.0.0.1"}
    assert len(heard) >= 3
    assert open_ports == {}
