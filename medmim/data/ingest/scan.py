"""The scan of a source: the type of each file and, for DICOM images, the headers of their slices."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydicom
from pydantic import BaseModel, ConfigDict, Field
from pydicom import uid
from pydicom.tag import Tag

from medmim.data.dataset.manifest import Fate
from medmim.data.dataset.pseudonyms import PERSON_FIELDS, person_digests
from medmim.data.dicom import mosaic, multiframe, sop_classes
from medmim.data.dicom.decode import packing_fault
from medmim.data.dicom.header import Header, allowed_tags, header_of, number, replace_decimal_commas, text
from medmim.data.dicom.pixel_data_element import PixelDataElement, RawPixelData, missing_pixels, read_element
from medmim.data.formats import file_types
from medmim.data.formats.file_types import open_regular
from medmim.data.formats.safe_open import plain_stream, quiet_pydicom
from medmim.errors import DataError

_PIXEL_DATA = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_MAX_FRAMES = 20_000


class ScannedFile(BaseModel):
    """One file: DICOM slices or a single image (`header`), a NIfTI file (`nifti`), or its outcome and reason.

    `frames` are the slices of a file that contains several; `header` is then the first of them. `series` and
    `instance` are set for damaged slices too, because the rest of their series is incomplete. `person` are
    keyed hashes of the patient's name, birth date and sex, to find contradictions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fate: Fate | None = None
    reason: str = ""
    measured: dict[str, float] = Field(default_factory=dict)
    series: str = ""
    instance: str = ""
    nifti: bool = False
    header: Header | None = None
    frames: tuple[Header, ...] = ()
    person: tuple[str, ...] = ()

    @property
    def headers(self) -> tuple[Header, ...]:
        """Headers of all slices and single images in the file."""
        return self.frames or (() if self.header is None else (self.header,))


class _StopError(Exception):
    """A file that contains no usable slice."""

    def __init__(
        self, reason: str, fate: Fate = "quarantined", measured: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fate = fate
        self.measured = dict(measured or {})


def scan_file_as_json(path: str, secret: str = "") -> dict[str, Any]:
    """Return `scan_file` of a path in JSON form; runs in a sandbox."""
    return scan_file(Path(path), secret).model_dump(mode="python")


def scan_file(path: Path, secret: str = "") -> ScannedFile:
    """Detect the type of the file at `path` and read its header; its bytes may be anything.

    With a `secret`, the result has keyed hashes of the patient's name, birth date and sex.
    """
    try:
        with open_regular(path, follow_links=False) as stream:
            head = stream.read(file_types.HEAD_BYTES)
            stream.seek(0)
            kind = file_types.kind_of(head, path.name)
            if kind is None:
                return ScannedFile(fate="skipped", reason=file_types.skip_reason(head, path.name))
            if kind == "nifti":
                return ScannedFile(nifti=True)
            if kind == "bad_dicom":
                return ScannedFile(fate="quarantined", reason="bad_header")
            return _scan_dicom(stream, bare=kind == "bare_dicom", secret=secret)
    except (OSError, DataError) as error:
        return ScannedFile(fate="quarantined", reason=getattr(error, "reason", "unreadable"))


def _scan_dicom(raw: io.BufferedIOBase, *, bare: bool, secret: str) -> ScannedFile:
    series = instance = ""
    with quiet_pydicom():
        try:
            stream = plain_stream(raw)
            dataset = _parse(stream, bare=bare or stream is not raw, person=bool(secret))
            series, instance = _text(dataset, "SeriesInstanceUID"), _text(dataset, "SOPInstanceUID")
            headers = _headers(dataset, stream)
        except MemoryError:
            raise
        except Exception as error:  # a damaged value can make pydicom raise almost anything
            return ScannedFile(
                fate=getattr(error, "fate", "quarantined"),
                reason=error.reason if isinstance(error, _StopError | DataError) else "bad_header",
                measured=getattr(error, "measured", {}),
                series=series,
                instance=instance,
            )
    frames = tuple(headers) if headers[0].kind in ("tile", "frame") or len(headers) > 1 else ()
    person = person_digests([_text(dataset, name) for name in PERSON_FIELDS], secret) if secret else ()
    return ScannedFile(header=headers[0], frames=frames, series=series, instance=instance, person=person)


def _size(stream: io.BufferedIOBase) -> int:
    """Return the number of bytes in a stream; its position is kept."""
    place = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(place)
    return size


def _parse(stream: io.BufferedIOBase, *, bare: bool, person: bool) -> pydicom.FileDataset:
    """Read the allowed elements before the pixels, with those of the person only for their hashes."""
    tags = [*allowed_tags(), *(map(Tag, PERSON_FIELDS) if person else ())]
    size = _size(stream)
    try:
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(tags), force=bare)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises almost anything for damaged bytes
        raise _StopError("truncated" if stream.tell() >= size else "bad_header") from error


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Return an element's text, or an empty text if it is absent or damaged."""
    try:
        return text(dataset, keyword)
    except MemoryError:
        raise
    except Exception:  # a damaged value can make pydicom raise almost anything
        return ""


