import math

import pytest
import torch

from medmim.data.loading.transforms import RandomResizedCrop


def crop(size, scale, seed=0):
    transform = RandomResizedCrop(size, scale=scale)
    transform.set_random_state(seed=seed)
    return transform


@pytest.mark.parametrize(("space", "size"), [((30, 50), (16, 24)), ((24, 20, 28), (8, 16, 8))])
def test_volumes_shapes_and_places_are_those_asked_for(space, size):
    transform = crop(size, (0.2, 0.5))
    chosen = [transform.randomize(space) for _ in range(500)]
    volumes = [math.prod(box) / math.prod(space) for _, box in chosen]
    assert 0.17 < min(volumes) < 0.25
    assert 0.45 < max(volumes) < 0.55
    aspects = [box[0] / box[-1] for _, box in chosen]
    assert 0.65 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.5
    for axis, length in enumerate(space):
        ends = {first[axis] + box[axis] for first, box in chosen}
        assert 0 <= min(first[axis] for first, _ in chosen) <= 2
        assert length - 2 <= max(ends) <= length


@pytest.mark.parametrize(
    ("space", "first", "box"), [((4, 100), (0, 47), (4, 5)), ((90, 30), (25, 0), (40, 30))]
)
def test_where_no_box_fits_the_centre_is_cropped_as_in_torchvision(space, first, box):
    assert crop((4, 4), (0.99, 1.0)).randomize(space) == (first, box)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ramp_stays_a_ramp(dims):
    ramp = torch.arange(40.0).reshape(1, 40, *[1] * (dims - 1)).expand(1, 40, *[20] * (dims - 1))
    image = crop((16,) * dims, (0.3, 0.6))({"image": ramp, "draw": 3})["image"]
    assert image.shape == (1, *(16,) * dims)
    inner = image[0, 3:-3].diff(dim=0)  # at its ends a cubic sees the border
    torch.testing.assert_close(inner, inner.mean().expand_as(inner), rtol=0.02, atol=0)


def test_the_same_state_draws_the_same_part():
    image = torch.randn(1, 20, 20)
    first, second, other = (crop((8, 8), (0.5, 1.0), seed)({"image": image})["image"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
