"""The allow-listed facts of one DICOM image; no other value of a header leaves the function that reads it."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import pydicom
from pydantic import BaseModel, ConfigDict
from pydicom.tag import BaseTag, Tag

from medmim.data.dataset.vocabulary import tokens_of
from medmim.data.dicom import sop_classes
from medmim.data.dicom.pixel_data import RawPixelData

_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "PatientID", "SeriesDescription", "ProtocolName", "SequenceName", "InstanceNumber",
    "BurnedInAnnotation", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation",
    "PixelSpacing", "ImagerPixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "SpacingBetweenSlices", "EchoTime",
    "InversionTime", "TriggerTime", "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation",
    "TemporalPositionIdentifier", "FrameReferenceTime", "AcquisitionNumber", "AcquisitionTime",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence",
)  # fmt: skip
_PRIVATE_B_VALUES = (
    (Tag(0x0019, 0x0010), "SIEMENS MR HEADER", Tag(0x0019, 0x100C)),
    (Tag(0x0043, 0x0010), "GEMS_PARM_01", Tag(0x0043, 0x1039)),
    (Tag(0x2001, 0x0010), "Philips Imaging DD 001", Tag(0x2001, 0x1003)),
)
_MOSAIC = (Tag(0x0019, 0x0010), Tag(0x0019, 0x100A), Tag(0x0029, 0x0010), Tag(0x0029, 0x1010))
VENDOR_GRID = Tag(0x0065, 0x1050)  # United Imaging: number of slices laid out in one picture
_GE_OWNER, _GE_PART = Tag(0x0043, 0x0010), Tag(0x0043, 0x102F)
_GE_PARTS = {0: (), 1: ("PHASE",), 2: ("REAL",), 3: ("IMAGINARY",)}
_CENTIMETRES = 3.0
_GE_FLAG = 1e5  # GE adds multiples of this to a b-value


_SHARED = (
    "modality", "series", "study", "patient", "image_type", "tokens", "spacing", "orientation", "thickness",
    "slice_step", "echo_time", "inversion_time", "flip_angle", "acquisition_time", "slope", "intercept",
)  # fmt: skip
_NO_FIELDS: set[str] = set()  # pydantic's note of which fields were given, that nobody asks for; never filled


@functools.lru_cache(maxsize=4096, typed=True)
def _one_copy(value: Hashable) -> Hashable:
    """Return the first value that equals this one and was not forgotten since."""
    return value


Kind = Literal["slice", "tile", "frame", "picture"]


class Header(BaseModel):
    """One slice: who it belongs to, where it lies, and what tells it from others of its series.

    Lengths in mm, times in ms, directions and positions in LPS as in DICOM. None: the header does not say.
    A file holds one slice, the tiles of a mosaic, several frames, or a picture that lies nowhere in space;
    `frame` is the place of tile or frame in its file, from 0; `raw` where the pixels of an uncompressed slice
    lie.
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
    slope: float
    intercept: float
    number: float | None = None
    frame_time: float | None = None
    stack: str = ""
    risky: bool = False
    raw: RawPixelData | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Keep one copy of what slices share: a hospital's folder holds a million of them."""
        for name in _SHARED:
            self.__dict__[name] = _one_copy(self.__dict__[name])
        object.__setattr__(self, "__pydantic_fields_set__", _NO_FIELDS)


@functools.cache
def allowed_tags() -> tuple[BaseTag, ...]:
    """Return every tag that may be read."""
    private = (tag for creator, _, value in _PRIVATE_B_VALUES for tag in (creator, value))
    return (*map(Tag, _KEYWORDS), *private, *_MOSAIC, VENDOR_GRID, _GE_OWNER, _GE_PART)


