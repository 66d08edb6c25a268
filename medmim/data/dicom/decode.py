"""Decoding of slices, tiles and frames to their stored values, and single frames as separate files."""

from __future__ import annotations

import importlib.util
import tempfile
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
from medmim.errors import DataError, size_text

Pixels = Shaped[np.ndarray, "rows columns"]
PIXEL_TAGS = (
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
_COPIED = PIXEL_TAGS[1:3] + PIXEL_TAGS[4:11]
_MR = "1.2.840.10008.5.1.4.1.1.4"
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
GDCM_SYNTAXES = {uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1}  # no MIT plugin of pydicom
_DECODER_ERRORS = (RuntimeError, NotImplementedError, ValueError, AttributeError)


class Reader:
    """Decodes slices. The last file stays in memory, because tiles and frames of a file follow each other."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._path = ""
        self._dataset = pydicom.FileDataset("", {})
        self._mosaic: Pixels | None = None

    def decode(self, path: str, frame: int, size: tuple[int, int]) -> tuple[Pixels, float] | None:
        """Return the stored values of a slice, and by how much another decoder's values may differ.

        Args:
            size: rows and columns of the slice.

        Returns:
            None if no decoder is available.

        Raises:
            DataError: with reason pixels_unreadable, high_bit_contradiction or mixed_shape.
        """
        dataset = self.open(path)
        slack = 2.0 if dataset.file_meta.TransferSyntaxUID in _LOSSY else 0.0
        pixels = self._mosaic
        if pixels is None:
            pixels = decode_frame(dataset, frame if self._kind == "frame" else 0)
        if pixels is None:
            return None
        if self._kind == "tile":
            self._mosaic = pixels
            row, column = divmod(frame, pixels.shape[1] // size[1])
            top, left = row * size[0], column * size[1]
            pixels = pixels[top : top + size[0], left : left + size[1]]
        if pixels.shape != tuple(size):
            expected, got = (size_text(shape) for shape in (size, pixels.shape))
            raise DataError(
                f"slice: expected {expected} pixels as in its header, got {got}; export it again",
                reason="mixed_shape",
            )
        return pixels, slack

    def frame(self, path: str, frame: int) -> Shaped[np.ndarray, "..."]:
        """Return the decoded array of a frame, grey or colour.

        Raises:
            DataError: with reason no_decoder.
        """
        try:
            with quiet_pydicom():
                pixels: Shaped[np.ndarray, "..."] = pixel_array(self.open(path), index=frame, raw=True)
                return pixels
        except _DECODER_ERRORS as error:
            raise DataError(
                "no decoder for this compression is installed: run `pip install 'medmim[itk]'`, or export it "
                "uncompressed",
                reason="no_decoder",
            ) from error

    def open(self, path: str) -> pydicom.FileDataset:
        """Return the pixel module of a file."""
        if path != self._path:
            self._dataset, self._path, self._mosaic = read_pixels(path), path, None
        return self._dataset


def read_pixels(path: str, tags: tuple[str, ...] = PIXEL_TAGS) -> pydicom.FileDataset:
    """Read a file's pixels, uncompressed ones as such even if the transfer syntax calls them compressed."""
    dataset = read_dicom(Path(path), tags)
    meta = dataset.file_meta
    if meta.TransferSyntaxUID.is_encapsulated and not dataset["PixelData"].is_undefined_length:
        meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian  # the scan compared its length
    return dataset


def has_decoder(syntax: uid.UID) -> bool:
    """Return whether pydicom can decode this compression; if it then fails, the pixels are damaged.

    Without SimpleITK, 12-bit JPEG cannot be decoded, although pydicom has a decoder of 8-bit JPEG.
    """
    if syntax in GDCM_SYNTAXES and importlib.util.find_spec("SimpleITK") is None:
        return False
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # video, which holds no scans
        return False


def packing_fault(syntax: str) -> str | None:
    """Return the reason why pixels of this transfer syntax ("" if unknown) cannot be read, or None."""
    return "unknown_syntax" if syntax and not uid.UID(syntax).is_transfer_syntax else None


def write_frame(
    dataset: pydicom.FileDataset,
    frame: int,
    *,
    place: Affine,
    scale: tuple[float, float],
    target: Path,
    number: int = 1,
) -> None:
    """Write one frame as a single-slice file for a converter; nothing else of the source is written.

    Args:
        place: (column, row, 0) to mm in RAS.
        scale: rescale slope and intercept.
        number: index of the slice in its stack, from 1.
    """
    meta = FileMetaDataset()
    syntax = dataset.file_meta.TransferSyntaxUID
    kept = syntax.is_encapsulated or not syntax.is_little_endian
    meta.TransferSyntaxUID = syntax if kept else uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = _MR
    meta.MediaStorageSOPInstanceUID = f"2.25.1.{number}"
    single = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    single.SOPClassUID, single.SOPInstanceUID = _MR, meta.MediaStorageSOPInstanceUID
    single.StudyInstanceUID, single.SeriesInstanceUID, single.Modality = "2.25.1", "2.25.2", "MR"
    single.SeriesNumber, single.InstanceNumber = 1, number
    for name in _COPIED:
        if name in dataset:
            setattr(single, name, dataset[name].value)
    orientation, spacing, position = dicom_geometry(place)
    single.ImageOrientationPatient = [format_number_as_ds(value) for value in orientation]
    single.PixelSpacing = [format_number_as_ds(value) for value in spacing]
    single.ImagePositionPatient = [format_number_as_ds(value) for value in position]
    single.SliceThickness = format_number_as_ds(float(np.linalg.norm(place[:3, 2])))
    single.RescaleSlope, single.RescaleIntercept = (format_number_as_ds(value) for value in scale)
    single.PixelData = _frame_bytes(dataset, frame)
    with quiet_pydicom():
        single.save_as(target, enforce_file_format=True)


def decode_frame(dataset: pydicom.FileDataset, frame: int) -> Pixels | None:
    """Return the stored values of a grey frame, or None if no decoder is available.

    Raises:
        DataError: with reason pixels_unreadable, high_bit_contradiction or mixed_shape.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        with quiet_pydicom():
            pixels: Pixels = pixel_array(dataset, index=frame, raw=True)
    except _DECODER_ERRORS as error:
        decoded = _decode_with_gdcm(dataset, frame) if syntax in GDCM_SYNTAXES else None
        if decoded is None and has_decoder(syntax):
            raise DataError(
                "pixels cannot be decoded; export them again", reason="pixels_unreadable"
            ) from error
        return decoded
    if pixels.ndim != 2:
        raise DataError("expected one grey value a pixel, got several; convert to grey", reason="mixed_shape")
    _check_high_bit(dataset, frame, pixels)
    _check_unused_bits(dataset, frame, pixels)
    return pixels


def _decode_with_gdcm(dataset: pydicom.FileDataset, frame: int) -> Pixels | None:
    """Decode a frame with SimpleITK's GDCM, which reads 12-bit and lossless JPEG; None without SimpleITK."""
    try:
        sitk = importlib.import_module("SimpleITK")  # large, and rarely needed
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        write_frame(dataset, frame, place=np.eye(4), scale=(1.0, 0.0), target=path)
        try:
            stack = np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO")))
        except RuntimeError:
            return None
    pixels: Pixels | None = stack[0] if stack.ndim == 3 else None
    return pixels


def _check_high_bit(dataset: pydicom.FileDataset, frame: int, pixels: Pixels) -> None:
    """Refuse values that differ between the header's two contradicting numbers of bits.

    The standard requires HighBit = BitsStored - 1. Otherwise, values that need no more bits than the smaller
    number are the same either way.
    """
    bits, high = int(dataset.get("BitsStored") or 0), dataset.get("HighBit")
    if not bits or high is None or high == bits - 1:
        return
    signed = bool(dataset.get("PixelRepresentation"))
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:  # pydicom clears what BitsStored excludes
        pixels = _words_of(dataset, frame, pixels)
    used = min(bits, int(high) + 1) - signed
    if pixels.min() < (-(1 << used) if signed else 0) or pixels.max() >= 1 << used:
        raise DataError(
            f"HighBit is {high} and BitsStored {bits}, expected {bits - 1}: the values depend on which is "
            "right; export the series again",
            reason="high_bit_contradiction",
        )


def _check_unused_bits(dataset: pydicom.FileDataset, frame: int, pixels: Pixels) -> None:
    """Refuse unsigned values that need more bits than BitsStored, which decoders clear.

    Lines of an old overlay in the upper bits are cleared as they should be: without them, neighbouring pixels
    differ less. Values that are too large differ more once their upper bits are cleared.
    """
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or dataset.get("PixelRepresentation"):
        return
    words = _words_of(dataset, frame, pixels)
    if not np.array_equal(words, pixels) and _variation(words) < _variation(pixels):
        raise DataError(
            f"values need more than the {dataset.get('BitsStored')} bits of BitsStored: expected smaller "
            "ones; export the series again",
            reason="bits_stored_contradiction",
        )


def _variation(pixels: Pixels) -> int:
    """Return the sum of differences between neighbouring pixels."""
    values = pixels.astype(np.int64)
    return sum(int(np.abs(np.diff(values, axis=axis)).sum()) for axis in (0, 1))


def _words_of(dataset: pydicom.FileDataset, frame: int, pixels: Pixels) -> Pixels:
    """Return the values of an uncompressed frame with all their bits."""
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    content = _frame_bytes(dataset, frame)[: pixels.size * pixels.dtype.itemsize]
    words = np.frombuffer(content, pixels.dtype.newbyteorder("<" if little else ">"))
    return words.reshape(pixels.shape).astype(pixels.dtype)


def _frame_bytes(dataset: pydicom.FileDataset, frame: int) -> bytes:
    count = int(dataset.get("NumberOfFrames") or 1)
    content: bytes = dataset.PixelData
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return bytes(encapsulate([get_frame(content, frame, number_of_frames=count)]))
    samples = int(dataset.get("SamplesPerPixel") or 1)
    length = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8 * samples
    part = content[frame * length : (frame + 1) * length]
    return part + b"\0" * (len(part) % 2)
