"""The stored values of one slice, tile or frame, as pydicom decodes them; and that slice as its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.valuerep import format_number_as_ds

from medmim.data.dicom.header import Kind
from medmim.data.formats.geometry import Affine, dicom_geometry
from medmim.data.formats.safe_open import quiet_pydicom, read_dicom
from medmim.errors import DataError

Pixels = Shaped[np.ndarray, "rows columns"]
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
PIXEL_TAGS = (
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
_COPIED = PIXEL_TAGS[1:3] + PIXEL_TAGS[4:11]
_MR = "1.2.840.10008.5.1.4.1.1.4"


class Reader:
    """Decodes slices; the last file stays open, because tiles and frames of one file follow each other."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._path = ""
        self._dataset = pydicom.FileDataset("", {})
        self._tiles: Shaped[np.ndarray, "rows columns"] | None = None

    def decode(self, path: str, frame: int, size: tuple[int, int]) -> tuple[Pixels, float] | None:
        """Return the stored values of a slice, and by how much another decoder may differ.

        Args:
            path: the file.
            frame: place of the slice in the file.
            size: rows and columns of the slice.

        Returns:
            None if pydicom has no decoder for it.

        Raises:
            DataError: with reason pixels_unreadable or mixed_shape.
        """
        dataset = self.open(path)
        slack = 2.0 if dataset.file_meta.TransferSyntaxUID in _LOSSY else 0.0
        whole = self._tiles
        if whole is None:
            whole = _values(dataset, frame if self._kind == "frame" else 0)
        if whole is None:
            return None
        if self._kind == "tile":
            self._tiles = whole
            row, column = (
                place * length
                for place, length in zip(divmod(frame, whole.shape[1] // size[1]), size, strict=True)
            )
            whole = whole[row : row + size[0], column : column + size[1]]
        if whole.shape != tuple(size):
            raise DataError(
                "slice of another size than its header says; export it again", reason="mixed_shape"
            )
        return whole, slack

    def whole(self, path: str, frame: int) -> bytes:
        """Return a frame's stored values as bytes: their range, shape and order, not how they are packed.

        Raises:
            DataError: with reason no_decoder.
        """
        try:
            with quiet_pydicom():
                pixels = pixel_array(self.open(path), index=frame, raw=True)
        except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
            raise DataError(
                "no decoder for this compression here; export it uncompressed", reason="no_decoder"
            ) from error
        values: bytes = pixels.astype(np.int64).tobytes()
        return repr(pixels.shape).encode() + values

    def open(self, path: str) -> pydicom.FileDataset:
        """Return what a file says about its pixels."""
        if path != self._path:
            self._dataset, self._path, self._tiles = read_dicom(Path(path), PIXEL_TAGS), path, None
        return self._dataset


def has_decoder(syntax: uid.UID) -> bool:
    """Say whether pydicom can decode this compression here; what it then cannot decode is damaged."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # films, which nobody decodes as scans
        return False


def packing_fault(syntax: str, bits: float | None) -> str | None:
    """Return why nobody here can read pixels that are packed like this, or None.

    Args:
        syntax: transfer syntax; "" if the file does not say it.
        bits: bits in use of a pixel.
    """
    if syntax and not uid.UID(syntax).is_transfer_syntax:
        return "unknown_syntax"
    return "jpeg_12_bit" if syntax == uid.JPEGExtended12Bit and (bits or 0) > 8 else None


def write_alone(
    dataset: pydicom.FileDataset,
    frame: int,
    *,
    place: Affine,
    scale: tuple[float, float],
    target: Path,
    number: int = 1,
) -> None:
    """Write one frame as a file of one slice, for a converter that wants slices; nothing else goes into it.

    Args:
        dataset: the file that the frame is in.
        frame: its place there.
        place: (column, row, 0) to mm in RAS.
        scale: rescale slope and intercept.
        target: path of the new file.
        number: place of the slice in its stack, from 1.
    """
    meta = FileMetaDataset()
    syntax = dataset.file_meta.TransferSyntaxUID
    meta.TransferSyntaxUID = (
        syntax if syntax.is_encapsulated or not syntax.is_little_endian else uid.ExplicitVRLittleEndian
    )
    meta.MediaStorageSOPClassUID = _MR
    meta.MediaStorageSOPInstanceUID = f"2.25.1.{number}"
    alone = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    alone.SOPClassUID, alone.SOPInstanceUID = _MR, meta.MediaStorageSOPInstanceUID
    alone.StudyInstanceUID, alone.SeriesInstanceUID, alone.Modality = "2.25.1", "2.25.2", "MR"
    alone.SeriesNumber, alone.InstanceNumber = 1, number
    for name in _COPIED:
        if name in dataset:
            setattr(alone, name, dataset[name].value)
    orientation, spacing, position = dicom_geometry(place)
    alone.ImageOrientationPatient = [format_number_as_ds(value) for value in orientation]
    alone.PixelSpacing = [format_number_as_ds(value) for value in spacing]
    alone.ImagePositionPatient = [format_number_as_ds(value) for value in position]
    alone.SliceThickness = format_number_as_ds(float(np.linalg.norm(place[:3, 2])))
    alone.RescaleSlope, alone.RescaleIntercept = (format_number_as_ds(value) for value in scale)
    alone.PixelData = _bytes_of(dataset, frame)
    with quiet_pydicom():
        alone.save_as(target, enforce_file_format=True)


def _values(dataset: pydicom.FileDataset, frame: int) -> Pixels | None:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        with quiet_pydicom():
            pixels = pixel_array(dataset, index=frame, raw=True)
    except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
        if not has_decoder(syntax):
            return None  # dcm2niix has its own, and the geometry is still checked
        raise DataError("pixels cannot be decoded; export them again", reason="pixels_unreadable") from error
    if pixels.ndim != 2:
        raise DataError("expected one grey value a pixel, got several; convert to grey", reason="mixed_shape")
    grey: Pixels = pixels
    return grey


def _bytes_of(dataset: pydicom.FileDataset, frame: int) -> bytes:
    count = int(dataset.get("NumberOfFrames") or 1)
    content: bytes = dataset.PixelData
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return bytes(encapsulate([get_frame(content, frame, number_of_frames=count)]))
    samples = int(dataset.get("SamplesPerPixel") or 1)
    length = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8 * samples
    part = content[frame * length : (frame + 1) * length]
    return part + b"\0" * (len(part) % 2)
