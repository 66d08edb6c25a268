import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocess import preprocess
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.recorded_files import read_recorded, refuse_changed_labels
from medmim.errors import DataError


def overwrite(path):
    """Write other labels of the same grid in place; return the size of the file before and after."""
    before, image = path.stat().st_size, nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)
    return before, path.stat().st_size


def test_a_label_that_was_overwritten_is_refused_before_training(dataset_copy):
    volumes = read_dataset(dataset_copy).volumes
    refuse_changed_labels(dataset_copy, volumes)
    overwrite(dataset_copy / volumes[3].label)
    with pytest.raises(DataError, match=f"1 label was changed after ingestion, such as .*{volumes[3].label}"):
        refuse_changed_labels(dataset_copy, volumes)


def test_labels_of_a_copy_are_no_false_alarm(dataset_copy, tmp_path):
    copy = shutil.copytree(dataset_copy, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(copy / "dataset.json", (0, 0))  # copied first
    refuse_changed_labels(copy, read_dataset(copy).volumes)


def test_a_label_with_the_time_of_the_recorded_one_is_refused_when_it_is_read(dataset_copy):
    volume = read_dataset(dataset_copy).volumes[0]
    path = dataset_copy / volume.label
    times = path.stat()
    overwrite(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    refuse_changed_labels(dataset_copy, [volume])
    with pytest.raises(DataError, match=rf"volume {volume.id}: .*{volume.label}. was changed after"):
        preprocess(dataset_copy, volume, PreprocessingPlan(3, (16, 16, 16)))


def test_an_image_without_a_recorded_hash_is_read(dataset_copy):
    volume = read_dataset(dataset_copy).volumes[0]
    assert read_recorded(dataset_copy / volume.image, None).array.shape == volume.shape
    with pytest.raises(DataError, match="was changed after ingestion: restore it"):
        read_recorded(dataset_copy / volume.image, "0" * 64)


def test_an_image_that_was_overwritten_is_refused(dataset_copy):
    volume = read_dataset(dataset_copy).volumes[0]
    overwrite(dataset_copy / volume.image)
    with pytest.raises(DataError, match=rf"{volume.image}' was changed after ingestion"):
        preprocess(dataset_copy, volume, PreprocessingPlan(3, (16, 16, 16)))
