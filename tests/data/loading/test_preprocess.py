from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.foreground_sampling import IGNORE
from medmim.data.loading.preprocess import VolumeLoader, preprocess
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.errors import DataError

PLAN = PreprocessingPlan(3, (16, 16, 16))


def one(root, *, orientation="RAS", spacing=(1.0, 1.0, 1.0), image=None, label=None, modality="MR"):
    """Write one volume and return its row."""
    if image is None:
        image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    affine = tiny.affine_of(orientation, spacing, image.shape)
    return tiny.write_volume(root, "patient", image, affine, label=label, modality=modality)


def flipped(image, orientation):
    """The RAS array as it is stored in another orientation."""
    for letters in ("RL", "AP", "SI"):
        if letters[1] in orientation:
            image = np.flip(image, "RAS".index(letters[0]))
    pairs = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    return np.ascontiguousarray(np.transpose(image, [pairs[letter] for letter in orientation]))


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLA", "PIR", "IPL"])
def test_every_orientation_comes_out_as_ras(tmp_path, orientation):
    image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    straight = preprocess(tmp_path / "a", one(tmp_path / "a", image=image, label=label), PLAN)
    stored = one(
        tmp_path / "b",
        orientation=orientation,
        image=flipped(image, orientation),
        label=flipped(label, orientation),
    )
    turned = preprocess(tmp_path / "b", stored, PLAN)
    assert torch.equal(turned.image, straight.image)
    assert torch.equal(turned.label, straight.label)
    assert np.allclose(np.diag(turned.affine), 1)


def test_images_are_clipped_and_normalised(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal(1000, 50, size=(16, 16, 16)).astype(np.float32)
    image[3, 3, 3] = 1e6
    prepared = preprocess(tmp_path, one(tmp_path, image=image), PLAN)
    assert prepared.image.dtype == torch.float32
    assert prepared.image.shape == (1, 16, 16, 16)
    assert prepared.image.mean().item() == pytest.approx(0, abs=0.02)
    assert prepared.image.std().item() == pytest.approx(1, abs=0.03)
    assert prepared.image.max() < 4
    assert prepared.label is None


def test_scale_and_offset_of_mr_do_not_matter(tmp_path):
    image, _ = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    first = preprocess(tmp_path / "a", one(tmp_path / "a", image=image), PLAN)
    second = preprocess(tmp_path / "b", one(tmp_path / "b", image=image * 7 + 300), PLAN)
    assert torch.allclose(first.image, second.image, atol=1e-4)


def test_ct_is_clipped_to_its_units(tmp_path):
    image = np.full((8, 8, 8), -1000, dtype=np.float32)
    image[:4] = 0
    image[:, :4] += 3000 * (image[:, :4] == 0)  # metal
    prepared = preprocess(tmp_path, one(tmp_path, image=image, modality="CT"), PLAN)
    assert len(torch.unique(prepared.image)) == 3
    low, middle, high = torch.unique(prepared.image).tolist()
    assert (middle - low) == pytest.approx(high - middle, rel=1e-4)  # -1000, 0 and 3000 cut to 1000 HU


def test_labels_keep_their_values(tmp_path):
    prepared = preprocess(tmp_path, one(tmp_path), PLAN)
    assert prepared.label.dtype == torch.uint8
    assert torch.unique(prepared.label).tolist() == [0, 1, 2]
    assert prepared.bytes == 12 * 14 * 16 * 5 + len(prepared.places) * 16
    assert prepared.background == prepared.image.min().item()


def test_resampling_brings_volumes_to_the_plan(tmp_path):
    plan = PreprocessingPlan(3, (16, 16, 16), (1.0, 1.0, 1.0))
    prepared = preprocess(tmp_path, one(tmp_path, spacing=(1.0, 1.0, 2.0)), plan)
    assert prepared.image.shape[1:] == prepared.label.shape[1:]
    assert tuple(prepared.image.shape[1:3]) == (12, 14)
    assert prepared.image.shape[3] == pytest.approx(32, abs=1)
    assert np.allclose(np.diag(prepared.affine)[:3], 1)
    assert set(torch.unique(prepared.label).tolist()) == {0, 1, 2}


def test_in_2d_slices_stay_as_they_are(tmp_path):
    plan = PreprocessingPlan(2, (16, 16), (0.5, 0.5, 0.5))
    prepared = preprocess(tmp_path, one(tmp_path, spacing=(1.0, 4.0, 1.0)), plan)
    assert prepared.slice_axis == 1
    assert prepared.image.shape[2] == 14
    assert np.allclose(np.sqrt((prepared.affine[:3, :3] ** 2).sum(0)), (0.5, 4.0, 0.5))


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1.0, 1.0, 1.0), 2), ((5.0, 1.0, 1.0), 0), ((1.0, 5.0, 1.0), 1), ((1.00001, 1.0, 1.0), 2)],
)
def test_slices_are_cut_across_the_largest_spacing(tmp_path, spacing, axis):
    assert (
        preprocess(tmp_path, one(tmp_path, spacing=spacing), PreprocessingPlan(2, (16, 16))).slice_axis
        == axis
    )


