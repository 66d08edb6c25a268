"""Tiles of mosaics become the slices that Siemens and United Imaging describe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import groups_of, make_slice, save_all, stack_of, task_of
from frames_maker import item, make_enhanced, make_grid, make_mosaic, stack_pixels

from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.scan import scan_file


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("count", [3, 7, 9])
def test_siemens_mosaic(tmp_path: Path, count: int, upwards: bool):
    (path,) = save_all(tmp_path, [make_mosaic(count, upwards=upwards)])
    stack = stack_of([path])
    first = scan_file(path).headers[0].position
    np.testing.assert_allclose(first or (), [-20.0, 30.0, 5.0], atol=1e-5)
    order = [one.header.frame for one in stack.slices]
    assert order == (list(range(count)) if upwards else list(range(count))[::-1])
    task = task_of(stack, tmp_path)
    assert convert_with_decoder(task).reason == ""
    expected = stack_pixels(count)[order].transpose(2, 1, 0)
    np.testing.assert_array_equal(read_image(Path(task.target)).array, expected)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("count", [3, 5, 7, 12])
def test_united_imaging_grid_has_no_empty_row_of_tiles(tmp_path: Path, count: int, positions: bool):
    stack = stack_of(save_all(tmp_path, [make_grid(count, positions=positions)]))
    task = task_of(stack, tmp_path)
    assert convert_with_decoder(task).reason == ""
    image = read_image(Path(task.target))
    np.testing.assert_array_equal(image.array, stack_pixels(count).transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine[:3, 3], [20.0, -30.0, 5.0], atol=1e-4)
    np.testing.assert_allclose(image.spacing_mm, [1.25, 1.5, 3.0], atol=1e-5)


@pytest.mark.parametrize("make", [make_mosaic, make_grid])
def test_each_mosaic_of_a_series_is_a_volume(tmp_path: Path, make):
    datasets = [make() for _ in range(3)]
    for number, dataset in enumerate(datasets):
        dataset.SOPInstanceUID = f"1.2.3.4.{number}"
    groups = groups_of(save_all(tmp_path, datasets))
    assert [{one.number for one in group.slices} for group in groups] == [{0}, {1}, {2}]


def test_grid_without_the_number_of_its_tiles_is_refused(tmp_path: Path):
    """As a single image, or as a slice of a stack, it would be silently wrong."""
    dataset = make_grid()
    for tag in [element.tag for element in dataset if element.tag.is_private]:
        del dataset[tag]
    (path,) = save_all(tmp_path, [dataset])
    assert scan_file(path).reason == "vendor_grid"


def test_image_with_one_slice_is_no_grid(tmp_path: Path):
    dataset = make_slice(0)
    dataset.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "1")
    (path,) = save_all(tmp_path, [dataset])
    assert scan_file(path).fate is None


def test_siemens_mosaic_without_the_number_of_its_tiles_is_refused(tmp_path: Path):
    dataset = make_mosaic()
    for tag in [element.tag for element in dataset if element.tag.is_private]:
        del dataset[tag]
    damaged = make_mosaic()
    damaged[0x0029, 0x1010].value = b"SV10\4\3\2\1 damaged"
    paths = save_all(tmp_path, [dataset, damaged])
    assert scan_file(paths[0]).reason == "mosaic_without_geometry"
    assert scan_file(paths[1]).fate == "quarantined"


def test_mosaics_in_frames_are_refused(tmp_path: Path):
    by_frame, by_file = make_enhanced(4), make_enhanced(4)
    for frame in by_frame.PerFrameFunctionalGroupsSequence:
        frame.MRImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "FMRI", "MOSAIC"])]
    by_file.ImageType = ["ORIGINAL", "PRIMARY", "FMRI", "MOSAIC"]
    paths = save_all(tmp_path, [by_frame, by_file])
    assert scan_file(paths[0]).reason == "multiframe_without_geometry"
    assert scan_file(paths[1]).reason == "mosaic_without_geometry"


def test_no_other_text_of_the_private_header_is_kept(tmp_path: Path):
    dataset = make_mosaic()
    dataset[0x0029, 0x1010].value += b"SENTINEL"
    (path,) = save_all(tmp_path, [dataset])
    assert "SENTINEL" not in scan_file(path).model_dump_json()
