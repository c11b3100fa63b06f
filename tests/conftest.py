import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bed import Bed  # and torch with it, for which pytest-xdist's first process has no use

# Tests bring their own servers; those that a shell has loaded are for work.
for _name in (
    "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3",
    "FEDX_STORE", "FEDX_RUN_ROOT", "FEDX_DATA_ROOT",
):  # fmt: skip
    os.environ.pop(_name, None)

# Looking for garbage takes a third of the time of imports, where there is none, and a part of all
# later time if it looks at what they have made.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage in what tests leave from now on."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data that tests may use; the test skips where it is missing."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEDX_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set FEDX_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the data sets ``synthetic`` and ``countries``, prepared once a session."""
    from bed import tiny_data_in

    return tiny_data_in(tmp_path_factory.mktemp("data"))


@pytest.fixture
def bed(tiny_data: Path, tmp_path: Path) -> "Bed":
    from bed import Bed

    return Bed(tiny_data, tmp_path)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[str]:
    """What starts a Python program at once, as a shell writes it; see :mod:`warm`."""
    import warm

    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "socket"  # a path of 100 bytes at most
        with warm.serving(address):
            yield f'"{sys.executable}" -I -S "{warm.__file__}" "{address}"'


@pytest.fixture
def plain_s3() -> Iterator[str]:
    """Address of a server that speaks a little of S3, and of ``/health``."""
    from plain_s3 import serving

    with serving(conditional=True) as (url, _):
        yield url
