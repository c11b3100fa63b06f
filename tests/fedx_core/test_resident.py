import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedx_core.base import seeding
from fedx_core.images import resident
from fedx_core.images.pixels import Pixels
from fedx_core.images.resident import Residents

CPU = torch.device("cpu")
PIXELS = Pixels(
    scale=10_000.0, mean=(0.3, 0.4), std=(0.2, 0.1), input_size=None, memory_format="channels_last"
)


def draw(kind: str, count: int = 9) -> NDArray[Any]:
    top = np.iinfo(kind).max  # above the largest int16, for uint16
    random = np.random.default_rng(0)
    return random.integers(0, top, (count, 2, 4, 4), endpoint=True, dtype=kind)


def mapped(folder: Path, name: str = "a", count: int = 9) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    np.save(path, draw("uint8", count))
    found: NDArray[Any] = np.load(path, mmap_mode="r")
    return found


def batch_of(images: resident.Images, device: torch.device) -> resident.Images:
    batch = resident.take(images, np.array([7, 1, 3]), device)
    for axis in (2, 3):
        flipped = seeding.numpy_generator(axis).random(3) < 0.5
        resident.mirror_(batch, flipped, axis)
    return batch


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_batch_of_a_tensor_is_bit_for_bit_that_of_an_array(kind: str) -> None:
    array = batch_of(draw(kind), CPU)
    tensor = batch_of(torch.from_numpy(draw(kind)), CPU)
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, Tensor)
    assert not np.array_equal(array, draw(kind)[[7, 1, 3]])  # something was mirrored
    assert np.array_equal(tensor.numpy(), array)
    assert torch.equal(PIXELS.to_input(tensor, CPU), PIXELS.to_input(array, CPU))


def test_on_the_cpu_a_shard_stays_the_memory_map_that_it_is(tmp_path: Path) -> None:
    images = mapped(tmp_path)
    placed = resident.place(images, CPU)
    assert placed is images
    assert isinstance(images.base, mmap.mmap)
    batch = batch_of(placed, CPU)
    assert isinstance(batch, np.ndarray)
    assert not np.shares_memory(batch, images)
    assert np.array_equal(images, draw("uint8"))


def test_a_shard_is_moved_once_and_again_where_its_file_has_changed(tmp_path: Path) -> None:
    residents = Residents(lambda device: 1 << 20)
    first = residents.place(mapped(tmp_path), CPU)
    assert residents.place(np.load(tmp_path / "a.npy", mmap_mode="r"), CPU) is first
    assert isinstance(first, Tensor)
    assert np.array_equal(first.numpy(), draw("uint8"))
    assert residents.place(mapped(tmp_path, count=5), CPU) is not first


def test_what_is_not_all_of_a_file_is_not_kept(tmp_path: Path) -> None:
    residents = Residents(lambda device: 1 << 20)
    images = mapped(tmp_path)
    residents.place(images, CPU)
    for part in (draw("uint8"), images[:4], images[::-1], images[:, ::-1]):
        placed = [residents.place(part, CPU) for _ in range(2)]
        assert placed[0] is not placed[1]
        assert isinstance(placed[0], Tensor)
        assert np.array_equal(placed[0].numpy(), part)


def test_shards_fill_no_more_than_their_share(tmp_path: Path) -> None:
    size = draw("uint8").nbytes
    total = 2 * size / resident.SHARE  # room for two shards of that size
    held: list[Tensor] = []

    def free(device: torch.device) -> int:
        return int(total) - sum(one.nbytes for one in held)

    residents = Residents(free)
    a, b, c = (mapped(tmp_path, name) for name in "abc")
    large = mapped(tmp_path, "large", count=19)
    for images in (a, b):
        placed = residents.place(images, CPU)
        assert isinstance(placed, Tensor)
        held.append(placed)
    assert residents.place(a, CPU) is held[0]
    assert residents.place(large, CPU) is large
    held[1] = residents.place(c, CPU)  # in the place of b, which was used before a
    assert residents.place(a, CPU) is held[0]
    assert residents.place(c, CPU) is held[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("fits", [True, False])
def test_a_batch_on_a_gpu_holds_the_same_integers(kind: str, fits: bool) -> None:
    gpu = torch.device("cuda")
    images = draw(kind)
    placed = resident.place(images, gpu) if fits else images
    assert isinstance(placed, Tensor) is fits
    batch, wanted = batch_of(placed, gpu), batch_of(images, CPU)
    assert isinstance(batch, Tensor)
    assert isinstance(wanted, np.ndarray)
    assert batch.device.type == "cuda"
    assert np.array_equal(batch.cpu().numpy(), wanted)
    found = PIXELS.to_input(batch, gpu).cpu()
    torch.testing.assert_close(found, PIXELS.to_input(wanted, CPU), rtol=1e-6, atol=1e-6)
