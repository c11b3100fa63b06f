import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from fedx_core.base.errors import PayloadError, RunError, TooBigError
from fedx_core.rounds import audit
from fedx_core.sites import orders
from flows.sites import command, deploy
from flows.sites.worker import SiteJob, SiteWorker

ORDER = "QUFBQQ=="


@pytest.mark.parametrize(
    "order",
    [
        None,
        3,
        ["QUFB"],
        {"order": "QUFB"},
        "",
        "QUF",
        "QUF_",
        "QUFB\n",
        "$(touch x)",
        "QU=B",
        "=" * 4,
    ],
)
def test_only_base64_text_is_taken_for_an_order(order: Any) -> None:
    with pytest.raises(PayloadError):
        command.order_of({"order": order})


def test_an_order_is_all_that_is_read_of_a_flow_run() -> None:
    assert command.order_of({"order": ORDER, "command": "touch x", "env": {"PATH": "."}}) == ORDER
    with pytest.raises(PayloadError, match="no order"):
        command.order_of({"command": "touch x"})


def test_an_overlong_order_is_refused_by_its_length_alone() -> None:
    longest = "A" * command.ORDER_LENGTH
    assert command.order_of({"order": longest}) == longest
    with pytest.raises(TooBigError, match=str(command.ORDER_LENGTH + 4)):
        command.order_of({"order": longest + "AAAA"})


def test_the_longest_order_that_a_coordinator_issues_is_taken() -> None:
    assert len(base64.b64encode(bytes(orders.MAX_ORDER))) == command.ORDER_LENGTH


def test_the_command_learns_no_password_and_nothing_that_changes_what_it_imports() -> None:
    kept = {"PATH": "/bin", "FEDX_SITE_HOME": "/srv/site"}
    left = ("PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY", "PYTHONSTARTUP", "LD_PRELOAD")
    found = command.environment({**kept, **dict.fromkeys(left, "canary")})
    assert found == {**kept, "PYTHONSAFEPATH": "1"}


def test_pool_deployment_and_run_change_nothing_about_a_job() -> None:
    everything: dict[str, Any] = dict.fromkeys(("client", "work_pool", "flow_run", "deployment"))
    found = anyio.run(lambda: SiteJob.resolve_for_flow_run(**everything, worker_name="north"))
    assert found == SiteJob()
    assert found.command is None
    assert found.env == {}


def test_the_template_of_the_pool_has_nothing_to_fill_in() -> None:
    template = SiteWorker.get_default_base_job_template()
    assert "{{" not in json.dumps(template["job_configuration"])
    assert template["variables"]["properties"] == {}
    assert template["variables"]["additionalProperties"] is False


def test_the_flow_behind_the_deployment_refuses_to_run() -> None:
    with pytest.raises(RunError, match="fedx-site"):
        deploy.fedx_site.fn(ORDER)


def test_sites_are_deployed_only_at_a_server_that_somebody_has_named() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(RunError, match="PREFECT_API_URL"),
    ):
        deploy.deploy("north")


async def _always() -> bool:
    return True


async def _never() -> bool:
    return False


def carry_out(
    monkeypatch: pytest.MonkeyPatch, program: str, *, wanted: Any = _always
) -> dict[str, Any] | None:
    monkeypatch.setattr(command, "COMMAND", (sys.executable, "-c", program))
    found = anyio.run(command.carry_out, ORDER, wanted)
    return None if found is None else dict(found)


def test_the_order_goes_in_on_stdin_and_the_last_line_comes_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "import sys; print('noise'); print('{\"done\": \"' + sys.stdin.read() + '\"}')"
    assert carry_out(monkeypatch, program) == {"done": ORDER}


def test_a_refusal_comes_out_as_its_code_and_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"error": {"code": "E_PLAN", "message": "not approved"}})
    found = carry_out(monkeypatch, f"print({said!r}); raise SystemExit(1)")
    assert found == json.loads(said)


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ('print(\'{"done": "yes"}\'); raise SystemExit(1)', "exit code 1"),
        ("print('[' * 100000)", "exit code 0"),
    ],
)
def test_a_command_that_dies_is_a_failure_whatever_it_printed(
    monkeypatch: pytest.MonkeyPatch, program: str, ended: str
) -> None:
    found = carry_out(monkeypatch, program)
    assert found is not None
    assert found["error"]["code"] == "E_RUN"
    assert ended in found["error"]["message"]


def test_work_that_nobody_wants_any_more_is_killed_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.05)
    pids = tmp_path / "pids"
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r} + '~', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '~', {str(pids)!r})\n"
        "time.sleep(600)\n"
    )

    async def until_it_runs() -> bool:
        return not pids.exists()

    assert carry_out(monkeypatch, program, wanted=until_it_runs) is None
    deadline = time.monotonic() + 20
    left = [int(pid) for pid in pids.read_text().split()]
    while any(map(_alive, left)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, left))


def test_work_that_is_cancelled_at_its_end_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WATCH_SECONDS", 0.0)
    program = 'import time; time.sleep(0.5); print(\'{"done": "all"}\')'
    assert carry_out(monkeypatch, program, wanted=_never) == {"done": "all"}


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_audit_book_is_only_added_to_and_for_its_owner_alone(tmp_path: Path) -> None:
    book = tmp_path / "site" / audit.FILE
    audit.refused(book.parent, PayloadError("x" * 5000), flow_run="one")
    before = book.read_bytes()
    audit.refused(book.parent, TooBigError('line\n{"event": "forged"}'), flow_run="two")
    assert book.read_bytes().startswith(before)
    first, second = map(json.loads, book.read_text().splitlines())
    assert (first["event"], first["code"], first["flow_run"]) == ("refused", "E_PAYLOAD", "one")
    assert len(first["said"]) == audit.LONGEST
    assert (second["event"], second["code"]) == ("refused", "E_TOO_BIG")
    assert book.stat().st_mode & 0o777 == 0o600
    assert list(book.parent.iterdir()) == [book]
