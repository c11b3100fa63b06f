"""Python programs from a process that has imported torch and the like already.

Starting one costs seconds of nothing but imports, and the documents start a hundred. A server forks
instead, and the child becomes the program: with the caller's folder, environment, streams and exit
code. Nothing of FedX is imported before the fork, so each program finds the code that its own
``PYTHONPATH`` names.

    python warm.py --serve SOCKET MODULE...   until its standard input closes
    python warm.py SOCKET ...                 as `python ...`; knows -W, -m and -c
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# What takes long to import. Neither Prefect nor MLflow: they read the environment as they come.
PRELOADED = (
    "torch", "torch._dynamo", "torchvision", "timm", "zennit.composites", "safetensors.torch",
    "boto3", "matplotlib.figure", "PIL.Image", "pydantic", "rich.live", "typer", "yaml",
)  # fmt: skip


@contextmanager
def serving(address: Path, preloaded: Sequence[str] = PRELOADED) -> Iterator[None]:
    """Have a server for the time of the context, which has imported some modules."""
    import subprocess

    kept = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    command = [sys.executable, __file__, "--serve", str(address), *preloaded]
    with subprocess.Popen(
        command, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield
        server.stdin.close()


def commands(folder: Path, python: str) -> None:
    """Write the commands ``python`` and ``fedx`` into a new folder.

    Args:
        folder: for the PATH.
        python: what starts a program, as a shell writes it.
    """
    folder.mkdir()
    for name, program in (("python", python), ("fedx", f"{python} -m flows.cli")):
        (folder / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (folder / name).chmod(0o755)


def call(address: str, arguments: Sequence[str]) -> int:
    """Have a program run with this process's folder, environment and streams; return its code."""
    asked = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode() + b"\n")
        return int(connection.makefile().read())


def serve(address: str, *preloaded: str) -> None:
    """Fork a program for each call. Returns at the end, and in each program as that program."""
    for name in preloaded:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait for programs just end
        while door in select.select([door, sys.stdin], [], [])[0]:
            connection, _ = door.accept()
            with connection:
                if os.fork():
                    continue
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                asked = json.loads(connection.makefile().readline())
                program = os.fork()
                if program:
                    _tell(connection, program, streams)
            _become(**asked, streams=streams)
            return


def _tell(connection: socket.socket, program: int, streams: Sequence[int]) -> NoReturn:
    """Tell the caller its program's exit code; end the program if the caller is killed."""
    for stream in (0, 1, 2, *streams):
        os.close(stream)  # or who reads them would wait for this process too

    def watch() -> None:
        if not connection.recv(1):
            os.kill(program, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(program, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _become(
    arguments: list[str], folder: str, environment: dict[str, str], streams: Sequence[int]
) -> None:
    """Do as `python` does with arguments in a folder."""
    import runpy
    import types
    import warnings

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    while arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type] # a filter by its name, as -W has it
        del arguments[:2]
    kind, what, *rest = arguments
    paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:1] = [folder if kind == "-m" else "", *paths]
    sys.argv = [kind, *rest]
    if kind not in ("-m", "-c"):
        sys.exit(f"python {kind}: warm programs begin with -m or -c; teach tests/warm.py others")
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(*sys.argv[2:])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
