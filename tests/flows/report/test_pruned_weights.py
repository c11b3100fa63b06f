"""Runs that prune single weights, event after event, in the report."""

from pathlib import Path

import pytest
import yaml

from bed import tiny
from fedx_core.base import config
from flows.report import pruning
from flows.report.gather import Run, gather
from flows.running.experiment import carry_out, settle
from flows.runs.live import display
from flows.settings.request import Request
from flows.tracking import NoTracker


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Run:
    """A run of FedMap, which prunes weights after each of its three rounds."""
    root = tmp_path_factory.mktemp("weights")
    params = root / "params.yaml"
    settings = tiny(method__name="fedmap", method__prune_share=0.4)
    params.write_text(yaml.safe_dump(config.as_plain(settings), sort_keys=False))
    request = Request(
        run="map", params=str(params), run_root=str(root / "runs"), data_root=str(tiny_data)
    )
    carry_out(
        settle(request), run_at="here", workers=1, display=display("nothing"), tracker=NoTracker()
    )
    (found,) = gather(root / "runs", ["map"])
    return found


def test_each_event_is_kept_with_the_model_before_it_and_what_stayed(pruned: Run) -> None:
    assert [event.round_index for event in pruned.events] == [1, 2, 3]
    left = [1 - event.mask.kept / event.mask.size for event in pruned.events]
    assert left == pytest.approx([1 - 0.6**n for n in (1, 2, 3)], abs=1e-3)
    for event in pruned.events:
        assert event.mask.kind == "parameters"
        assert not event.scores, "the weights before the event say it all"
        kept = event.mask.entries["conv1.weight"]
        before = event.before["conv1.weight"].abs()
        assert before[kept].min() >= before[~kept].max()


def test_that_weights_are_too_many_to_draw_is_said_once(pruned: Run) -> None:
    sections = {section.key: section for section in pruning.sections([pruned])}
    missing = sections["relevance"].missing
    assert missing == ["map prunes single parameters, which are too many to draw."]
