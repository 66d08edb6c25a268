"""Several views of one patch."""

import pytest
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.contrastive_views import patch_views, resized_views
from medmim.data.loading.patches import PatchDataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan

every_kind = pytest.mark.parametrize("make", [patch_views, resized_views])
both_dims = pytest.mark.parametrize("dims", [2, 3])


def draws_for(root, dims, *, views=2, seed=0, make=patch_views):
    plan = PreprocessingPlan(dims, (16,) * dims)
    volumes = VolumeLoader(root, plan, cache_gb=1.0)
    transform = make(plan, views=views)
    return PatchDataset(read_dataset(root).volumes, volumes, transform, labelled=False, seed=seed)


@every_kind
@both_dims
def test_views_are_stacked_and_differ(tiny_dataset, make, dims):
    for views in (2, 3):
        image = draws_for(tiny_dataset, dims, views=views, make=make)[0]["image"]
        assert image.shape == (views, 1, *[16] * dims)
        assert not torch.equal(image[0], image[1])


@every_kind
@both_dims
def test_a_draw_is_the_same_in_any_order_and_follows_the_seed(tiny_dataset, make, dims):
    forward = [draws_for(tiny_dataset, dims, make=make)[number]["image"] for number in range(4)]
    again = draws_for(tiny_dataset, dims, make=make)
    for number in (3, 0, 2):
        assert torch.equal(again[number]["image"], forward[number])
    assert not torch.equal(draws_for(tiny_dataset, dims, seed=1, make=make)[0]["image"], forward[0])


def test_views_of_one_image_are_more_alike_than_those_of_two(tiny_dataset):
    images = torch.stack([draws_for(tiny_dataset, 3)[number]["image"] for number in range(6)])
    spectra = images.flatten(3).sort(dim=-1).values[:, :, 0]  # what flips do not change
    own = (spectra[:, 0] - spectra[:, 1]).norm(dim=-1).mean()
    other = torch.cdist(spectra[:, 0], spectra[:, 1])[~torch.eye(6, dtype=torch.bool)].mean()
    assert own < other
