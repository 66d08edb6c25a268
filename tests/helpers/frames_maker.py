"""Enhanced multi-frame files, mosaics and single images for tests."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from dicom_maker import OBLIQUE, make_slice, unit
from pydicom.dataset import Dataset, FileDataset

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def stack_pixels(count: int, seed: int = 0) -> np.ndarray:
    """Return (frames, 8 rows, 10 columns) of int16."""
    return np.random.default_rng(seed).integers(-50, 900, (count, 8, 10)).astype(np.int16)


def item(**values: Any) -> Dataset:
    """Return a dataset with these elements."""
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def make_enhanced(count: int = 5, *, times: int = 1, sop: str = ENHANCED_MR, **options: Any) -> FileDataset:
    """Return a file with `count` positions at `times` time points; frames of a time point run backwards."""
    dataset = make_slice(0, sop=sop, **options)
    orientation = unit(OBLIQUE)
    normal = np.cross(orientation[:3], orientation[3:])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    dataset.NumberOfFrames = count * times
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[round(v, 9) for v in orientation])],
        PixelMeasuresSequence=[item(PixelSpacing=[1.5, 1.25], SliceThickness=3, SpacingBetweenSlices=3)],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for time in range(times):
        for place in reversed(range(count)):
            position = np.array([-20.0, 30.0, 5.0]) + 3.0 * place * normal
            frames.append(
                item(
                    PlanePositionSequence=[
                        item(ImagePositionPatient=[round(v, 6) for v in position.tolist()])
                    ],
                    FrameContentSequence=[item(StackID="1", TemporalPositionIndex=time + 1)],
                    PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-7)],
                )
            )
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = stack_pixels(count * times).tobytes()
    return dataset


def csa_header(**values: list[str]) -> bytes:
    """Return a Siemens CSA header (version SV10) with these elements."""
    content = b"SV10\4\3\2\1" + struct.pack("<II", len(values), 77)
    for name, words in values.items():
        content += name.encode().ljust(64, b"\0")
        content += struct.pack("<I4sIII", len(words), b"FD\0\0", 0, max(6, len(words)), 77)
        for place in range(max(6, len(words))):
            word = words[place].encode() + b"\0" if place < len(words) else b""
            content += struct.pack("<4I", len(word), len(word), 77, len(word)) + word.ljust(
                -len(word) % 4 + len(word), b"\0"
            )
    return content


def make_mosaic(count: int = 7, *, upwards: bool = True, series: str = "1.2.3.4") -> FileDataset:
    """Return a Siemens mosaic of `count` tiles of 8 rows and 10 columns, 3 mm apart."""
    dataset = make_slice(0, series=series)
    across = int(np.ceil(np.sqrt(count)))
    orientation = np.array(unit(OBLIQUE))
    normal = np.cross(orientation[:3], orientation[3:]) * (1.0 if upwards else -1.0)
    picture = np.zeros((8 * across, 10 * across), np.int16)
    for tile, pixels in enumerate(stack_pixels(count)):
        row, column = tile // across * 8, tile % across * 10
        picture[row : row + 8, column : column + 10] = pixels
    dataset.Rows, dataset.Columns = picture.shape
    dataset.PixelData = picture.tobytes()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    dataset.Manufacturer, dataset.SpacingBetweenSlices = "SIEMENS", 3
    first = np.array([-20.0, 30.0, 5.0])
    half = orientation[:3] * 1.25 * (10 * across - 10) / 2 + orientation[3:] * 1.5 * (8 * across - 8) / 2
    dataset.ImagePositionPatient = [round(value, 6) for value in (first - half).tolist()]
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    words = [f"{value:.8f}" for value in normal]
    block.add_new(0x10, "OB", csa_header(NumberOfImagesInMosaic=[str(count)], SliceNormalVector=words))
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
    return dataset


def make_grid(count: int = 7, *, positions: bool = True) -> FileDataset:
    """Return a United Imaging grid of `count` tiles of 8 rows and 10 columns, 3 mm apart."""
    dataset = make_slice(0)
    across = int(np.ceil(np.sqrt(count)))
    down = int(np.ceil(count / across))
    picture = np.zeros((8 * down, 10 * across), np.int16)
    orientation = np.array(unit(OBLIQUE))
    normal = np.cross(orientation[:3], orientation[3:])
    places = [np.array([-20.0, 30.0, 5.0]) + 3.0 * tile * normal for tile in range(count)]
    for tile, pixels in enumerate(stack_pixels(count)):
        row, column = tile // across * 8, tile % across * 10
        picture[row : row + 8, column : column + 10] = pixels
    dataset.Rows, dataset.Columns = picture.shape
    dataset.PixelData = picture.tobytes()
    dataset.ImageType, dataset.Manufacturer = ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "UIH"
    dataset.SpacingBetweenSlices = 3
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(count))
    if positions:
        block.add_new(0x51, "SQ", [item(ImagePositionPatient=place.round(6).tolist()) for place in places])
    return dataset


def make_picture(sop: str, pixels: np.ndarray, **values: Any) -> FileDataset:
    """Return an image without a position in space."""
    dataset = make_slice(0, sop=sop)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 0, "RGB"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset
