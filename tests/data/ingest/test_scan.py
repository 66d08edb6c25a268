"""Each kind of file gets its own reason, and no value of a header gets out but the allowed ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import CT, make_slice
from pydicom import dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medmim.data.dataset.series_tokens import tokens_of
from medmim.data.dicom.sop_classes import refusal
from medmim.data.ingest.scan import ScannedFile, scan_file, scan_file_as_json

STORAGE = "1.2.840.10008.5.1.4.1.1."


def seen(tmp_path: Path, change: Callable[[FileDataset], None] | None = None, **options: Any) -> ScannedFile:
    dataset = make_slice(0, **options)
    if change is not None:
        change(dataset)
    dataset.save_as(tmp_path / "file")
    return scan_file(tmp_path / "file")


def test_header_of_a_slice(tmp_path: Path):
    header = seen(tmp_path).header
    assert header is not None
    assert (header.modality, header.rows, header.columns) == ("MR", 8, 10)
    assert header.spacing == (1.5, 1.25)
    assert header.echo_time == 10
    assert header.tokens == ("t1", "post", "ax")
    assert (header.slope, header.intercept) == (1.0, 0.0)


def test_only_allowed_values_get_out(tmp_path: Path):
    def hide(dataset: FileDataset) -> None:
        for keyword in (
            "PatientName",
            "InstitutionName",
            "AccessionNumber",
            "StudyDescription",
            "PatientComments",
        ):
            setattr(dataset, keyword, "SENTINEL")
        dataset.private_block(0x0019, "SENTINEL", create=True).add_new(0x0C, "LO", "SENTINEL")

    found = seen(tmp_path, hide)
    assert found.header is not None
    assert "SENTINEL" not in str(scan_file_as_json(str(tmp_path / "file")))


def setter(**values: Any) -> Callable[[FileDataset], None]:
    def change(dataset: FileDataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


def dropper(*names: str) -> Callable[[FileDataset], None]:
    def change(dataset: FileDataset) -> None:
        for name in names:
            delattr(dataset, name)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setter(SOPClassUID=STORAGE + "6.2"), "burned_in_risk"),
        (setter(SOPClassUID=STORAGE + "88.33"), "report_no_image"),
        (setter(SOPClassUID=STORAGE + "104.1"), "document_no_image"),
        (setter(SOPClassUID=STORAGE + "4.1"), "multiframe_without_geometry"),
        (setter(SOPClassUID="1.9"), "other_no_image"),
        (setter(NumberOfFrames=3), "truncated"),
        (setter(NumberOfFrames=-2), "bad_size"),
        (setter(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic_without_geometry"),
        (setter(SamplesPerPixel=3), "colour_volume"),
        (setter(PhotometricInterpretation="PALETTE COLOR"), "colour_volume"),
        (setter(Rows=0), "bad_size"),
        (setter(BitsAllocated=12), "bad_size"),
        (setter(SOPInstanceUID=""), "missing_uid"),
        (dropper("SeriesInstanceUID"), "missing_uid"),
        (dropper("PixelData"), "no_pixel_data"),
        (dropper("Rows"), "bad_size"),
        (setter(Rows=9), "truncated"),
    ],
)
def test_refused_objects(tmp_path: Path, change: Callable[[FileDataset], None], reason: str):
    found = seen(tmp_path, change)
    assert (found.fate, found.reason) == ("quarantined", reason)


@pytest.mark.parametrize("kind", ["66.4", "481.3"])
def test_label_objects_are_left_for_the_step_that_has_the_images(tmp_path: Path, kind: str):
    found = seen(tmp_path, setter(SOPClassUID=STORAGE + kind))
    assert (found.fate, found.reason) == ("skipped", "label_object")


def test_numbers_that_are_none(tmp_path: Path):
    dataset = make_slice(0)
    dataset.save_as(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content.replace(b"1.5\\1.25", b"1.5\\SENT"))
    assert scan_file(tmp_path / "file").reason == "bad_header"
    (tmp_path / "file").write_bytes(content.replace(b"1.5\\1.25", b"1.5\\ NaN"))
    header = scan_file(tmp_path / "file").header
    assert header is not None
    assert np.isnan((header.spacing or (0.0,))[1])


def test_every_truncation_is_noticed(tmp_path: Path):
    make_slice(0).save_as(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in range(0, len(content), 13):
        cut.write_bytes(content[:length])
        found = scan_file(cut)
        assert found.header is None
        assert found.fate == ("quarantined" if length else "skipped")
    cut.write_bytes(content[:-2])
    assert scan_file(cut).measured == {"expected_bytes": 160.0, "found_bytes": 158.0}
    assert scan_file(cut).series == "1.2.3.4"


def test_every_flipped_byte_is_survived(tmp_path: Path):
    make_slice(0).save_as(tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(132, len(content), 300):
        damaged = content.copy()
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "damaged").write_bytes(damaged)
        assert isinstance(scan_file(tmp_path / "damaged"), ScannedFile)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_plain_syntaxes(tmp_path: Path, syntax: str):
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(tmp_path / "file", dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    assert scan_file(tmp_path / "file").header is not None
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-20])
    assert scan_file(tmp_path / "file").reason == "truncated"


def test_deflated_is_read(tmp_path: Path):
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "file")
    found, plain = scan_file(tmp_path / "file").header, seen(tmp_path).header
    assert found is not None
    assert plain is not None
    assert plain.raw is not None
    assert found == plain.model_copy(update={"raw": None})


def test_compressed_fragments_are_followed(tmp_path: Path):
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([bytes(200)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "file")
    assert scan_file(tmp_path / "file").header is not None
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-60])
    assert scan_file(tmp_path / "file").reason == "truncated"


def test_slice_without_preamble(tmp_path: Path):
    make_slice(0).save_as(tmp_path / "file", enforce_file_format=True)
    content = (tmp_path / "file").read_bytes()[132:]
    group_bytes = struct.unpack("<I", content[8:12])[0]
    (tmp_path / "file").write_bytes(content[12 + group_bytes :])
    assert scan_file(tmp_path / "file").header is not None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("note.txt", b"a letter about a patient", "not_dicom"),
        ("side.json", b'{"a": 1}', "not_dicom"),
        ("empty", b"", "empty_file"),
        ("photo.png", b"\x89PNG\r\n\x1a\n", "picture"),
        ("photo", b"\xff\xd8\xff\xe0", "picture"),
        ("scans.zip", b"PK\x03\x04", "archive"),
        ("scan.nrrd", b"NRRD0004\n", "volume_file"),
        ("scan.mha", b"ObjectType = Image", "volume_file"),
        ("._scan.nii.gz", b"\0\5\x16\7", "mac_metadata"),
    ],
)
def test_other_files_are_skipped(tmp_path: Path, name: str, content: bytes, reason: str):
    (tmp_path / name).write_bytes(content)
    found = scan_file(tmp_path / name)
    assert (found.fate, found.reason) == ("skipped", reason)


def test_damaged_dicom_is_no_skipped_file(tmp_path: Path):
    (tmp_path / "scan.dcm").write_bytes(b"nothing of the kind")
    assert scan_file(tmp_path / "scan.dcm").fate == "quarantined"
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM" + os.urandom(500))
    assert scan_file(tmp_path / "scan").fate == "quarantined"


def test_nifti_is_left_to_its_reader(tmp_path: Path):
    (tmp_path / "scan.nii.gz").write_bytes(b"whatever")
    assert scan_file(tmp_path / "scan.nii.gz").nifti


def test_nothing_is_waited_for_or_followed(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    assert scan_file(tmp_path / "fifo").reason == "unreadable"
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert scan_file(tmp_path / "link").reason == "unreadable"
    assert scan_file(tmp_path / "gone").reason == "unreadable"


def test_classes_by_their_longest_start():
    assert refusal(CT) is None
    assert refusal(STORAGE + "481.2") == "dose_no_image"
    assert refusal(STORAGE + "481.5") == "radiotherapy_no_image"
    assert refusal("") == "missing_sop_class"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("T1post", ("t1", "post")),
        ("FLAIR_reg", ("flair",)),
        ("T2w TSE Axial Smith John", ("t2", "ax")),
        ("posterior prefrontal", ()),
        ("ep2d_diff_ADC", ("dwi", "adc")),
        ("T2* cor", ("t2star", "cor")),
    ],
)
def test_tokens(text: str, tokens: tuple[str, ...]):
    assert tokens_of([text]) == tokens