def _headers(dataset: pydicom.FileDataset, stream: io.BufferedIOBase) -> list[Header]:
    """Return the headers of the usable slices, or stop with the reason why there are none."""
    meta = getattr(dataset, "file_meta", None) or pydicom.Dataset()
    sop_class = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if sop_class == sop_classes.DICOMDIR:
        raise _StopError("dicomdir", "skipped")
    dataset.SOPClassUID = sop_class
    size = _size(stream)
    _check_pixel_element(stream, size, sop_class)
    _check_kind(dataset)
    syntax = text(meta, "TransferSyntaxUID")
    if reason := packing_fault(syntax):
        raise _StopError(reason)
    expected = _expected_bytes(dataset)
    element = read_element(stream, little=syntax != uid.ExplicitVRBigEndian)
    repairs = _compression_repairs(element, syntax, expected)
    raw = _raw_pixel_data(dataset, stream, element, expected)
    if missing := missing_pixels(stream, element, size, expected):
        raise _StopError("truncated", measured=missing)
    try:
        headers = _slice_headers(dataset, sop_class, raw)
    except (ValueError, TypeError):
        if not replace_decimal_commas(dataset):
            raise
        headers, repairs = _slice_headers(dataset, sop_class, raw), (*repairs, "decimal_comma")
    if not repairs:
        return headers
    return [one.model_copy(update={"repairs": (*one.repairs, *repairs)}) for one in headers]


def _check_pixel_element(stream: io.BufferedIOBase, size: int, sop_class: str) -> None:
    """Stop for classes without an image, and for files whose next element is not the pixel data."""
    place = stream.tell()
    has_pixels = stream.read(4) in _PIXEL_DATA
    stream.seek(place)
    if not has_pixels and place != size and sop_classes.content_of(sop_class):
        raise _StopError("truncated" if place > size or size - place < 8 else "float_pixels")
    if reason := sop_classes.refusal(sop_class):
        raise _StopError(reason, "skipped" if reason == sop_classes.LABEL else "quarantined")
    if not has_pixels:
        raise _StopError("no_pixel_data")


def _compression_repairs(element: PixelDataElement | None, syntax: str, expected: int) -> tuple[str, ...]:
    """Compare the transfer syntax with the form of the pixel data.

    Compressed pixels consist of items in an element of undefined length. Uncompressed pixels that are called
    compressed are read as what they are; compressed ones that are called uncompressed stop the scan, because
    nothing names their compression.
    """
    if element is None or not syntax:
        return ()
    if uid.UID(syntax).is_encapsulated:
        if element.length is None:
            return ()
        if element.length - expected in (0, 1) and not element.looks_compressed:
            return ("transfer_syntax_ignored",)
    elif element.length is not None and (element.length - expected in (0, 1) or not element.looks_compressed):
        return ()
    raise _StopError("transfer_syntax_mismatch")


