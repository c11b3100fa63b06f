"""A thousand clients of whom a hundred a round report, and what a server costs then."""

import json
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import coordinators
from bed import Bed, tiny
from fedx_core.base.config import ExperimentConfig
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.wire.messages import ClientJob
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from long_tier import measured, times

pytestmark = pytest.mark.long

ROUNDS = max(2, times(20))


@dataclass
class Timed(InProcess):
    """Clients one after another in the server's process; what they take is not the server's."""

    clients: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """Wall seconds and CPU seconds so far."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        began = clock()
        outcome = super().do(job, place)
        self.clients += clock() - began
        return outcome


def clock() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def serve(settings: ExperimentConfig, setting: Setting, figures: Path) -> None:
    """Run a federation and write down what it cost the server."""
    runtime, seconds, failures, payload = Timed(), [], 0, 0
    spent = clock()
    for report in federate(settings, setting, runtime):
        seconds.append((clock() - runtime.clients - spent).tolist())
        spent = clock() - runtime.clients
        failures += len(report.failures)
        payload = report.uplink_bytes // len(report.cohort)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = {"seconds": seconds, "failures": failures, "payload": payload, "rss": rss}
    figures.write_text(json.dumps(said))


def test_a_thousand_clients_cost_a_server_less_than_a_minute_a_round_and_little_memory(
    tmp_path: Path,
) -> None:
    settings = tiny(
        method__name="fedavg",
        model__name="convnextv2_atto",
        datasets__synthetic__source__train=2000,
        datasets__synthetic__partition__clients=1000,
        federation__participation=0.1,
        federation__rounds=ROUNDS,
    )
    for stage in (prepare, partition, reference):
        stage(settings, "synthetic", tmp_path / "data")
    setting = Bed(tmp_path / "data", tmp_path / "runs").setting()
    figures = tmp_path / "figures.json"
    process = coordinators.start(serve, settings, setting, figures)
    process.join(6 * 3600)
    assert process.exitcode == 0
    found = json.loads(figures.read_text())
    wall, cpu = np.array(found["seconds"]).T  # the last round scores all thousand clients besides
    measured(
        "1,000 clients, 100 a round",
        rounds=ROUNDS,
        payload_in_MB=round(found["payload"] / 1e6, 1),
        CPU_seconds_of_the_server_a_round_at_most=round(cpu[:-1].max(), 1),
        by_the_clock=round(wall[:-1].max(), 1),
        CPU_seconds_with_all_clients_scored=round(cpu[-1], 1),
        MiB_of_memory_at_most=round(found["rss"]),
    )
    assert found["failures"] == 0
    assert found["payload"] > 4.7e6
    assert cpu.max() <= 60, "by the clock it depends on who else is at work"
    assert found["rss"] <= 1536
