"""Up, down, status, forget: what a stack goes through."""

import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedx_core.base.errors import RunError
from fedx_core.base.locks import exclusive
from infra.stack import bootstrap, processes, services, settings, waiting
from infra.stack.prefect_api import PrefectServer
from infra.stack.services import CLIENT_POOL, SERVER_POOL, Service
from infra.stack.settings import Settings

DATA = ("s3", "prefect", "mlflow.db", "sites", "log", "stack")
"""What the stack keeps in ``var``; other files there are not its own."""
CALM_SECONDS = 5.0
"""What processes get to end after SIGINT, and again after SIGTERM, before they are killed."""
S3_CALM_SECONDS = 1.0
"""The same for SeaweedFS, which has closed its files by then but takes leave of itself for 15 s."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """One stack, which is told from others by its folder.

    Args:
        var: absolute path of the folder of data, logs and notes.
        env: path of ``.env``.
        say: takes lines for people.
    """

    var: Path
    env: Path
    say: Say

    def up(self, only: Collection[str] = ()) -> Settings:
        """Start what does not run, make what is missing, and wait until all of it answers.

        Args:
            only: names of servers; empty for all of them, workers and what they need.

        Raises:
            ConfigError: a port is taken, or ``.env`` is wrong.
            RunError: something does not start; what was started stays, `make up` goes on.
        """
        self.var.mkdir(mode=0o700, parents=True, exist_ok=True)  # updates of clients are in it
        with self._alone():
            if settings.create(self.env):
                self.say(f"wrote {self.env} with new secrets; nobody else may read it")
            wanted = settings.load(self.env)
            servers = services.servers(wanted, self.var)
            chosen = [each for each in servers if not only or each.name in only]
            fresh = self._start_servers(wanted, chosen)
            if "s3" in {each.name for each in chosen}:
                bootstrap.make_bucket(wanted.client_environment())
            if not only:
                self._complete(wanted, fresh)
            return wanted

    def down(self) -> int:
        """End everything that carries this stack's marks; data stay.

        Returns:
            How many processes there were.
        """
        with self._alone():
            self._shell_file.unlink(missing_ok=True)
            found = processes.marked(self.var)
            for stage in _stages(found):
                for name in stage:
                    self.say(f"ending {name}")
                ends = [process for name in stage for process in found[name]]
                processes.end(ends, S3_CALM_SECONDS if stage == ["s3"] else CALM_SECONDS)
            # What a worker started while it was being ended.
            late = [p for group in processes.marked(self.var).values() for p in group]
            processes.end(late, CALM_SECONDS)
            return sum(map(len, found.values())) + len(late)

    def status(self) -> tuple[list[str], bool]:
        """Describe each service in a line.

        Returns:
            Lines, and whether all or nothing runs.
        """
        if not self.env.exists():
            return [f"not set up yet: no {self.env}; `make up` starts everything"], True
        wanted = settings.load(self.env)
        every = (*services.servers(wanted, self.var), *services.workers(wanted, self.var))
        found = processes.marked(self.var)
        lines, running = [], 0
        for each in every:
            main = processes.find(each.name, self.var)
            if main is None:
                lines.append(f"{each.name:<16} stopped")
                continue
            running += 1
            answers = not each.health or waiting.answers(each)
            mib = processes.memory(found.pop(each.name, [])) / 2**20
            lines.append(
                f"{each.name:<16} {'running' if answers else 'does not answer':<8} "
                f"process {main.process.pid:<8} {mib:6.0f} MiB  {each.health}"
                + ("" if main.settings == processes.digest(each) else "  (.env has changed)")
            )
        lines += [f"{name:<16} left over; `make down` ends it" for name in found]
        return lines, running in (0, len(every)) and not found

    def shell_file(self) -> Path | None:
        """Return the file that a shell loads to use the stack, or None while it is down.

        Raises:
            RunError: the stack is up in part.
        """
        lines, whole = self.status()
        if not whole:
            raise RunError(
                "only a part of the stack runs; `make up` mends it, `make down` ends it\n"
                + "\n".join(lines)
            )
        running = processes.marked(self.var)
        return self._shell_file if running and self._shell_file.exists() else None

    def forget(self) -> None:
        """Remove all data of the stack, after saying what.

        Raises:
            RunError: it is up.
        """
        if processes.marked(self.var):
            raise RunError("the stack is up; `make down` first")
        for path in (self.var / name for name in DATA):
            if path.exists():
                self.say(f"removing {path} ({_size(path) / 2**20:.1f} MiB)")
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.say(f"{self.env} stays, and so do runs/ and data/")

    def _start_servers(self, wanted: Settings, chosen: Collection[Service]) -> set[str]:
        found = processes.marked(self.var)
        missing = [each for each in chosen if self._missing(each)]
        for each in missing:
            # A server that died may leave a child that still holds its port.
            processes.end(found.get(each.name, ()), S3_CALM_SECONDS)
        waiting.check_ports(missing)
        for each in missing:
            if each.name == "s3":
                services.prepare_store(wanted, self.var)
            self.say(f"starting {each.name}, log in {processes.log_of(each.name, self.var)}")
            processes.start(each, self.var)
        if missing:
            waiting.until(chosen, waiting.answers, self.var, self.say)
        else:
            waiting.until(chosen, waiting.answers, self.var, lambda _: None)
        return {each.name for each in missing}

    def _complete(self, wanted: Settings, fresh: Collection[str]) -> None:
        environment = wanted.client_environment()
        server = PrefectServer.of(environment)
        bootstrap.make_pools(server, wanted.clients_at_once, wanted.sites)
        bootstrap.make_automation(server)
        settings.write_shell_file(self._shell_file, wanted)
        missing = [each for each in services.workers(wanted, self.var) if self._missing(each)]
        began = datetime.now(UTC)
        for each in missing:
            self.say(f"starting {each.name}")
            processes.start(each, self.var)
        folder = self.var / "stack"
        with ThreadPoolExecutor() as pool:
            deployed = pool.submit(
                bootstrap.deploy, server, environment, wanted.sites, folder, self.say
            )
            if "mlflow" in fresh or not self._charts.exists():
                charts = pool.submit(bootstrap.prepare_charts, environment)
                self._charts.write_text(charts.result())
            deployed.result()
        waiting.until(missing, lambda each: _is_online(server, each, began), self.var, self.say)

    def _missing(self, service: Service) -> bool:
        running = processes.find(service.name, self.var)
        if running is None:
            return True
        if running.settings != processes.digest(service):
            self.say(
                f"{service.name} runs with other settings than {self.env} has now; "
                "`make down up` takes them over"
            )
        return False

    def charts_url(self) -> str:
        """Return the address of MLflow's charts."""
        return self._charts.read_text()

    @property
    def _charts(self) -> Path:
        return self.var / "stack" / "charts"

    @property
    def _shell_file(self) -> Path:
        return self.var / "stack" / "env"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with exclusive(self.var / ".lock"):
            yield


def _stages(names: Collection[str]) -> Iterator[list[str]]:
    """Workers first, so that their last words reach a server; the store last."""
    workers = sorted(name for name in names if name.startswith("worker"))
    others = sorted(set(names) - {*workers, "s3"})
    yield from (stage for stage in (workers, others, ["s3"] if "s3" in names else []) if stage)


def _is_online(server: PrefectServer, worker: Service, began: datetime) -> bool:
    """Say whether a worker has been heard of since it was started."""
    assert worker.pool in (SERVER_POOL, CLIENT_POOL)
    for found in server.post(f"/work_pools/{worker.pool}/workers/filter", {}):
        if found["name"] == worker.name and found["last_heartbeat_time"]:
            return datetime.fromisoformat(found["last_heartbeat_time"]) >= began
    return False


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
