"""What each file is: images with their allow-listed headers, a NIfTI volume, or something else and why."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydantic import BaseModel, ConfigDict, Field
from pydicom import uid

from medmim import files
from medmim.data.dataset.manifest import Fate
from medmim.data.dicom import mosaic, multiframe, sop_classes
from medmim.data.dicom.decode import Reader, packing_fault
from medmim.data.dicom.header import Header, allowed_tags, header_of, number, text
from medmim.data.dicom.pixel_data import RawPixelData, missing_pixels, raw_start
from medmim.data.formats import file_types
from medmim.data.formats.file_types import open_regular
from medmim.data.formats.safe_open import plain_stream, quiet_pydicom
from medmim.errors import DataError

_PIXEL_DATA = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_MAX_FRAMES = 20_000


class ScannedFile(BaseModel):
    """One file: a slice or picture (`header`), a NIfTI file (`nifti`), or its fate and reason.

    `frames` are the slices of a file that holds several; `header` is then the first of them. `series` and
    `instance` are set for damaged slices too, so that the rest of the series is not taken for the whole.
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

    @property
    def headers(self) -> tuple[Header, ...]:
        """Every slice and picture of the file."""
        return self.frames or (() if self.header is None else (self.header,))


class _Names(NamedTuple):
    """Series and instance of a file, as far as they are known."""

    series: str = ""
    instance: str = ""


