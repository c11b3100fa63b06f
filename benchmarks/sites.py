"""What a round costs at warm sites beyond their own work, on loopback with a real S3 server.

    python benchmarks/sites.py [--model resnet6] [--images 64] [--sites 2] [--rounds 8]

Starts SeaweedFS and one process a site (`fedx site serve`), and runs the same job in this process
with as many threads and a store of files first. A round's overhead is the time from sending the
jobs to having accepted all updates, less the slowest client's own time (fetching, training,
encoding, as it reports it). The first round is left out: it builds models. Prints a Markdown table
and keeps every number as JSON.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for infra, which is not installed


def main() -> None:
    """Run the job twice and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet6")
    parser.add_argument("--images", type=int, default=64, help="of each site")
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8, help="the first is a warm-up")
    parser.add_argument("--output", type=Path, default=Path("build/sites.json"))
    options = parser.parse_args()
    if options.rounds < 2 or options.sites < 1:
        parser.error("wanted 2 rounds or more (the first is a warm-up) and 1 site or more")
    from jobs import Job

    job = Job(model=options.model, clients=options.sites, images=options.images)
    with tempfile.TemporaryDirectory(prefix="fedx-sites-") as folder:
        found = measure(job, options.rounds, Path(folder))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1))
    print(table(found))
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")


def measure(job: Any, rounds: int, folder: Path) -> dict[str, Any]:
    """Run a job in this process and at sites: seconds by round of each."""
    from jobs import settings, write

    from fedx_core.clients.client import Place
    from fedx_core.rounds.carrier import InProcess
    from fedx_core.rounds.federation import federate
    from fedx_core.rounds.start import Setting
    from flows.carriers.at_sites import AtSites

    write(job, folder / "data")
    found: dict[str, Any] = {"model": job.model, "images": job.images, "sites": job.clients}

    def rounds_of(runtime: Any, store: str) -> list[dict[str, float]]:
        place = Place(
            store=store, shards=str(folder / "data" / "shards"), memory=str(folder / "memory")
        )
        setting = Setting(run="bench", data=folder / "data", place=place)
        reports = federate(settings(job, rounds), setting, runtime)
        return [_of(report) for report in reports]

    found["here"] = rounds_of(InProcess(job.clients), str(folder / "store"))
    with s3(folder / "stack") as bucket, sites(job, folder, bucket) as registry:
        runtime = AtSites(job.clients, registry, lambda line: print(line, file=sys.stderr))
        found["at sites"] = rounds_of(runtime, f"{bucket}/bench")
    return found


def _of(report: Any) -> dict[str, float]:
    own = max(values["seconds"] for values in report.client_metrics.values())
    return {
        "train": report.seconds["train"],
        "slowest": own,
        "overhead": report.seconds["train"] - own,
        "uplink_bytes": report.uplink_bytes / len(report.client_metrics),
    }


@contextmanager
def s3(folder: Path) -> Iterator[str]:
    """Start SeaweedFS with a bucket; its address and keys are in the environment meanwhile."""
    from infra.stack.lifecycle import Stack
    from infra.stack.settings import EXAMPLE

    folder.mkdir()
    text = re.sub(
        r"^FEDX_S3_PORT=\d+", f"FEDX_S3_PORT={_free_port()}", EXAMPLE.read_text(), flags=re.M
    )
    for name in ("FEDX_PREFECT_AUTH", "FEDX_S3_SECRET"):
        text = re.sub(rf"^{name}=$", f"{name}=of-a-benchmark", text, flags=re.M)
    (folder / ".env").write_text(text)
    stack = Stack(folder / "var", folder / ".env", lambda _: None)
    try:
        known = stack.up(("s3",)).client_environment()
        os.environ.update({name: value for name, value in known.items() if name.startswith("AWS_")})
        yield "s3://fedx"
    finally:
        stack.down()


@contextmanager
def sites(job: Any, folder: Path, bucket: str) -> Iterator[Any]:
    """Start the sites, each with its own folder, keys and shard, and people who agree."""
    from urllib.parse import urlsplit

    from fedx_core.sites import invitation
    from fedx_core.sites.home import Home
    from fedx_core.sites.registry import Registry
    from flows.sites.inboxes import Inboxes

    registry = Registry(folder / "coordinator")
    inboxes = Inboxes(registry, urlsplit(bucket).netloc)
    homes = [Home(folder / f"client{number:03d}") for number in range(job.clients)]
    over = threading.Event()
    with ExitStack() as stack:
        for home in homes:
            name = home.folder.name
            home.enroll(name)
            home.trust(registry.keys.public, os.environ["AWS_ENDPOINT_URL_S3"])
            registry.admit(home.keys.public)
            shards = folder / f"shards-{name}"
            shutil.copytree(folder / "data" / "shards" / name, shards / name)
            letter = invitation.write(inboxes.invite(name), registry.keys, home.keys.public)
            stack.enter_context(_process(home.folder, shards, letter))
        people = threading.Thread(target=_agree, args=(homes, over))
        people.start()
        try:
            yield registry
        finally:
            over.set()
            people.join()


@contextmanager
def _process(home: Path, shards: Path, letter: bytes) -> Iterator[None]:
    import base64

    file = home / "invitation"
    file.write_bytes(base64.b64encode(letter))
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "FEDX_SITE_HOME": str(home), "FEDX_SHARDS": str(shards),
    }  # fmt: skip
    command = (sys.executable, "-m", "flows.cli", "site", "serve", "--invitation", str(file))
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log, cwd=home) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def _agree(homes: list[Any], over: threading.Event) -> None:
    while not over.wait(0.5):
        for home in homes:
            for asked in home.approvals.asked():
                home.approvals.approve(asked.sha256)


def _free_port() -> int:
    """Find four free neighbours whose twins 10,000 above (SeaweedFS's gRPC) are free as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for port in [p + high for p in range(first, first + 4) for high in (0, 10_000)]:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except (OSError, OverflowError):
            continue


def table(found: dict[str, Any]) -> str:
    """Show medians over the rounds after the first."""
    lines = [
        "| where | slowest client, s | overhead a round, s | a round and client, s | uplink, MB |",
        "| --- | --: | --: | --: | --: |",
    ]
    for where in ("here", "at sites"):
        steady = found[where][1:]
        own, overhead, size = (
            statistics.median(one[name] for one in steady)
            for name in ("slowest", "overhead", "uplink_bytes")
        )
        lines.append(
            f"| {where} | {own:.2f} | {overhead:.2f} | {overhead / found['sites']:.2f} | "
            f"{size / 1e6:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
