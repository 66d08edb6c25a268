"""The header values of one DICOM slice. Only allow-listed elements are read, and no other value is kept."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pydicom
from pydantic import BaseModel, ConfigDict
from pydicom.datadict import dictionary_VR
from pydicom.tag import BaseTag, Tag

from medmim.data.dataset.vocabulary import tokens_of
from medmim.data.dicom import sop_classes
from medmim.data.dicom.pixel_data import RawPixelData
from medmim.data.formats import geometry

_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "PatientID", "SeriesDescription", "ProtocolName", "SequenceName", "InstanceNumber",
    "BurnedInAnnotation", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation",
    "PixelSpacing", "ImagerPixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "SpacingBetweenSlices", "EchoTime",
    "InversionTime", "TriggerTime", "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation",
    "TemporalPositionIdentifier", "FrameReferenceTime", "AcquisitionNumber", "AcquisitionTime",
    "ConvolutionKernel", "KVP",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence",
)  # fmt: skip
_PRIVATE_B_VALUES = (
    (Tag(0x0019, 0x0010), "SIEMENS MR HEADER", Tag(0x0019, 0x100C)),
    (Tag(0x0043, 0x0010), "GEMS_PARM_01", Tag(0x0043, 0x1039)),
    (Tag(0x2001, 0x0010), "Philips Imaging DD 001", Tag(0x2001, 0x1003)),
)
_SIEMENS_MOSAIC = (Tag(0x0019, 0x0010), Tag(0x0019, 0x100A), Tag(0x0029, 0x0010), Tag(0x0029, 0x1010))
GRID_COUNT = Tag(0x0065, 0x1050)  # United Imaging: number of slices that one image contains
GRID_FRAMES = Tag(0x0065, 0x1051)  # United Imaging: one item for each of these slices
_GE_OWNER, _GE_PART = Tag(0x0043, 0x0010), Tag(0x0043, 0x102F)
_GE_PARTS = {0: (), 1: ("PHASE",), 2: ("REAL",), 3: ("IMAGINARY",)}
_GE_ACQUISITION, _GE_SEQUENCE, _GE_POLARITY = Tag(0x0019, 0x0010), Tag(0x0019, 0x109C), Tag(0x0019, 0x10B3)
_CENTIMETRES = 3.0
MAX_ORIENTATION_FAULT = 0.01  # of direction cosines; more is no rounding
_ROUNDED = 1e-4  # less is left as it is
_GE_B_VALUE_OFFSET = 1e5  # GE adds multiples of this number to a b-value

_SHARED = (
    "modality", "series", "study", "patient", "image_type", "tokens", "spacing", "orientation", "thickness",
    "slice_step", "echo_time", "inversion_time", "flip_angle", "acquisition_time", "kernel", "slope",
    "intercept", "repairs",
)  # fmt: skip
_NO_FIELDS: set[str] = set()  # replaces pydantic's set of given fields, which nothing uses

Kind = Literal["slice", "tile", "frame", "picture"]


@functools.lru_cache(maxsize=4096, typed=True)
def _shared_copy(value: Hashable) -> Hashable:
    """Return the cached object that equals `value`."""
    return value


class Header(BaseModel):
    """Patient, position and acquisition of one slice.

    Lengths are in mm, times in ms; directions and positions are in LPS, as in DICOM. None: absent from the
    header. A file contains one slice, the tiles of a mosaic, several frames, or an image without a position
    in space (`picture`). `frame` is the index of the tile or frame in its file. `raw` locates uncompressed
    pixels in the file. `rescaled` is whether the header has a rescale slope. `reversed_rows`: the rows are
    stored bottom to top. `repairs` names contradictions in the header that were resolved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "slice"
    frame: int = 0
    modality: str
    instance: str
    series: str
    study: str
    patient: str
    rows: int
    columns: int
    image_type: tuple[str, ...]
    tokens: tuple[str, ...]
    spacing: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    thickness: float | None
    slice_step: float | None
    echo_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    b_value: float | None
    gradient: tuple[float, ...] | None
    temporal_position: float | None
    trigger_time: float | None
    acquisition: float | None
    acquisition_time: str
    kernel: tuple[str, ...] = ()
    kvp: float | None = None
    slope: float
    intercept: float
    rescaled: bool = True
    number: float | None = None
    frame_time: float | None = None
    stack: str = ""
    burned_in_risk: bool = False
    inverted_display: bool = False
    reversed_rows: bool = False
    repairs: tuple[str, ...] = ()
    raw: RawPixelData | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Share equal values between slices: a hospital's folder contains a million of them."""
        for name in _SHARED:
            self.__dict__[name] = _shared_copy(self.__dict__[name])
        object.__setattr__(self, "__pydantic_fields_set__", _NO_FIELDS)


