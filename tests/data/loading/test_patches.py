import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.augmentation import Augmentation
from medmim.data.loading.foreground_sampling import labelled_places
from medmim.data.loading.patches import (
    PatchDataset,
    SampleRange,
    batches,
    pretraining_patches,
    segmentation_patches,
)
from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan

PLANS = {2: PreprocessingPlan(2, (16, 16)), 3: PreprocessingPlan(3, (16, 16, 16))}
# no intensity changes, which would blur the comparison with the label
MOVED = Augmentation(rotation=0.5, rotation_deg=15, scaling=0.5, scale=(0.85, 1.15))
each_dims = pytest.mark.parametrize("dims", [2, 3])


def prepared(image, label, slice_axis=2):
    tensor = torch.as_tensor(np.array(image), dtype=torch.float32)[None]
    drawn = None if label is None else torch.as_tensor(np.asarray(label), dtype=torch.uint8)[None]
    places = None if drawn is None else labelled_places(drawn)
    return PreprocessedVolume(tensor, drawn, np.eye(4), slice_axis, places=places)


def label_draws(volume, plan, *, foreground=0.5, seed=0):
    """Return labelled patches of one preprocessed volume."""
    transform = segmentation_patches(plan, foreground=foreground, augmentation=MOVED)
    return PatchDataset([tiny.row()], lambda _: volume, transform, labelled=True, seed=seed)


def real_draws(dataset, dims, *, labelled, seed=0):
    plan = PLANS[dims]
    transform = segmentation_patches(plan, foreground=0.5) if labelled else pretraining_patches(plan)
    volumes = read_dataset(dataset).volumes
    return PatchDataset(
        volumes, VolumeLoader(dataset, plan, cache_gb=1.0), transform, labelled=labelled, seed=seed
    )


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in first
    )


@each_dims
@pytest.mark.parametrize("labelled", [True, False])
def test_a_draw_is_the_same_in_any_order(tiny_dataset, dims, labelled):
    draws = real_draws(tiny_dataset, dims, labelled=labelled)
    forward = [draws[number] for number in range(12)]
    again = real_draws(tiny_dataset, dims, labelled=labelled)
    for number in (7, 0, 11, 7, 3):
        assert same(again[number], forward[number])


@pytest.mark.parametrize("labelled", [True, False])
def test_a_draw_is_the_same_with_any_number_of_workers(tiny_dataset, labelled):
    alone, helped = (
        list(
            batches(
                real_draws(tiny_dataset, 3, labelled=labelled), SampleRange(12), batch_size=2, workers=workers
            )
        )
        for workers in (0, 2)
    )
    assert len(alone) == len(helped) == 6
    assert all(same(first, second) for first, second in zip(alone, helped, strict=True))


def test_global_randomness_changes_nothing(tiny_dataset):
    draws = real_draws(tiny_dataset, 3, labelled=True)
    first = draws[5]
    torch.manual_seed(99)
    np.random.seed(99)  # the legacy generator is what must not matter
    assert same(draws[5], first)


def test_seeds_and_numbers_give_different_draws(tiny_dataset):
    draws = real_draws(tiny_dataset, 3, labelled=False)
    assert not torch.equal(draws[0]["image"], draws[10]["image"])
    assert not torch.equal(draws[0]["image"], real_draws(tiny_dataset, 3, labelled=False, seed=1)[0]["image"])


def test_batches_go_on_from_a_start(tiny_dataset):
    draws = real_draws(tiny_dataset, 3, labelled=False)
    rest = batches(draws, SampleRange(12, start=8, passed=8), batch_size=2, workers=0)
    assert [batch["draw"].tolist() for batch in rest] == [[8, 9], [10, 11]]
    assert len(rest) == 6


def test_an_epoch_draws_each_volume_once_in_another_order():
    asked = []

    def fetch(volume):
        asked.append(volume.subject)
        return prepared(np.ones((16, 16, 16)), None)

    draws = PatchDataset(
        [tiny.row(name) for name in "abcdef"],
        fetch,
        pretraining_patches(PLANS[3]),
        labelled=False,
        seed=0,
    )
    for number in range(12):
        draws[number]
    assert sorted(asked[:6]) == sorted(asked[6:]) == list("abcdef")
    assert asked[:6] != asked[6:]


@each_dims
@pytest.mark.parametrize("labelled", [True, False])
def test_patches_are_plain_tensors_of_the_planned_size(tiny_dataset, dims, labelled):
    sample = real_draws(tiny_dataset, dims, labelled=labelled)[3]
    assert set(sample) == {"image", "draw"} | ({"label"} if labelled else set())
    assert type(sample["image"]) is torch.Tensor
    assert sample["image"].shape == (1, *PLANS[dims].size)
    assert sample["image"].is_contiguous()
    if labelled:
        assert type(sample["label"]) is torch.Tensor
        assert sample["label"].shape == sample["image"].shape
        assert set(torch.unique(sample["label"]).tolist()) <= {0, 1, 2}


