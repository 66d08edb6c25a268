"""Segmentations of 3D Slicer are read by the names of their segments, whatever their values and layers."""

import numpy as np
import pytest
import SimpleITK
from ingest_source import count_fates, run_ingest

from medmim.data.formats.nifti import read_image
from medmim.data.formats.slicer_segments import number_slicer_segments, read_slicer_segments
from medmim.data.ingest.warning_texts import warning_text


def save(path, layers, segments=()):
    """Write a NRRD file with layers x y z and segments (name, value, layer)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.moveaxis(np.stack(layers), 0, -1) if len(layers) > 1 else layers[0]
    image = SimpleITK.GetImageFromArray(np.swapaxes(array, 0, 2), isVector=len(layers) > 1)
    for place, (name, value, layer) in enumerate(segments):
        for key, text in {"Name": name, "LabelValue": value, "Layer": layer}.items():
            image.SetMetaData(f"Segment{place}_{key}", str(text))
    SimpleITK.WriteImage(image, str(path))


def block(first, value=1, size=2):
    array = np.zeros((8, 7, 6), np.uint8)
    array[first : first + size, 1 : 1 + size, 1 : 1 + size] = value
    return array


def test_layers_overlap_and_the_smaller_segment_stays_visible(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    save(path, [block(1, size=5), block(2)], [("Whole", 1, 0), ("Core", 1, 1)])
    assert read_slicer_segments(str(path)) == [(1, "whole"), (1, "core")]
    hidden = number_slicer_segments(str(path), {"whole": 2, "core": 7}, str(tmp_path / "b.nii.gz"))
    assert hidden == 8
    label = read_image(tmp_path / "b.nii.gz").array
    assert {int(value): int((label == value).sum()) for value in np.unique(label)} == {0: 211, 2: 117, 7: 8}


def test_overlapping_segments_are_a_warning(tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "in" / "p1" / "CT.nrrd", [rng.integers(0, 900, (8, 7, 6)).astype(np.int16)])
    layers = [block(1, size=5), block(2)]
    save(tmp_path / "in" / "p1" / "CT.seg.nrrd", layers, [("Whole", 1, 0), ("Core", 1, 1)])
    warnings = run_ingest(tmp_path).info.warnings
    assert [one for one in warnings if one["kind"] == "segments_overlap"] == [
        {"kind": "segments_overlap", "files": 1, "voxels": 8}
    ]
    assert warning_text(warnings[0]).startswith("segments overlap in 1 file of 3D Slicer: 8 voxels have")


@pytest.mark.parametrize("layered", [False, True])
def test_equally_named_segments_are_one_class(tmp_path, layered):
    rng = np.random.default_rng(0)
    for patient, names in {"p1": ("Liver", "Tumor"), "p2": ("tumor", "liver")}.items():
        save(tmp_path / "in" / patient / "CT.nrrd", [rng.integers(0, 900, (8, 7, 6)).astype(np.int16)])
        layers = [block(0), block(5)] if layered else [block(0) + block(5, value=2)]
        segments = [(name, 1 if layered else n + 1, n * layered) for n, name in enumerate(names)]
        save(tmp_path / "in" / patient / "CT.seg.nrrd", layers, segments)
    dataset = run_ingest(tmp_path)
    assert count_fates(tmp_path) == {("accepted", "volume"): 2, ("accepted", "label"): 2}
    assert dataset.info.label_names == {1: "liver", 2: "tumor"}
    places = set()
    for volume in dataset.volumes:
        label = read_image(dataset.root / volume.label).array
        places.add(tuple(int((label == number).nonzero()[0].min()) for number in (1, 2)))
    assert places == {(0, 5), (5, 0)}


def test_files_without_named_segments_keep_their_values(tmp_path):
    save(tmp_path / "a.seg.nrrd", [block(1, value=3)])
    assert read_slicer_segments(str(tmp_path / "a.seg.nrrd")) == []
