"""Every socket that the stack listens on, tried by somebody without a secret."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import strangers
from infra.stack import processes, services
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration
Up = tuple[Any, Settings]


def doors(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Every port of every server of the stack, by how it is closed; see docs/security.md."""
    return {
        "signature": settings.s3_ports[:1],
        "tls": settings.s3_ports[1:],
        "password": (settings.prefect_port, settings.mlflow_port),
    }


def all_processes(live: Any) -> list[Any]:
    return [each for group in processes.marked(live.stack.var).values() for each in group]


def test_every_port_of_the_stack_is_known_and_listens_to_this_machine_alone(stack: Up) -> None:
    live, settings = stack
    known = {port for ports in doors(settings).values() for port in ports}
    for name, group in processes.marked(live.stack.var).items():
        heard = strangers.ports(group)
        assert {ip for ip, _ in heard} <= {"127.0.0.1"}, name
        if name.startswith("worker-"):
            assert len(heard) == 1, f"{name} has another port than {control_port(live, name)}"
        else:
            assert {port for _, port in heard} <= known, name
            known -= {port for _, port in heard}
    assert known == set(), "nobody listens there"


def control_port(live: Any, worker: str) -> int:
    """Return where a worker of Prefect's hears from the flow runs that it has started."""
    process = processes.find(worker, live.stack.var)
    assert process is not None
    ((_, port),) = strangers.ports([process.process])
    return port


def test_workers_say_nothing_to_who_lacks_the_token_of_a_flow_run(stack: Up) -> None:
    live, _ = stack
    for name in processes.marked(live.stack.var):
        if name.startswith("worker-"):
            port = control_port(live, name)
            for said in (b"GET / HTTP/1.1\r\n\r\n", b"0" * 32 + b"\n", b"\0" * 64):
                assert strangers.say(port, said) == b""


def test_sockets_in_files_are_their_owners_alone(stack: Up) -> None:
    live, _ = stack
    found = strangers.files(all_processes(live))
    assert {path.name for path in found} >= {"filer.sock", "s3.sock"}
    assert [path for path in found if not strangers.is_its_owners(path)] == []


def test_inner_ports_of_the_store_say_nothing_without_a_certificate(stack: Up) -> None:
    _, settings = stack
    ports = doors(settings)["tls"]
    assert len(ports) == 7
    for port in ports:
        assert strangers.answers_without_certificate(port) == [], port


def test_the_store_refuses_what_is_not_signed_of_any_host_and_origin(stack: Up) -> None:
    _, settings = stack
    (port,) = doors(settings)["signature"]
    assert dict(strangers.let_in(port)) == {}


def test_prefect_and_mlflow_refuse_who_lacks_the_password_from_any_host_and_page(
    stack: Up,
) -> None:
    _, settings = stack
    for port in doors(settings)["password"]:
        pages = {"/"} if port == settings.prefect_port else set()  # they hold nothing by themselves
        left = {
            what: code
            for what, code in strangers.let_in(port)
            if not any(what.startswith(f"GET {page} of ") for page in pages)
        }
        assert left == {}, port


def test_mlflow_refuses_a_foreign_page_even_with_the_password_that_a_browser_remembers(
    stack: Up,
) -> None:
    import base64

    _, settings = stack
    secret = base64.b64encode(f"fedx:{settings.mlflow_secret}".encode()).decode()
    own = f"127.0.0.1:{settings.mlflow_port}"
    for host, origin, wanted in (
        (own, "", 200),
        (own, f"http://{own}", 200),
        (own, strangers.FOREIGN, 403),
        (own, "null", 403),
        (own, "http://127.0.0.1:1", 403),  # a page of somebody else on this machine
        ("evil.example", "", 403),
    ):
        lines = [
            "POST /api/2.0/mlflow/experiments/search HTTP/1.1", f"Host: {host}",
            f"Authorization: Basic {secret}", "Content-Type: application/json",
            "Content-Length: 17", "Connection: close", *([f"Origin: {origin}"] if origin else []),
        ]  # fmt: skip
        request = "\r\n".join([*lines, "", '{"max_results":5}']).encode()
        answer = strangers.say(settings.mlflow_port, request)
        assert strangers.status(answer) == wanted, (host, origin, answer)


def test_a_certificate_of_another_authority_opens_nothing(stack: Up, tmp_path: Path) -> None:
    import ssl
    from urllib.error import URLError
    from urllib.request import HTTPSHandler, ProxyHandler, build_opener

    from infra.stack import certificates

    live, settings = stack
    certificates.make(tmp_path)
    own = live.stack.var / "stack" / "s3"

    def ask(folder: Path, port: int) -> int:
        trusted = ssl.create_default_context(cafile=own / certificates.AUTHORITY)
        trusted.load_cert_chain(folder / certificates.CERTIFICATE, folder / certificates.KEY)
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=trusted))
        with opener.open(f"https://127.0.0.1:{port}/", timeout=20) as answer:
            return int(answer.status)

    master = settings.s3_ports[1]
    assert ask(own, master) == 200  # the door is there, and opens to its own
    with pytest.raises((URLError, OSError)):
        ask(tmp_path, master)


def test_weed_shell_of_a_stranger_makes_no_administrator(stack: Up, tmp_path: Path) -> None:
    _, settings = stack
    program = services.weed()
    assert program is not None
    master, filer = settings.s3_ports[1], settings.s3_ports[3]
    asked = "s3.configure -access_key=evil -secret_key=evil -user=evil -actions=Admin -apply\n"
    try:
        done = subprocess.run(
            [program, "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"],
            input=asked,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
            **strangers.as_nobody(),
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        said = str(late.stdout)
    assert '"evil"' not in said
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client(
        "s3",
        endpoint_url=settings.s3,
        aws_access_key_id="evil",
        aws_secret_access_key="evil",
        region_name="us-east-1",
    )
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client.list_buckets()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_somebody_else_on_the_machine_reads_no_key_and_opens_no_socket(stack: Up) -> None:
    live, _ = stack
    var = live.stack.var
    tries = [
        f"open({str(path)!r}, 'rb').read(1)"
        for path in (live.stack.env, *(p for p in var.rglob("*") if p.is_file()))
    ]
    tries += [
        f"__import__('socket').socket(1).connect({str(path)!r})"
        for path in strangers.files(all_processes(live))
    ]
    program = "\n".join(
        f"try:\n    {each}\n    print({each!r})\nexcept (PermissionError, FileNotFoundError): pass"
        for each in tries
    )
    # Folders of tests are closed as a whole; what is inside must not need that.
    done = subprocess.run(
        ["python3", "-c", program],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        **strangers.as_nobody(),
    )
    assert done.stdout == ""