@each_dims
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_label_and_image_move_together(dims, slice_axis):
    _, label = tiny.blob(np.random.default_rng(0), (24, 20, 22))
    where = label > 0
    draws = label_draws(prepared(100.0 * where, where, slice_axis), PLANS[dims], foreground=1.0)
    exact = 0
    for number in range(40):
        sample = draws[number]
        image, drawn = sample["image"], sample["label"] > 0
        guess = image > (image.min() + image.max()) / 2 if drawn.any() else drawn
        union = (guess.sum() + drawn.sum()).item()
        dice = 2 * (guess & drawn).sum().item() / union if union else 1.0
        assert dice > 0.85, f"draw {number}"
        exact += dice == 1.0
    assert exact > 5  # a quarter of the patches are neither rotated nor scaled


@each_dims
def test_small_volumes_are_padded_with_their_darkest_value_and_background(dims):
    image = np.full((6, 7, 5), 3.0)
    image[2, 2, :] = 1.0
    volume = prepared(image, np.ones((6, 7, 5)))
    plan = PLANS[dims]
    for number in range(6):
        sample = label_draws(volume, plan)[number]
        assert sample["image"].shape == (1, *plan.size)
        outside = sample["label"] == 0
        assert outside.any()
    bare = PatchDataset([tiny.row()], lambda _: volume, pretraining_patches(plan), labelled=False, seed=0)
    patch = bare[0]["image"]
    assert (patch == patch.min()).float().mean() > 0.5


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_2d_slices_hold_foreground_where_asked(slice_axis):
    label = np.zeros((32, 32, 32))
    label[14:17, 14:17, 14:17] = 1
    volume = prepared(np.random.default_rng(0).normal(size=label.shape), label, slice_axis)
    always, never = (
        [sample["label"].any().item() for sample in map(draws.__getitem__, range(40))]
        for draws in (
            label_draws(volume, PLANS[2], foreground=1.0),
            label_draws(volume, PLANS[2], foreground=0.0),
        )
    )
    assert np.mean(always) > 0.9
    assert np.mean(never) < 0.3


@pytest.mark.parametrize(("foreground", "low", "high"), [(0.0, 0.0, 0.4), (0.5, 0.3, 0.8), (1.0, 0.9, 1.0)])
def test_the_share_of_patches_around_foreground(foreground, low, high):
    label = np.zeros((48, 48, 48))
    label[40:44, 4:8, 40:44] = 1
    volume = prepared(np.random.default_rng(0).normal(size=label.shape), label)
    draws = label_draws(volume, PLANS[3], foreground=foreground)
    share = np.mean([draws[number]["label"].any().item() for number in range(40)])
    assert low <= share <= high


@each_dims
@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_empty_labels_are_drawn_from_all_the_same(dims, foreground):
    volume = prepared(np.random.default_rng(0).normal(size=(24, 24, 24)), np.zeros((24, 24, 24)))
    assert not label_draws(volume, PLANS[dims], foreground=foreground)[0]["label"].any()


def moved_down(sample_of, axis):
    """Return the share of patches in which a ramp along an axis is reversed."""
    falls = 0
    for number in range(60):
        image = sample_of(number)["image"][0]
        flat = image.mean(dim=[other for other in range(image.dim()) if other != axis])
        falls += (flat[-1] < flat[0]).item()
    return falls / 60


def ramp(axis, slice_axis=2):
    values = np.broadcast_to(
        np.arange(16.0).reshape([-1 if a == axis else 1 for a in range(3)]), (16, 16, 16)
    )
    return prepared(values, np.ones((16, 16, 16)), slice_axis)


@pytest.mark.parametrize(("axis", "flips"), [(0, True), (1, False), (2, False)])
def test_only_left_and_right_are_exchanged_in_3d(axis, flips):
    share = moved_down(label_draws(ramp(axis), PLANS[3]).__getitem__, axis)
    assert 0.25 < share < 0.75 if flips else share == 0


@pytest.mark.parametrize(
    ("slice_axis", "axis", "kept", "flips"),
    [
        (2, 0, 0, True),  # axial: right, anterior
        (2, 1, 1, False),
        (1, 0, 0, True),  # coronal: right, superior
        (1, 2, 1, False),
        (0, 1, 0, False),  # sagittal: anterior, superior; left and right are not in the slice
        (0, 2, 1, False),
    ],
)
def test_only_left_and_right_are_exchanged_in_2d(slice_axis, axis, kept, flips):
    draws = label_draws(ramp(axis, slice_axis), PLANS[2])
    share = moved_down(draws.__getitem__, kept)
    assert 0.25 < share < 0.75 if flips else share == 0


def test_draws_leave_the_prepared_volume_alone(tiny_dataset):
    plan = PLANS[3]
    volumes = VolumeLoader(tiny_dataset, plan, cache_gb=1.0)
    row = read_dataset(tiny_dataset).volumes[0]
    before = volumes(row).image.clone()
    transform = segmentation_patches(plan, foreground=0.5)
    draws = PatchDataset([row], volumes, transform, labelled=True, seed=0)
    for number in range(20):
        draws[number]["image"].fill_(0)
    assert torch.equal(volumes(row).image, before)
