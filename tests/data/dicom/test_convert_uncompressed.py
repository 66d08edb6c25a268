"""Uncompressed slices that are read byte for byte give what the decoders give, or are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import CT, OBLIQUE, Tweak, stack_of, task_of, write_series
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from medmim.data.dicom.conversion_task import ConversionTask
from medmim.data.dicom.convert_uncompressed import convert_uncompressed
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.ingest.scan import scan_file


def task(tmp_path: Path, **options: Any) -> ConversionTask:
    return task_of(stack_of(write_series(tmp_path / "in", **options)), tmp_path)


def scaled(slope: float, intercept: float, step: float = 0.0) -> Tweak:
    def tweak(dataset: FileDataset, place: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope + step * place, intercept

    return tweak


def unsigned(dataset: FileDataset, place: int) -> None:
    dataset.PixelRepresentation = 0
    pixels = np.random.default_rng(place).integers(0, 2**16, (8, 10)).astype("<u2")
    dataset.PixelData = pixels.tobytes()


def unsigned_ct(dataset: FileDataset, place: int) -> None:
    unsigned(dataset, place)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024


def twelve_bits(dataset: FileDataset, place: int) -> None:
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.PixelData = (np.arange(80, dtype="<u2") * 50 + place).tobytes()


def unused_bits(dataset: FileDataset, place: int) -> None:
    twelve_bits(dataset, place)
    dataset.PixelData = (np.arange(80, dtype="<u2") * 50 + place + (place == 2) * 0x8000).tobytes()


def implicit(dataset: FileDataset, place: int) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


TWEAKS: dict[str, Tweak] = {
    "as stored": scaled(1, 0),
    "hounsfield": scaled(1, -1024),
    "integral slope": scaled(3, 7),
    "large values": scaled(500, 0),
    "fraction": scaled(0.37, 2.5),
    "a slope per slice": scaled(0.25, 1, 0.125),
    "unsigned": unsigned,
    "unsigned ct": unsigned_ct,
    "twelve bits": twelve_bits,
    "unused bits": unused_bits,
    "implicit": implicit,
}


@pytest.mark.parametrize("name", TWEAKS)
@pytest.mark.parametrize("orientation", [OBLIQUE, (0, 1, 0, 0, 0, -1)])
def test_volume_equals_the_decoded_one(tmp_path: Path, name: str, orientation: tuple[float, ...]):
    raw = task(tmp_path, sop=CT, tweak=TWEAKS[name], orientation=orientation)
    decoded = raw.model_copy(update={"raw": (), "target": str(tmp_path / "decoded.nii.gz")})
    result, expected = convert_uncompressed(raw), convert_with_decoder(decoded)
    assert result == expected
    assert (result.reason, result.measured["slices_uncompressed"]) == ("", 6)
    first, second = nib.load(raw.target), nib.load(decoded.target)
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_array_equal(np.asanyarray(first.dataobj), np.asanyarray(second.dataobj))


def test_bits_beyond_those_stored_are_cleared(tmp_path: Path):
    given = task(tmp_path, sop=CT, tweak=unused_bits)
    convert_uncompressed(given)
    assert np.asanyarray(nib.load(given.target).dataobj).max() == 79 * 50 + 5


def test_wrong_order_is_noticed(tmp_path: Path):
    given = task(tmp_path)
    places = list(given.places)
    places[1], places[2] = places[2], places[1]
    result = convert_uncompressed(given.model_copy(update={"places": tuple(places)}))
    assert (result.reason, round(result.measured["deviation_mm"], 3)) == ("geometry_mismatch", 3.0)
    assert not Path(given.target).exists()


@pytest.mark.parametrize("fault", ["moved", "stretched", "turned"])
def test_headers_that_contradict_the_grid_are_noticed(tmp_path: Path, fault: str):
    given = task(tmp_path)
    affine = given.grid
    if fault == "moved":
        affine[:3, 3] += 1.0
    elif fault == "stretched":
        affine[:3, 2] *= 1.2
    else:
        affine[:3, [0, 1]] = affine[:3, [1, 0]]
    changed = ConversionTask.model_validate(given.model_dump() | {"affine": affine.tolist()})
    assert convert_uncompressed(changed).reason == "geometry_mismatch"


@pytest.mark.parametrize("fault", ["touched", "cut"])
def test_a_file_that_changed_since_the_scan_is_refused(tmp_path: Path, fault: str):
    given = task(tmp_path)
    path = Path(given.files[3])
    modified_ns = path.stat().st_mtime_ns
    if fault == "touched":
        os.utime(path, ns=(modified_ns, modified_ns + 1))
    else:
        path.write_bytes(path.read_bytes()[:-10])
        os.utime(path, ns=(modified_ns, modified_ns))
    result = convert_uncompressed(given)
    assert (result.reason, result.measured) == ("changed_since_scan", {})
    assert not Path(given.target).exists()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("HighBit", 14), ("BitsStored", 0), ("HighBit", None)],
)
def test_unusual_pixels_are_left_to_the_decoders(tmp_path: Path, keyword: str, value: Any):
    (path,) = write_series(tmp_path, count=1, tweak=lambda dataset, _: setattr(dataset, keyword, value))
    header = scan_file(path).header
    assert header is not None
    assert header.raw is None


def test_pixels_longer_than_the_header_says_are_left_to_the_decoders(tmp_path: Path):
    def tweak(dataset: FileDataset, place: int) -> None:
        dataset.PixelData += bytes(2)

    (path,) = write_series(tmp_path, count=1, tweak=tweak)
    header = scan_file(path).header
    assert header is not None
    assert header.raw is None
