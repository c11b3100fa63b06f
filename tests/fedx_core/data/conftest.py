import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Find a file of real data, or skip the test."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("FEDX_SHARED_DATA") or ROOT.parent / "shared" / "data")
        path = folder / name
        if not path.exists():
            pytest.skip(f"no {name} in FEDX_SHARED_DATA or in ../shared/data")
        return path

    return find
