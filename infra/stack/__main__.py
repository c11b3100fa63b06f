"""Commands of the stack; the Makefile has a target for each."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from fedx_core.base.errors import FedXError
from infra.stack import bootstrap, services, settings
from infra.stack.lifecycle import Stack
from infra.stack.prefect_api import PrefectServer
from infra.stack.settings import ROOT, Settings


def main() -> int:
    """Carry out one command; errors go to stderr, with exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=main.__doc__)
    parser.add_argument("--var", type=Path, default=ROOT / "var", help="folder of data and logs")
    parser.add_argument("--env", type=Path, default=ROOT / ".env", help="file of settings")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in {
        "up": "start what does not run, and make what servers need",
        "down": "end everything; data stay",
        "status": "say what runs",
        "env": "print the file to load for using the stack; /dev/null while it is down",
        "forget": "remove the data of a stack that is down",
        "bootstrap": "make what servers need at those that the environment names",
    }.items():
        commands.add_parser(name, help=what)
    container = commands.add_parser("store", help="be the S3 server that the environment describes")
    container.add_argument("--bind", default="127.0.0.1", help="address that S3 listens on")
    options = parser.parse_args()
    stack = Stack(options.var.absolute(), options.env.absolute(), _say)
    try:
        if options.command == "store":
            _be_the_store(stack.var, options.bind)
        return _carry_out(options.command, stack)
    except FedXError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped waiting; what was started goes on: `make up` or `make down`",
              file=sys.stderr)  # fmt: skip
        return 130


def _carry_out(command: str, stack: Stack) -> int:
    if command == "up":
        _introduce(stack, stack.up())
    elif command == "down":
        print("nothing was running" if stack.down() == 0 else "all ended; data stay in var/")
    elif command == "status":
        lines, whole = stack.status()
        print("\n".join(lines))
        return 0 if whole else 1
    elif command == "env":
        print(stack.shell_file() or os.devnull)
    elif command == "forget":
        stack.forget()
    else:
        _bootstrap(stack)
    return 0


def _introduce(stack: Stack, wanted: Settings) -> None:
    shell_file = stack.shell_file()
    assert shell_file is not None
    env, load = (os.path.relpath(path) for path in (stack.env, shell_file))
    print(
        f"""
Prefect   {wanted.prefect}   asks for FEDX_PREFECT_AUTH of {env}
MLflow    {stack.charts_url()}
          asks for user fedx and FEDX_MLFLOW_SECRET of {env}
S3        {wanted.s3}   user fedx, bucket fedx; the secret is FEDX_S3_SECRET of {env}

What now:
  make demo DATA=eurosat    a run that shows up there
  . {load:<23} with this, fedx, prefect and mlflow of a shell use these servers
  make status               what runs; make logs, make down
""".rstrip()
    )


def _be_the_store(var: Path, bind: str) -> NoReturn:
    wanted = settings.of(os.environ)
    services.prepare_store(wanted, var)
    service = services.store(wanted, var, bind)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDX_")}
    os.execve(service.command[0], service.command, kept | dict(service.environment))


def _bootstrap(stack: Stack) -> None:
    server = PrefectServer.of(os.environ)
    sites = os.environ.get("FEDX_SITES", "").replace(",", " ").split()
    folder = stack.var / "stack"
    folder.mkdir(parents=True, exist_ok=True)
    bootstrap.make_bucket(os.environ)
    bootstrap.make_pools(server, int(os.environ["FEDX_CLIENTS_AT_ONCE"]), sites)
    bootstrap.make_automation(server)
    bootstrap.deploy(server, os.environ, sites, folder, _say)
    print(bootstrap.prepare_charts(os.environ))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    # Ctrl-C works even for `make up &`, where the shell has switched it off.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
