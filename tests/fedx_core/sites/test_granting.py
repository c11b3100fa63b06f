"""The lengths that are granted are those of what clients do send."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.sites.granting import Granting
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientJob, ClientReport


@dataclass
class Measuring(InProcess):
    """Works out what would be granted for each job, and keeps it beside what was sent."""

    seen: list[tuple[ClientJob, tuple[int, int], int]] = field(default_factory=list)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        assert isinstance(outcome, ClientReport)
        unsigned: Any = None  # lengths need nobody who signs
        granting = Granting(open_store(place.store), unsigned)
        size = outcome.uplink.size if outcome.uplink else 0
        self.seen.append((job, granting.lengths(job), size))
        return outcome


@pytest.mark.parametrize(
    ("settings", "fixed"),
    [
        ({"codec__name": "sliced", "training__normalisation": "federated"}, True),
        ({"method__name": "fedpaq"}, True),
        ({"method__name": "fedavg", "codec": {"name": "signs"}}, True),
        ({"method__name": "fedavg", "codec": {"name": "deadzone"}}, False),
        ({"method__name": "fedlp", "codec__name": "masked", "method__send_share": 0.4}, False),
        ({"method__name": "local_only"}, True),
    ],
)
def test_a_payload_has_the_length_that_is_granted(
    settings: dict[str, Any], fixed: bool, bed: Bed
) -> None:
    runtime = Measuring()
    list(federate(tiny(**settings), bed.setting(), runtime))
    trained = [(lengths, size) for job, lengths, size in runtime.seen if job.purpose == "train"]
    assert len(trained) == 9
    for (least, most), size in trained:
        assert least <= size <= most
        assert (least == most) == fixed
    for job, lengths, size in runtime.seen:
        if job.purpose != "train":
            assert lengths == (size, size), job.purpose
    sizes = {size for _, size in trained}
    if "training__normalisation" in settings:
        assert {job.purpose for job, _, _ in runtime.seen} == {"statistics", "train", "evaluate"}
        assert len(sizes) == 2  # before pruning and after it
    assert (sizes == {0}) == (settings.get("method__name") == "local_only")
