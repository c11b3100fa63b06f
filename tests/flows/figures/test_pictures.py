import numpy as np

from flows.figures.pictures import Map, Picture, heat_maps, true_colours


def picture(scale: float) -> Picture:
    first = np.array([[scale, -scale], [0, 0]], dtype=np.float32)
    return Picture(
        np.zeros((2, 2, 3)), "wood", [Map(first, "p = 1.00"), Map(first / 4, "p = 0.50")]
    )


def test_a_row_has_one_scale_with_zero_in_its_middle() -> None:
    axes = heat_maps(["before", "after"], [picture(8.0), picture(0.1)]).axes
    limits = [axis.images[0].get_clim() for axis in axes[:6]]
    for row in (limits[1:3], limits[4:6]):
        assert row[0] == row[1]
        assert row[0][0] == -row[0][1] < 0
    assert limits[1] != limits[4]
    assert [axis.get_title() for axis in axes[:3]] == ["image", "before", "after"]
    assert axes[0].get_xlabel() == "wood"
    assert axes[2].get_xlabel() == "p = 0.50"


def test_no_relevance_at_all_can_be_drawn() -> None:
    nothing = Picture(np.zeros((2, 2)), "wood", [Map(np.zeros((2, 2)), "p = 0.50")])
    assert heat_maps(["final"], [nothing]).axes[1].images[0].get_clim() == (-1.0, 1.0)


def test_true_colours_are_found_by_the_bands_names_and_stretched_together() -> None:
    image = np.zeros((4, 10, 10), dtype=np.uint16)
    image[0] = 9000  # not a colour
    image[3] = 2000  # red
    image[1] = 500  # blue
    shown = true_colours(image, ("B08", "B02", "B03", "B04"))
    assert shown.shape == (10, 10, 3)
    assert shown[0, 0].tolist() == [1.0, 0.0, 0.25]


def test_images_of_other_bands_are_shown_by_their_first_ones() -> None:
    image = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    assert true_colours(image, [f"band-{n}" for n in range(5)]).shape == (2, 2, 3)
    assert true_colours(image[:1], ["VV"]).shape == (2, 2)
    assert true_colours(image[:1].astype(np.uint16), ["VV"]).max() == 1


def test_pixels_of_one_byte_are_shown_as_they_are() -> None:
    image = np.full((3, 2, 2), 51, dtype=np.uint8)
    assert true_colours(image, ("B04", "B03", "B02")).tolist() == [[[0.2] * 3] * 2] * 2