def header_of(dataset: pydicom.Dataset, kind: Kind = "slice", *, raw: RawPixelData | None = None) -> Header:
    """Return the facts of a slice or picture.

    Args:
        dataset: the allowed elements of a file.
        kind: of a mosaic or a multi-frame file these are the facts that its slices share.
        raw: where the pixels lie, if they need no decoder.

    Raises:
        ValueError, TypeError: if a value is not of its kind; the text may quote it, so nobody may show it.
    """
    return Header(
        kind=kind,
        modality=sop_classes.modality_of(text(dataset, "SOPClassUID")),
        instance=text(dataset, "SOPInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        study=text(dataset, "StudyInstanceUID"),
        patient=text(dataset, "PatientID"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        image_type=(*(str(word).upper() for word in words(dataset, "ImageType")), *_complex_part(dataset)),
        tokens=tokens_of(
            text(dataset, name)
            for name in ("SeriesDescription", "ProtocolName", "SequenceName", "BodyPartExamined")
        ),
        spacing=numbers(dataset, "PixelSpacing", 2) or _detector_spacing(dataset, kind),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
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
        slope=_or(number(dataset, "RescaleSlope"), 1.0),
        intercept=_or(number(dataset, "RescaleIntercept"), 0.0),
        number=number(dataset, "InstanceNumber"),
        frame_time=number(dataset, "FrameReferenceTime"),
        risky=text(dataset, "BurnedInAnnotation").upper() == "YES"
        or sop_classes.risky(text(dataset, "SOPClassUID")),
        raw=raw,
    )


def _detector_spacing(dataset: pydicom.Dataset, kind: Kind) -> tuple[float, ...] | None:
    """Return the spacing of a picture by its detector or ultrasound region, in mm."""
    if kind != "picture":
        return None
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) == 1 and number(regions[0], "PhysicalUnitsXDirection") == _CENTIMETRES:
        sides = number(regions[0], "PhysicalDeltaY"), number(regions[0], "PhysicalDeltaX")
        if sides[0] and sides[1]:
            return abs(sides[0]) * 10, abs(sides[1]) * 10
    return numbers(dataset, "ImagerPixelSpacing", 2)


@functools.cache
def _tag_of(keyword: str) -> BaseTag:
    """Return an element's tag; pydicom would look it up anew for every attribute."""
    return Tag(keyword)


def words(dataset: pydicom.Dataset, keyword: str) -> list[Any]:
    """Return the values of an element as a list, empty when there is none."""
    tag = _tag_of(keyword)
    if tag not in dataset:
        return []
    value = dataset[tag].value
    if value is None or value == "":
        return []
    return (
        [value]
        if isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__")
        else list(value)
    )


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Return the first value as text without padding, empty when there is none."""
    found = words(dataset, keyword)
    return str(found[0]).strip(" \0") if found else ""


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return the first value as a number, None when there is none."""
    found = words(dataset, keyword)
    return float(found[0]) + 0.0 if found else None  # there is one zero: -0 would make other bytes of a file


def numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return `count` numbers, None when there are none."""
    found = words(dataset, keyword)
    if found and len(found) != count:
        raise ValueError("another count of numbers")
    return tuple(float(value) + 0.0 for value in found) or None


def _b_value(dataset: pydicom.Dataset) -> float | None:
    """Return the diffusion weighting in s/mm², from the standard element or the vendor's own."""
    if (value := number(dataset, "DiffusionBValue")) is not None:
        return value
    for creator, owner, tag in _PRIVATE_B_VALUES:
        if tag in dataset and creator in dataset and str(dataset[creator].value).strip() == owner:
            return _first_number(dataset[tag].value)
    return None


def _complex_part(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """Return which part of a complex value GE stores here, which its image type does not say."""
    if _GE_PART not in dataset or _GE_OWNER not in dataset:
        return ()
    if str(dataset[_GE_OWNER].value).strip() != "GEMS_PARM_01":
        return ()
    value = dataset[_GE_PART].value
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "little", signed=True)
    return _GE_PARTS.get(int(value), ("OTHER_PART",))


def _first_number(value: Any) -> float | None:
    """Return the number that a private element starts with; their types are not to be relied on."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else ""
    found = re.match(r"\s*-?\d+(\.\d+)?", str(value))
    return float(found.group()) % _GE_FLAG if found else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
