import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bed import ROOT, Bed, tiny
from flows.partition import partition
from flows.prepare import prepare
from flows.reference import reference

# Tests bring their own servers; those that a shell has loaded are for work.
for _name in (
    "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3",
    "FEDX_STORE", "FEDX_RUN_ROOT", "FEDX_DATA_ROOT",
):  # fmt: skip
    os.environ.pop(_name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data that tests may use; the test skips where it is missing."""
    folder = Path(os.environ.get("FEDX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set FEDX_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the data sets ``synthetic`` and ``countries``, prepared once a session."""
    root = tmp_path_factory.mktemp("data")
    for name in ("synthetic", "countries"):
        for stage in (prepare, partition, reference):
            stage(tiny(), name, root)
    return root


@pytest.fixture
def bed(tiny_data: Path, tmp_path: Path) -> Bed:
    return Bed(tiny_data, tmp_path)


@pytest.fixture
def plain_s3() -> Iterator[str]:
    """Address of a server that speaks a little of S3, and of ``/health``."""
    from plain_s3 import serving

    with serving(conditional=True) as (url, _):
        yield url