def test_the_slice_axis_is_found_after_turning(tmp_path):
    volume = one(tmp_path, orientation="SLA", spacing=(6.0, 1.0, 1.0))
    assert preprocess(tmp_path, volume, PreprocessingPlan(2, (16, 16))).slice_axis == 2


def test_volumes_are_kept_in_memory(tiny_dataset):
    volumes = VolumeLoader(tiny_dataset, PLAN, cache_gb=1.0)
    row = read_dataset(tiny_dataset).volumes[0]
    assert volumes(row) is volumes(row)


def test_memory_is_bounded_and_the_oldest_go_first(tiny_dataset):
    rows = read_dataset(tiny_dataset).volumes
    each = preprocess(tiny_dataset, rows[0], PLAN).bytes
    volumes = VolumeLoader(tiny_dataset, PLAN, cache_gb=2.5 * each / 1e9)
    first, second = volumes(rows[0]), volumes(rows[1])
    assert volumes(rows[0]) is first  # now the most recently used
    volumes(rows[2])
    assert volumes(rows[0]) is first
    assert volumes(rows[1]) is not second


def test_a_volume_larger_than_the_memory_is_still_given(tiny_dataset):
    row = read_dataset(tiny_dataset).volumes[0]
    assert VolumeLoader(tiny_dataset, PLAN, cache_gb=1e-9)(row).image.shape == (1, *tiny.SHAPE)


@pytest.mark.parametrize("what", ["image", "label"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_file_is_named_by_its_volume(tmp_path, what, damage):
    row = one(tmp_path)
    path = tmp_path / getattr(row, what)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"^volume {row.id}: .*run `medmim ingest` again$") as caught:
        preprocess(tmp_path, row, PLAN)
    assert caught.value.reason == "damaged_dataset"
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_label_of_another_shape_is_refused(tmp_path):
    row = one(tmp_path)
    other = tiny.write_volume(
        tmp_path / "other",
        "patient",
        np.zeros((5, 5, 5), np.float32) + 1,
        np.eye(4),
        label=np.ones((5, 5, 5), np.uint8),
    )
    (tmp_path / row.label).write_bytes((tmp_path / "other" / other.label).read_bytes())
    row = row.model_copy(update={"label_sha256": other.label_sha256})
    with pytest.raises(DataError, match="label and image have different shapes"):
        preprocess(tmp_path, row, PLAN)


def test_class_numbers_keep_their_value(tmp_path):
    image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    many = label.astype(np.uint16) * 700
    found = preprocess(tmp_path, one(tmp_path, image=image, label=many), PLAN).label
    assert np.array_equal(found[0].numpy(), many)


@pytest.mark.parametrize("codes", [(85, 170), (17, 1035), (1, 255)])
def test_label_codes_become_consecutive_classes(tmp_path, codes):
    image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    coded = np.array([0, *codes], np.uint16)[label]
    plan = replace(PLAN, label_codes=codes)
    found = preprocess(tmp_path, one(tmp_path, image=image, label=coded), plan)
    assert np.array_equal(found.label[0].numpy(), label)
    assert set(found.places[:, 0].tolist()) == {1, 2}


def test_values_of_merged_and_renumbered_classes_are_read_in_any_order(tmp_path):
    image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    coded = np.array([0, 9, 4], np.uint16)[label]
    record = one(tmp_path, image=image, label=coded)
    for pairs, expected in ((((9, 2), (4, 1)), [0, 2, 1]), (((4, 1), (9, 1)), [0, 1, 1])):
        found = preprocess(tmp_path, record, replace(PLAN, label_codes=(4, 9), label_classes=pairs))
        assert np.array_equal(found.label[0].numpy(), np.array(expected)[label])


def test_ignored_voxels_have_a_class_of_their_own_and_unknown_codes_none(tmp_path):
    image, label = tiny.blob(np.random.default_rng(0), (12, 14, 16))
    coded = np.array([0, 9, 255], np.uint16)[label]
    plan = replace(PLAN, label_codes=(3,), ignore_label=255)
    found = preprocess(tmp_path, one(tmp_path, image=image, label=coded), plan)
    assert torch.unique(found.label).tolist() == [0, IGNORE]
    assert len(found.places) == 0