def _raw_pixel_data(
    dataset: pydicom.FileDataset, stream: io.BufferedIOBase, element: PixelDataElement | None, expected: int
) -> RawPixelData | None:
    """Return the location of the pixels if they can be read without a decoder."""
    syntax = text(getattr(dataset, "file_meta", None) or pydicom.Dataset(), "TransferSyntaxUID")
    bits, sign = number(dataset, "BitsStored") or 0.0, number(dataset, "PixelRepresentation")
    usual = (
        number(dataset, "BitsAllocated") == 16.0
        and 1.0 <= bits <= 16.0
        and number(dataset, "HighBit") == bits - 1.0
        and sign in (0.0, 1.0)
        and text(dataset, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    )
    deflated = isinstance(stream, io.BytesIO)
    if not usual or deflated or syntax not in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        return None
    if element is None or element.length != expected:
        return None
    modified_ns = os.fstat(stream.fileno()).st_mtime_ns
    return RawPixelData(element.start, int(bits), sign == 1.0, modified_ns)


def _slice_headers(dataset: pydicom.FileDataset, sop_class: str, raw: RawPixelData | None) -> list[Header]:
    """Return one header for each slice, tile, frame or single image."""
    frames = int(number(dataset, "NumberOfFrames") or 1)
    if sop_classes.content_of(sop_class) == "picture":
        first = header_of(dataset, "picture")
        return [first.model_copy(update={"frame": frame}) for frame in range(frames)]
    if mosaic.is_united_imaging_grid(dataset):
        return _or_stop(mosaic.united_imaging_headers, dataset, "vendor_grid")
    if mosaic.is_siemens_mosaic(dataset):
        return _or_stop(mosaic.siemens_headers, dataset, "mosaic_without_geometry")
    if sop_classes.content_of(sop_class) == "frames" or frames > 1:
        return _or_stop(multiframe.frame_headers, dataset, "multiframe_without_geometry")
    return [header_of(dataset, raw=raw)]


def _or_stop(
    read: Callable[[pydicom.Dataset], list[Header]], dataset: pydicom.Dataset, reason: str
) -> list[Header]:
    try:
        return read(dataset)
    except (ValueError, TypeError, mosaic.CSAError) as error:
        raise _StopError(reason) from error


def _check_kind(dataset: pydicom.FileDataset) -> None:
    """Stop for images that have no grey values, or no identifiers."""
    frames = number(dataset, "NumberOfFrames")
    if frames is not None and not 1 <= frames <= _MAX_FRAMES:
        raise _StopError("bad_size", measured={"frames": frames})
    picture = sop_classes.content_of(text(dataset, "SOPClassUID")) == "picture"
    if (samples := number(dataset, "SamplesPerPixel")) not in (None, 1.0) and not (picture and samples == 3):
        raise _StopError("colour_volume", measured={"samples": samples or 0.0})
    if "PALETTE" in text(dataset, "PhotometricInterpretation") and not picture:
        raise _StopError("colour_volume")  # values are indices of colours
    if "ModalityLUTSequence" in dataset and not picture:
        raise _StopError("modality_table")
    if not all(text(dataset, name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")):
        raise _StopError("missing_uid")


def _expected_bytes(dataset: pydicom.FileDataset) -> int:
    """Return the number of bytes of the uncompressed pixels."""
    names = {"rows": "Rows", "columns": "Columns", "bits": "BitsAllocated"}
    sizes = {name: number(dataset, keyword) or 0.0 for name, keyword in names.items()}
    fits = 0 < sizes["rows"] < 2**16 and 0 < sizes["columns"] < 2**16 and sizes["bits"] in (8.0, 16.0, 32.0)
    if not fits:
        raise _StopError("bad_size", measured=sizes)
    frames = int(number(dataset, "NumberOfFrames") or 1)
    samples = int(number(dataset, "SamplesPerPixel") or 1)
    bits = int(sizes["bits"]) * samples
    if samples == 3 and text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3  # two pixels share one pair of colour values
    return int(sizes["rows"]) * int(sizes["columns"]) * bits // 8 * frames
