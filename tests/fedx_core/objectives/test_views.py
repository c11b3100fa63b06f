"""Views of images that look straight down: drawn on the host, all that is asked for and no more."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedx_core.images.pixels import Pixels
from fedx_core.objectives import _views


def pixels(bands: int) -> Pixels:
    return Pixels(
        scale=1.0, mean=(0.4,) * bands, std=(0.2,) * bands, input_size=None,
        memory_format="contiguous",
    )  # fmt: skip


def inputs(count: int = 6, bands: int = 4, side: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(count, bands, side, side, generator=random)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_equal_seeds_give_equal_views_and_the_images_stay() -> None:
    images = inputs()
    before = images.clone()
    first, again = (
        _views.tinted(_views.placed(images, rng()), pixels(4), rng(2)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    other = _views.tinted(_views.placed(images, rng(3)), pixels(4), rng(2))
    assert not torch.equal(first, other)


def test_a_crop_of_the_whole_is_one_of_eight_ways_to_lay_an_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_views, "SCALE", (1.0, 1.0))
    images = inputs(64)
    found = _views.placed(images, rng())
    seen = set()
    for image, view in zip(images, found, strict=True):
        ways = [
            torch.rot90(mirrored, turns, (1, 2))
            for mirrored in (image, image.flip(2))
            for turns in range(4)
        ]
        hits = [k for k, way in enumerate(ways) if torch.allclose(way, view, atol=1e-4)]
        assert len(hits) == 1
        seen.update(hits)
    assert seen == set(range(8))


def test_a_crop_is_square_and_lies_within_the_image() -> None:
    maps = _views._maps(500, rng())
    corners = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1]], float)
    reached = np.einsum("nij,kj->nki", maps[:, :, :2], corners) + maps[:, None, :, 2]
    assert np.abs(reached).max() <= 1 + 1e-9
    sides = np.linalg.norm(maps[:, :, 0], axis=1), np.linalg.norm(maps[:, :, 1], axis=1)
    np.testing.assert_allclose(*sides)
    assert 0.3 - 1e-9 <= (sides[0] ** 2).min() < 0.35
    assert 0.95 < (sides[0] ** 2).max() <= 1


def test_light_is_changed_as_light_image_by_image_and_band_by_band(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about, images = pixels(4), inputs(200, side=8)
    light = images * 0.2 + 0.4
    found = _views.tinted(images, about, rng()) * 0.2 + 0.4
    draws = rng()
    brightness, contrast = draws.uniform(0.6, 1.4, (2, 200, 1))
    gain = draws.uniform(0.9, 1.1, (200, 4))
    for n in range(200):
        for band in range(4):
            lit = light[n, band].double().numpy() * gain[n, band] * brightness[n, 0]
            expected = lit.mean() + (lit - lit.mean()) * contrast[n, 0]
            np.testing.assert_allclose(found[n, band].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_three_bands_sometimes_lose_their_colour_and_others_never_do() -> None:
    found = _views.tinted(inputs(400, bands=3, side=8), pixels(3), rng())
    grey = [bool(torch.allclose(v[0], v[1], atol=1e-5)) for v in found]
    assert 0.12 < np.mean(grey) < 0.28
    found = _views.tinted(inputs(400, bands=4, side=8), pixels(4), rng())
    assert not any(torch.allclose(v[0], v[1], atol=1e-5) for v in found)


def test_a_blur_is_a_gaussian_for_each_image_and_small_images_have_none() -> None:
    image = torch.zeros(2, 2, 65, 65)
    image[:, :, 32, 32] = 1.0
    kernels = torch.from_numpy(_views._kernels(np.array([1.5, 1e-3]), 7)).float()
    found = _views._blurred(image, kernels)
    at = torch.arange(7) - 3.0
    line = torch.exp(-0.5 * (at / 1.5) ** 2)
    line /= line.sum()
    torch.testing.assert_close(found[0, 1, 29:36, 29:36], line[:, None] * line[None, :])
    torch.testing.assert_close(found[1], image[1])  # not blurred
    assert float(found[0].sum()) == pytest.approx(2.0, rel=1e-5)
