"""A coordinator and its sites: folders, keys and shards, and people who carry letters and agree."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bed import ROOT, Bed
from fedx_core.rounds.start import Setting
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.registry import Registry
from fedx_core.wire.messages import ClientJob
from flows.carriers.at_sites import AtSites
from flows.cli import app
from flows.sites.errands import Errand
from flows.sites.serve import Serving

CLIENTS = ("client-00", "client-01", "client-02")


@dataclass
class Sites:
    """A coordinator's folder and a folder for each of its sites, with that site's shard alone.

    Args:
        folder: of all of them.
        bed: with the data.
        bucket: URI.
    """

    folder: Path
    bed: Bed
    bucket: str
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "coordinator")
        for name in CLIENTS:
            home = self.home(name)
            home.enroll(name)
            home.trust(self.registry.keys.public, os.environ["AWS_ENDPOINT_URL_S3"])
            self.registry.admit(home.keys.public)
            shard = self.bed.data / "synthetic" / "shards" / name
            shutil.copytree(shard, self.shards(name) / name)

    def home(self, name: str) -> Home:
        return Home(self.folder / name)

    def shards(self, name: str) -> Path:
        return self.folder / f"shards-of-{name}"

    def runtime(self, **named: Any) -> AtSites:
        return AtSites(1, self.registry, self.said.append, **named)

    def setting(self, run: str) -> Setting:
        setting = self.bed.setting(run)
        return replace(setting, place=replace(setting.place, store=f"{self.bucket}/sites/{run}"))

    def serving(self, name: str) -> Serving:
        # Its people say where the store is now; tests put proxies before it.
        self.home(name).trust(self.registry.keys.public, os.environ["AWS_ENDPOINT_URL_S3"])
        return Serving(self.home(name), self.shards(name), HttpClient(), self.said.append)

    def invite(self, name: str) -> Path:
        """Have the coordinator's people write a site's invitation."""
        path = self.folder / f"{name}.invitation"
        arguments = [
            "site", "invite", name, "--store", f"{self.bucket}/sites", "--out", str(path),
            "--coordinator-home", str(self.registry.folder),
        ]  # fmt: skip
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return path

    def welcome(self, site: Serving) -> None:
        """Carry an invitation to a site."""
        site.invited(base64.b64decode(self.invite(site.home.keys.name).read_bytes()))

    def agree(self, *names: str) -> None:
        """Have a site's people agree to whatever waits."""
        for name in names or CLIENTS:
            approvals = self.home(name).approvals
            for asked in approvals.asked():
                approvals.approve(asked.sha256)

    def book(self, name: str) -> list[dict[str, Any]]:
        """What a site, or the coordinator, has written down."""
        path = self.folder / name / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A warm site as a process, with none of our environment but what Python needs."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "FEDX_SITE_HOME": str(self.home(name).folder),
            "FEDX_SHARDS": str(self.shards(name)),
        }
        log = (self.folder / f"{name}.log").open("ab")
        command = (sys.executable, "-m", "flows.cli", "site", "serve", *arguments)
        with log, subprocess.Popen(command, env=environment, stderr=log, cwd=self.folder) as site:
            try:
                yield site
            finally:
                site.kill()


def errand(sites: Sites, runtime: AtSites, setting: Setting, job: ClientJob) -> Errand:
    return Errand(runtime.office(setting.place), job, sites.registry.site(job.client))


def answer(site: Serving) -> None:
    """Let a site take what lies in its inbox, agreeing to what it is asked."""
    site.fetch()
    site.answer_all()
    for asked in site.home.approvals.asked():
        site.home.approvals.approve(asked.sha256)
    site.answer_all()


@contextmanager
def at_work(*sites: Serving) -> Iterator[None]:
    """Keep sites at work in this process, with people who agree to whatever plan they read."""
    over = threading.Event()
    troubles: list[BaseException] = []

    def work(site: Serving) -> None:
        try:
            while not over.wait(0.05):
                answer(site)
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        assert troubles == []
