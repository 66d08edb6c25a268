"""Uncompressed slices read as they lie give what two decoders give, or go through them, or are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import CT, OBLIQUE, Tweak, write_series
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from medmim.data.dicom.convert import convert
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.slices import Slice, SliceStack, own_place
from medmim.data.dicom.uncompressed import convert_raw
from medmim.data.ingest.scan import scan_file


def tasks_of(paths: list[Path], tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arguments of `convert_raw`, and those of `convert`."""
    slices = [Slice(n, path, header) for n, path in enumerate(paths) if (header := scan_file(path).header)]
    (stack,) = stacks_of(slices, {})
    assert isinstance(stack, SliceStack)
    headers = [one.header for one in stack.slices]
    common = {
        "files": [str(one.path) for one in stack.slices],
        "affine": stack.affine.tolist(),
        "scales": [[header.slope, header.intercept] for header in headers],
        "staging": str(tmp_path / "work"),
        "size": [headers[0].rows, headers[0].columns],
    }
    raw = {"raws": [header.raw for header in headers], "places": [own_place(header) for header in headers]}
    return (
        {**common, **raw, "target": str(tmp_path / "raw.nii.gz")},
        {**common, "target": str(tmp_path / "decoded.nii.gz")},
    )


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


def stray_bits(dataset: FileDataset, place: int) -> None:
    twelve_bits(dataset, place)
    dataset.PixelData = (np.arange(80, dtype="<u2") * 50 + place + (place == 2) * 0x8000).tobytes()


def implicit(dataset: FileDataset, place: int) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


TWEAKS: dict[str, Tweak] = {
    "as stored": scaled(1, 0),
    "hounsfield": scaled(1, -1024),
    "whole slope": scaled(3, 7),
    "wide": scaled(500, 0),
    "fraction": scaled(0.37, 2.5),
    "a slope a slice": scaled(0.25, 1, 0.125),
    "unsigned": unsigned,
    "unsigned ct": unsigned_ct,
    "twelve bits": twelve_bits,
    "stray bits": stray_bits,
    "implicit": implicit,
}


@pytest.mark.parametrize("name", TWEAKS)
@pytest.mark.parametrize("orientation", [OBLIQUE, (0, 1, 0, 0, 0, -1)])
def test_equal_to_what_the_decoders_give(tmp_path: Path, name: str, orientation: tuple[float, ...]):
    paths = write_series(tmp_path / "in", sop=CT, tweak=TWEAKS[name], orientation=orientation)
    raw, decoded = tasks_of(paths, tmp_path)
    facts, expected = convert_raw(**raw), convert(**decoded)
    assert "reason" not in facts
    measured = facts.pop("measured")
    assert measured.get("slices_uncompressed", 0) == (0 if name == "stray bits" else 6)
    assert measured["deviation_mm"] < 1e-3
    expected.pop("measured")
    first, second = nib.load(raw["target"]), nib.load(decoded["target"])
    values, wanted = np.asanyarray(first.dataobj), np.asanyarray(second.dataobj)
    assert values.dtype == wanted.dtype
    np.testing.assert_array_equal(first.affine, second.affine)
    if name in ("fraction", "a slope a slice"):  # dcm2niix computes in float32
        np.testing.assert_allclose(values, wanted, rtol=1e-6)
    else:
        np.testing.assert_array_equal(values, wanted)
        assert facts == expected


def test_wrong_order_is_noticed(tmp_path: Path):
    task, _ = tasks_of(write_series(tmp_path / "in"), tmp_path)
    task["places"][1], task["places"][2] = task["places"][2], task["places"][1]
    facts = convert_raw(**task)
    assert (facts["reason"], round(facts["measured"]["deviation_mm"], 3)) == ("geometry_mismatch", 3.0)
    assert not (tmp_path / "raw.nii.gz").exists()


@pytest.mark.parametrize("fault", ["moved", "stretched", "turned"])
def test_wrong_place_is_noticed(tmp_path: Path, fault: str):
    task, _ = tasks_of(write_series(tmp_path / "in"), tmp_path)
    affine = np.array(task["affine"])
    if fault == "moved":
        affine[:3, 3] += 1.0
    elif fault == "stretched":
        affine[:3, 2] *= 1.2
    else:
        affine[:3, [0, 1]] = affine[:3, [1, 0]]
    assert convert_raw(**{**task, "affine": affine.tolist()})["reason"] == "geometry_mismatch"


@pytest.mark.parametrize("fault", ["touched", "cut"])
def test_a_file_that_changed_is_refused(tmp_path: Path, fault: str):
    task, _ = tasks_of(write_series(tmp_path / "in"), tmp_path)
    path = Path(task["files"][3])
    when = path.stat().st_mtime_ns
    if fault == "touched":
        os.utime(path, ns=(when, when + 1))
    else:
        path.write_bytes(path.read_bytes()[:-10])
        os.utime(path, ns=(when, when))
    assert convert_raw(**task) == {"reason": "changed_since_scan", "measured": {}}
    assert not (tmp_path / "raw.nii.gz").exists()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("HighBit", 14), ("BitsStored", 0), ("PhotometricInterpretation", "PALETTE COLOR"), ("HighBit", None)],
)
def test_what_is_unusual_is_left_to_the_decoders(tmp_path: Path, keyword: str, value: Any):
    def tweak(dataset: FileDataset, place: int) -> None:
        setattr(dataset, keyword, value)

    (path,) = write_series(tmp_path / "in", count=1, tweak=tweak)
    header = scan_file(path).header
    assert header is not None
    assert header.raw is None


def test_pixels_longer_than_the_header_says_are_left_to_the_decoders(tmp_path: Path):
    def tweak(dataset: FileDataset, place: int) -> None:
        dataset.PixelData += bytes(2)

    (path,) = write_series(tmp_path / "in", count=1, tweak=tweak)
    header = scan_file(path).header
    assert header is not None
    assert header.raw is None


def test_a_constant_stack_is_refused(tmp_path: Path):
    def flat(dataset: FileDataset, place: int) -> None:
        dataset.PixelData = bytes(160)

    task, _ = tasks_of(write_series(tmp_path / "in", tweak=flat), tmp_path)
    assert convert_raw(**task)["reason"] == "constant_image"
