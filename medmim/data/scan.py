"""What each file is: a slice with its allow-listed header, a NIfTI volume, or something else and why."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pydicom
from pydantic import BaseModel, ConfigDict, Field
from pydicom import config, uid

from medmim import files
from medmim.data import sniff, sop
from medmim.data.header import Header, allowed_tags, header_of, number, text, words
from medmim.data.manifest import Fate
from medmim.data.pixels import missing_pixels

_PIXEL_DATA = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"


class Seen(BaseModel):
    """One file: a slice (`header`), a NIfTI file (`nifti`), or its fate and reason.

    `series` is set for damaged slices too, so that the rest of the series is not taken for the whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fate: Fate | None = None
    reason: str = ""
    measured: dict[str, float] = Field(default_factory=dict)
    series: str = ""
    nifti: bool = False
    header: Header | None = None


class _StopError(Exception):
    """A file that is no usable slice."""

    def __init__(
        self, reason: str, fate: Fate = "quarantined", measured: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fate = fate
        self.measured = dict(measured or {})


def look(path: str) -> dict[str, Any]:
    """Say what the file at `path` is, as the JSON form of `Seen`; meant for a sandbox."""
    return look_at(Path(path)).model_dump(mode="python")


def look_at(path: Path) -> Seen:
    """Say what the file at `path` is. Its bytes may be anything; the values of its header are never shown."""
    try:
        with _open_regular(path) as stream:
            head = stream.read(sniff.HEAD_BYTES)
            stream.seek(0)
            kind = sniff.kind_of(head, path.name)
            if kind is None:
                return Seen(fate="skipped", reason=sniff.skip_reason(head, path.name))
            if kind == "nifti":
                return Seen(nifti=True)
            if kind == "bad_dicom":
                return Seen(fate="quarantined", reason="bad_header")
            return _look_at_dicom(stream, bare=kind == "bare_dicom")
    except OSError:
        return Seen(fate="quarantined", reason="unreadable")


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file; meant for a sandbox."""
    return files.sha256_of(Path(path))


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning: its texts quote values of the scan."""
    mode = config.settings.reading_validation_mode
    level = config.logger.level
    config.settings.reading_validation_mode = config.IGNORE
    config.logger.setLevel("CRITICAL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode
        config.logger.setLevel(level)


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, never a link, and without waiting on FIFOs and devices."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        yield stream


def _look_at_dicom(stream: IO[bytes], *, bare: bool) -> Seen:
    series = ""
    with quiet_pydicom():
        try:
            dataset = _parse(stream, bare=bare)
            series = _safe_series(dataset)
            header = _judge(dataset, stream)
        except _StopError as stop:
            return Seen(fate=stop.fate, reason=stop.reason, measured=stop.measured, series=series)
        except MemoryError:
            raise
        except Exception:  # a damaged value can make pydicom raise almost anything
            return Seen(fate="quarantined", reason="bad_header", series=series)
    return Seen(header=header, series=header.series)


def _parse(stream: IO[bytes], *, bare: bool) -> pydicom.FileDataset:
    """Read the allowed elements in front of the pixels."""
    size = os.fstat(stream.fileno()).st_size
    try:
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=allowed_tags(), force=bare)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises almost anything for damaged bytes
        raise _StopError("truncated" if stream.tell() >= size else "bad_header") from error


def _safe_series(dataset: pydicom.FileDataset) -> str:
    try:
        return text(dataset, "SeriesInstanceUID")
    except MemoryError:
        raise
    except Exception:  # as above: the value itself is damaged
        return ""


def _judge(dataset: pydicom.FileDataset, stream: IO[bytes]) -> Header:
    """Return the header of a slice that can be used, or stop with the reason."""
    meta = getattr(dataset, "file_meta", None) or pydicom.Dataset()
    sop_class = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if sop_class == sop.DICOMDIR:
        raise _StopError("dicomdir", "skipped")
    syntax = text(meta, "TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        raise _StopError("deflated_not_supported_yet")
    size = os.fstat(stream.fileno()).st_size
    place = stream.tell()
    pixels = stream.read(4) in _PIXEL_DATA
    stream.seek(place)
    if not pixels and place != size:
        raise _StopError(
            "truncated" if place > size or size - place < 8 else "float_pixels_not_supported_yet"
        )
    if reason := sop.refusal(sop_class):
        raise _StopError(reason)
    if not pixels:
        raise _StopError("no_pixel_data")
    _judge_kind(dataset)
    missing = missing_pixels(stream, size, _expected_bytes(dataset), little=syntax != uid.ExplicitVRBigEndian)
    if missing is not None:
        raise _StopError("truncated", measured=missing)
    return header_of(dataset)


def _judge_kind(dataset: pydicom.FileDataset) -> None:
    """Stop for images that are no single slice of grey values."""
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise _StopError("burned_in_risk")
    if (frames := number(dataset, "NumberOfFrames")) is not None and frames != 1:
        raise _StopError("multiframe_not_supported_yet", measured={"frames": frames})
    if "MOSAIC" in (str(word).upper() for word in words(dataset, "ImageType")):
        raise _StopError("mosaic_not_supported_yet")
    if (samples := number(dataset, "SamplesPerPixel")) not in (None, 1.0):
        raise _StopError("colour_not_supported_yet", measured={"samples": samples or 0.0})
    if "ModalityLUTSequence" in dataset:
        raise _StopError("modality_table_not_supported_yet")
    if not all(text(dataset, name) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")):
        raise _StopError("missing_uid")


def _expected_bytes(dataset: pydicom.FileDataset) -> int:
    names = {"rows": "Rows", "columns": "Columns", "bits": "BitsAllocated"}
    sizes = {name: number(dataset, keyword) or 0.0 for name, keyword in names.items()}
    fits = 0 < sizes["rows"] < 2**16 and 0 < sizes["columns"] < 2**16 and sizes["bits"] in (8.0, 16.0, 32.0)
    if not fits:
        raise _StopError("bad_size", measured=sizes)
    return int(sizes["rows"]) * int(sizes["columns"]) * int(sizes["bits"]) // 8
