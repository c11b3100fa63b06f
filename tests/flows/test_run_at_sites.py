"""What is refused before a round is asked of sites, with Prefect and without."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bed import Bed
from fedx_core.base.errors import ConfigError
from flows.cli import app


def run(bed: Bed, params: Path, *arguments: str) -> None:
    common = ("--params", str(params), "--run-root", str(bed.runs), "--data-root", str(bed.data))
    CliRunner().invoke(app, ["run", *common, *arguments], catch_exceptions=False)


def test_sites_are_reached_without_prefect_and_only_through_s3(
    bed: Bed, tiny_params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDX_COORDINATOR_HOME", str(bed.runs / "sites"))
    with pytest.raises(ConfigError, match=r"which only S3 has; use s3://BUCKET"):
        run(bed, tiny_params, "--no-engine", "--run-at", "sites", "--run", "away")
    assert not (bed.runs / "away").exists()


def test_a_store_without_tls_elsewhere_is_refused_before_anything_is_sent(
    bed: Bed, tiny_params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://192.0.2.1:8333")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fedx")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    from fedx_core.clients.client import Place
    from flows.carriers.runtimes import choose

    place = Place(store="s3://fedx/runs/x", shards="", memory="")
    with pytest.raises(ConfigError, match=r"http://192.0.2.1:8333 is plain HTTP"):
        choose("sites", 1, place, engine=False)
