"""The figure of a gallery: one panel per mask and ratio, with and without an image under it."""

import numpy as np
import pytest

from medmim.masks.gallery import GalleryBackground, gallery


def masks_on(shape):
    hidden = np.zeros(shape, dtype=bool)
    hidden[0] = True
    return [("mesh", [hidden, ~hidden]), ("random", [~hidden, hidden])]


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_a_neutral_gallery_has_a_panel_for_each_mask_and_ratio(shape):
    figure = gallery(masks_on(shape), ["50 %", "75 %"], note="dark: hidden")
    assert [axes.get_title() for axes in figure.axes] == ["50 %", "75 %", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["mesh", "", "random", ""]


@pytest.mark.parametrize(("shape", "planes"), [((6, 8), 1), ((6, 8, 10), 3)])
def test_a_gallery_over_an_image_shows_its_planes_side_by_side(shape, planes):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    backdrop = GalleryBackground(image, (1.0,) * len(shape), tuple(n // 2 for n in shape))
    figure = gallery(masks_on(shape), ["50 %", "75 %"], note="dark: hidden", backdrop=backdrop)
    assert [len(axes.images) for axes in figure.axes] == [planes] * 4