@functools.cache
def allowed_tags() -> tuple[BaseTag, ...]:
    """Return the tags of all elements that may be read."""
    private = (tag for creator, _, value in _PRIVATE_B_VALUES for tag in (creator, value))
    vendor = (GRID_COUNT, GRID_FRAMES, _GE_OWNER, _GE_PART, _GE_ACQUISITION, _GE_SEQUENCE, _GE_POLARITY)
    return (*map(Tag, _KEYWORDS), *private, *_SIEMENS_MOSAIC, *vendor)


def header_of(dataset: pydicom.Dataset, kind: Kind = "slice", *, raw: RawPixelData | None = None) -> Header:
    """Return the header of a slice or single image.

    Args:
        dataset: the allowed elements of a file.
        kind: for a mosaic or multi-frame file, the result contains what its slices share.
        raw: location of the pixels, if they are uncompressed.

    Raises:
        ValueError, TypeError: if a value has the wrong type; the text may quote it and must not be shown.
    """
    slope = number(dataset, "RescaleSlope")
    # the standard allows no slope of 0: the stored values are kept, as dcm2niix does
    repairs = ("zero_slope_ignored",) if slope == 0 else ()
    return Header(
        kind=kind,
        modality=sop_classes.modality_of(text(dataset, "SOPClassUID")),
        instance=text(dataset, "SOPInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        study=text(dataset, "StudyInstanceUID"),
        patient=text(dataset, "PatientID"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        image_type=(*(str(word).upper() for word in values(dataset, "ImageType")), *_complex_part(dataset)),
        tokens=tokens_of(
            text(dataset, name)
            for name in ("SeriesDescription", "ProtocolName", "SequenceName", "BodyPartExamined")
        ),
        spacing=numbers(dataset, "PixelSpacing", 2) or _detector_spacing(dataset, kind),
        orientation=orientation_of(dataset),
        position=numbers(dataset, "ImagePositionPatient", 3),
        thickness=number(dataset, "SliceThickness"),
        slice_step=number(dataset, "SpacingBetweenSlices"),
        echo_time=number(dataset, "EchoTime"),
        inversion_time=number(dataset, "InversionTime"),
        flip_angle=number(dataset, "FlipAngle"),
        b_value=_b_value(dataset),
        gradient=numbers(dataset, "DiffusionGradientOrientation", 3),
        temporal_position=number(dataset, "TemporalPositionIdentifier"),
        trigger_time=number(dataset, "TriggerTime"),
        acquisition=number(dataset, "AcquisitionNumber"),
        acquisition_time=text(dataset, "AcquisitionTime"),
        kernel=tuple(map(str, values(dataset, "ConvolutionKernel"))),
        kvp=number(dataset, "KVP"),
        slope=1.0 if slope is None or slope == 0 else slope,
        intercept=number(dataset, "RescaleIntercept") or 0.0,
        rescaled=slope is not None,
        number=number(dataset, "InstanceNumber"),
        frame_time=number(dataset, "FrameReferenceTime"),
        burned_in_risk=text(dataset, "BurnedInAnnotation").upper() == "YES"
        or sop_classes.has_burned_in_risk(text(dataset, "SOPClassUID")),
        inverted_display=text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        reversed_rows=_has_reversed_rows(dataset),
        repairs=repairs,
        raw=raw,
    )


def _detector_spacing(dataset: pydicom.Dataset, kind: Kind) -> tuple[float, ...] | None:
    """Return the pixel spacing of a single image from its detector or ultrasound region, in mm."""
    if kind != "picture":
        return None
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) == 1 and number(regions[0], "PhysicalUnitsXDirection") == _CENTIMETRES:
        rows, columns = number(regions[0], "PhysicalDeltaY"), number(regions[0], "PhysicalDeltaX")
        if rows and columns:
            return abs(rows) * 10, abs(columns) * 10
    return numbers(dataset, "ImagerPixelSpacing", 2)


@functools.cache
def _tag_of(keyword: str) -> BaseTag:
    """Return the tag of an element; pydicom would look it up for each attribute."""
    return Tag(keyword)


def values(dataset: pydicom.Dataset, keyword: str) -> list[Any]:
    """Return the values of an element, or an empty list."""
    tag = _tag_of(keyword)
    if tag not in dataset:
        return []
    value = dataset[tag].value
    if value is None or value == "":
        return []
    single = isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__")
    return [value] if single else list(value)


def replace_decimal_commas(dataset: pydicom.Dataset) -> bool:
    """Replace decimal commas ("0,8") in decimal strings by points; return whether there were any."""
    found = False
    for keyword in _KEYWORDS:
        if keyword in dataset and dictionary_VR(keyword) == "DS":
            texts = [str(value) for value in values(dataset, keyword)]
            if any("," in one for one in texts):
                setattr(dataset, keyword, [one.replace(",", ".") for one in texts])
                found = True
    return found


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Return the first value of an element as text without padding, or an empty text."""
    found = values(dataset, keyword)
    return str(found[0]).strip(" \0") if found else ""


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return the first value of an element as a number, or None."""
    found = values(dataset, keyword)
    return float(found[0]) + 0.0 if found else None  # + 0.0 turns -0 into 0, for equal bytes of equal headers


def numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return the `count` numbers of an element, or None if it is absent or empty."""
    found = values(dataset, keyword)
    if found and len(found) != count:
        raise ValueError(f"expected {count} numbers, got {len(found)}")
    return tuple(float(value) + 0.0 for value in found) or None


def orientation_of(dataset: pydicom.Dataset) -> tuple[float, ...] | None:
    """Return ImageOrientationPatient; cosines that were rounded to few digits are made orthonormal again."""
    found = numbers(dataset, "ImageOrientationPatient", 6)
    if found is None or not _ROUNDED < geometry.orthogonality_error(found) < MAX_ORIENTATION_FAULT:
        return found
    row, column = np.array(found[:3]), np.array(found[3:])
    row /= np.linalg.norm(row)
    column -= row * (row @ column)
    return (*row.tolist(), *(column / np.linalg.norm(column)).tolist())


def private_text(dataset: pydicom.Dataset, tag: BaseTag) -> str:
    """Return the value of a private element as text, or an empty text; its type cannot be relied on."""
    value = dataset[tag].value if tag in dataset else ""
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def _b_value(dataset: pydicom.Dataset) -> float | None:
    """Return the b-value in s/mm² from the standard element or a vendor's private one."""
    if (value := number(dataset, "DiffusionBValue")) is not None:
        return value
    for creator, owner, tag in _PRIVATE_B_VALUES:
        if tag in dataset and private_text(dataset, creator) == owner:
            return _first_number(dataset[tag].value)
    return None


def _complex_part(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """Return the part of a complex value that GE stores here and that the image type does not name."""
    if _GE_PART not in dataset or private_text(dataset, _GE_OWNER) != "GEMS_PARM_01":
        return ()
    value = dataset[_GE_PART].value
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "little", signed=True)
    return _GE_PARTS.get(int(value), ("OTHER_PART",))


def _has_reversed_rows(dataset: pydicom.Dataset) -> bool:
    """Return whether GE's `epi_pepolar` sequence stored this volume upside down, against its own header.

    The sequence acquires volumes with either phase-encoding polarity and stores the reversed ones with their
    rows in reverse order. Scheme 1: all volumes are reversed; 2: the odd ones; 3: the even ones.
    """
    if "GEMS_ACQU_01" not in private_text(dataset, _GE_ACQUISITION):
        return False
    if "epi_pepolar" not in private_text(dataset, _GE_SEQUENCE):
        return False
    scheme = _first_number(private_text(dataset, _GE_POLARITY))
    volume = int(number(dataset, "TemporalPositionIdentifier") or 0)
    return scheme == 1 or (volume > 0 and (scheme, volume % 2) in ((2, 1), (3, 0)))


def _first_number(value: Any) -> float | None:
    """Return the number at the start of a private element."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else ""
    found = re.match(r"\s*-?\d+(\.\d+)?", str(value))
    return float(found.group()) % _GE_B_VALUE_OFFSET if found else None
