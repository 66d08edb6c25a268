"""Overlapping classes: encoding, merging and recoding keep the voxels of every class."""

from __future__ import annotations

import numpy as np
import pytest
from ingest_source import save_volume

from medmim.data.formats.nifti import read_image
from medmim.data.formats.overlapping_classes import encode_regions, merge_regions, recode_label
from medmim.errors import DataError

SHAPE = (6, 5, 4)


def random_masks(seed):
    rng = np.random.default_rng(seed)
    return {number: rng.random(SHAPE) < 0.4 for number in (2, 3, 7)}


def voxels_of(codes, combinations, number):
    return np.isin(codes, [code for code, own in enumerate(combinations, start=1) if number in own])


@pytest.mark.parametrize("seed", range(5))
def test_codes_contain_every_class_exactly(seed):
    masks = random_masks(seed)
    codes, combinations = encode_regions(masks)
    for number, mask in masks.items():
        np.testing.assert_array_equal(voxels_of(codes, combinations, number), mask)


def test_a_label_without_background_has_no_code_0():
    codes, combinations = encode_regions({4: np.ones(SHAPE, bool)})
    assert (np.unique(codes).tolist(), combinations) == ([1], [[4]])


def test_too_many_classes_are_refused():
    with pytest.raises(DataError, match="expected up to 63"):
        encode_regions({number: np.ones(SHAPE, bool) for number in range(64)})


def test_merged_labels_keep_the_classes_of_both(tmp_path):
    encoded = [encode_regions(random_masks(seed)) for seed in (1, 2)]
    files = [tmp_path / f"{place}.nii.gz" for place, _ in enumerate(encoded)]
    for file, (codes, _) in zip(files, encoded, strict=True):
        save_volume(file, codes)
    out = tmp_path / "out.nii.gz"
    facts = merge_regions(list(map(str, files)), [found for _, found in encoded], str(out))
    merged = read_image(out).array
    for number in (2, 3, 7):
        expected = random_masks(1)[number] | random_masks(2)[number]
        np.testing.assert_array_equal(voxels_of(merged, facts["combinations"], number), expected)
    assert facts["measured"]["overlap_voxels"] > 0


def test_codes_are_replaced_in_place(tmp_path):
    file = tmp_path / "label.nii.gz"
    save_volume(file, np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 3)
    assert recode_label(str(file), [5, 900])["values"] == [5, 900]
    assert np.bincount(read_image(file).array.ravel())[[0, 5, 900]].tolist() == [3, 3, 2]