class _StopError(Exception):
    """A file that is no usable slice."""

    def __init__(
        self, reason: str, fate: Fate = "quarantined", measured: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fate = fate
        self.measured = dict(measured or {})


def scan_file_as_json(path: str) -> dict[str, Any]:
    """Say what the file at `path` is, as the JSON form of `ScannedFile`; meant for a sandbox."""
    return scan_file(Path(path)).model_dump(mode="python")


def scan_file(path: Path) -> ScannedFile:
    """Say what the file at `path` is. Its bytes may be anything; the values of its header are never shown."""
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
            return _look_at_dicom(stream, bare=kind == "bare_dicom")
    except (OSError, DataError) as error:
        return ScannedFile(fate="quarantined", reason=getattr(error, "reason", "unreadable"))


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file; meant for a sandbox."""
    return files.sha256_of(Path(path))


def hash_content(path: str) -> str:
    """Return a SHA-256 of headers and decoded pixels, the same however they are packed; meant for a sandbox.

    Raises:
        DataError: with reason no_decoder, if pydicom cannot decode all of it.
    """
    headers = scan_file(Path(path)).headers
    digest = hashlib.sha256("".join(one.model_dump_json(exclude={"raw"}) for one in headers).encode())
    reader = Reader("frame")
    for frame in sorted({one.frame if one.kind != "tile" else 0 for one in headers}):
        digest.update(reader.whole(path, frame))
    return digest.hexdigest()


def _look_at_dicom(raw: io.BufferedIOBase, *, bare: bool) -> ScannedFile:
    names = _Names()
    with quiet_pydicom():
        try:
            stream = plain_stream(raw)
            dataset = _parse(stream, bare=bare or stream is not raw)
            names = _Names(_safe(dataset, "SeriesInstanceUID"), _safe(dataset, "SOPInstanceUID"))
            headers = _judge(dataset, stream)
        except _StopError as stop:
            return ScannedFile(
                fate=stop.fate,
                reason=stop.reason,
                measured=stop.measured,
                series=names.series,
                instance=names.instance,
            )
        except DataError as error:
            return ScannedFile(
                fate="quarantined", reason=error.reason, series=names.series, instance=names.instance
            )
        except MemoryError:
            raise
        except Exception:  # a damaged value can make pydicom raise almost anything
            return ScannedFile(
                fate="quarantined", reason="bad_header", series=names.series, instance=names.instance
            )
    frames = tuple(headers) if headers[0].kind in ("tile", "frame") or len(headers) > 1 else ()
    return ScannedFile(header=headers[0], frames=frames, series=names.series, instance=names.instance)


def _size(stream: io.BufferedIOBase) -> int:
    """Return the number of bytes in a stream, which stays where it is."""
    place = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(place)
    return size


def _parse(stream: io.BufferedIOBase, *, bare: bool) -> pydicom.FileDataset:
    """Read the allowed elements in front of the pixels."""
    size = _size(stream)
    try:
        return pydicom.dcmread(
            stream, stop_before_pixels=True, specific_tags=list(allowed_tags()), force=bare
        )
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises almost anything for damaged bytes
        raise _StopError("truncated" if stream.tell() >= size else "bad_header") from error


def _safe(dataset: pydicom.FileDataset, keyword: str) -> str:
    try:
        return text(dataset, keyword)
    except MemoryError:
        raise
    except Exception:  # as above: the value itself is damaged
        return ""


def _judge(dataset: pydicom.FileDataset, stream: io.BufferedIOBase) -> list[Header]:
    """Return the headers of the slices that can be used, or stop with the reason."""
    meta = getattr(dataset, "file_meta", None) or pydicom.Dataset()
    sop_class = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if sop_class == sop_classes.DICOMDIR:
        raise _StopError("dicomdir", "skipped")
    dataset.SOPClassUID = sop_class
    size = _size(stream)
    place = stream.tell()
    pixels = stream.read(4) in _PIXEL_DATA
    stream.seek(place)
    if not pixels and place != size and sop_classes.content_of(sop_class):
        raise _StopError("truncated" if place > size or size - place < 8 else "float_pixels")
    if reason := sop_classes.refusal(sop_class):
        raise _StopError(reason, "skipped" if reason == sop_classes.LABEL else "quarantined")
    if not pixels:
        raise _StopError("no_pixel_data")
    _judge_kind(dataset)
    if reason := packing_fault(text(meta, "TransferSyntaxUID"), number(dataset, "BitsStored")):
        raise _StopError(reason)
    little = text(meta, "TransferSyntaxUID") != uid.ExplicitVRBigEndian
    expected = _expected_bytes(dataset)
    raw = _raw_of(dataset, stream, expected)
    missing = missing_pixels(stream, size, expected, little=little)
    if missing is not None:
        raise _StopError("truncated", measured=missing)
    return _headers(dataset, sop_class, raw)


def _raw_of(dataset: pydicom.FileDataset, stream: io.BufferedIOBase, expected: int) -> RawPixelData | None:
    """Return where the pixels lie if they are values as they stand there, so that no decoder is needed."""
    syntax = text(getattr(dataset, "file_meta", None) or pydicom.Dataset(), "TransferSyntaxUID")
    bits, sign = number(dataset, "BitsStored") or 0.0, number(dataset, "PixelRepresentation")
    usual = (
        number(dataset, "BitsAllocated") == 16.0
        and 1.0 <= bits <= 16.0
        and number(dataset, "HighBit") == bits - 1.0
        and sign in (0.0, 1.0)
        and text(dataset, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    )
    inside = isinstance(stream, io.BytesIO)  # of a deflated file
    if not usual or inside or syntax not in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        return None
    start = raw_start(stream, expected, implicit=syntax == uid.ImplicitVRLittleEndian)
    written = os.fstat(stream.fileno()).st_mtime_ns
    return None if start is None else RawPixelData(start, int(bits), sign == 1.0, written)


def _headers(dataset: pydicom.FileDataset, sop_class: str, raw: RawPixelData | None) -> list[Header]:
    """Return one header for each slice, tile, frame or picture."""
    frames = int(number(dataset, "NumberOfFrames") or 1)
    if sop_classes.content_of(sop_class) == "picture":
        first = header_of(dataset, "picture")
        return [first.model_copy(update={"frame": frame}) for frame in range(frames)]
    if mosaic.is_vendor_grid(dataset):
        raise _StopError("vendor_grid")
    if mosaic.is_mosaic(dataset):
        return _or_stop(mosaic.tile_headers, dataset, "mosaic_without_geometry")
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


def _judge_kind(dataset: pydicom.FileDataset) -> None:
    """Stop for images that are no grey values, or belong to nobody knows what."""
    frames = number(dataset, "NumberOfFrames")
    if frames is not None and not 1 <= frames <= _MAX_FRAMES:
        raise _StopError("bad_size", measured={"frames": frames})
    picture = sop_classes.content_of(text(dataset, "SOPClassUID")) == "picture"
    if (samples := number(dataset, "SamplesPerPixel")) not in (None, 1.0) and not (picture and samples == 3):
        raise _StopError("colour_volume", measured={"samples": samples or 0.0})
    if "ModalityLUTSequence" in dataset and not picture:
        raise _StopError("modality_table")
    if not all(text(dataset, name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")):
        raise _StopError("missing_uid")


def _expected_bytes(dataset: pydicom.FileDataset) -> int:
    names = {"rows": "Rows", "columns": "Columns", "bits": "BitsAllocated"}
    sizes = {name: number(dataset, keyword) or 0.0 for name, keyword in names.items()}
    fits = 0 < sizes["rows"] < 2**16 and 0 < sizes["columns"] < 2**16 and sizes["bits"] in (8.0, 16.0, 32.0)
    if not fits:
        raise _StopError("bad_size", measured=sizes)
    frames = int(number(dataset, "NumberOfFrames") or 1)
    samples = int(number(dataset, "SamplesPerPixel") or 1)
    bits = int(sizes["bits"]) * samples
    if samples == 3 and text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3  # one pair of colours for two pixels
    return int(sizes["rows"]) * int(sizes["columns"]) * bits // 8 * frames
