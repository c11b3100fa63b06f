"""Safetensors: all that the library writes for us is taken, its header read without its values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from fedx_core.base import state, tensor_file
from fedx_core.base.errors import SchemaError, TooBigError
from fedx_core.models import catalogue

TENSORS = {
    "model/a.weight": torch.arange(6.0).reshape(2, 3),
    "model/a.count": torch.tensor(4),
    "kept": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 5),
    "half": torch.ones(3).half(),
    "byte": torch.tensor([1, 2], dtype=torch.uint8),
}


def test_all_kinds_of_tensors_come_back_with_their_metadata() -> None:
    found, metadata = tensor_file.load(save(TENSORS, {"x": "y"}))
    assert metadata == {"x": "y"}
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize("name", catalogue.names())
def test_every_models_header_is_within_the_bounds(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = catalogue.entry(name).build(12, 43)
    # What a server keeps for it: the model, three moments of each entry, masks of all weights.
    longest = {
        f"memory/{part}/{n}"
        for part in ("exp_avg", "exp_avg_sq", "step")
        for n in model.state_dict()
    }
    longest |= {f"model/{n}" for n in model.state_dict()} | {
        f"mask/{n}" for n in model.state_dict()
    }
    path = tmp_path / "state.safetensors"
    save_file({n: torch.zeros(1) for n in longest}, path, {"fedx": str(sorted(longest))})
    assert tensor_file.header_of(path).layout.keys() == longest


def test_a_header_is_read_without_the_values(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, {"x": "y"})
    header = tensor_file.header_of(path)
    assert header.metadata == {"x": "y"}
    assert header.size == path.stat().st_size
    state.require_same_layout(TENSORS, header.layout)
    assert all(value.is_meta for value in header.layout.values())


def test_a_file_of_other_tensors_is_refused_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    assert torch.equal(tensor_file.load_file(path, TENSORS)["kept"], TENSORS["kept"])
    monkeypatch.setattr(tensor_file, "load", None)
    with pytest.raises(SchemaError, match=r"'half'.*\(3,\), wanted.*\(4,\)"):
        tensor_file.load_file(path, TENSORS | {"half": torch.ones(4).half()})


def test_a_header_larger_than_its_tensors_need_is_refused() -> None:
    data = save(TENSORS, {"x": "y" * 70_000})
    with pytest.raises(TooBigError, match="6 tensors in a safetensors header"):
        tensor_file.load(data)
