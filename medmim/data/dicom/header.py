"""The header values of one DICOM slice. Only allow-listed elements are read, and no other value is kept."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
import pydicom
from pydantic import BaseModel, ConfigDict
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from medmim.data.dataset.series_tokens import tokens_of
from medmim.data.dicom import sop_classes
from medmim.data.dicom.pixel_data_element import RawPixelData
from medmim.data.dicom.pixel_padding import PADDING_TAGS, padding_range
from medmim.data.dicom.vendor_elements import VENDOR_TAGS, complex_part, has_reversed_rows, private_b_value
from medmim.data.formats import geometry
from medmim.errors import counted

# values of PatientID that programs write for anybody
_NO_PATIENT = re.compile(
    r"anon(ym(ous|i[sz]ed)?)?|unknown|none|null|nil|n/?a|patient ?id|0+|-+", re.IGNORECASE
)
_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "PatientID", "SeriesDescription", "ProtocolName", "SequenceName", "InstanceNumber",
    "BurnedInAnnotation", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation",
    "PixelSpacing", "ImagerPixelSpacing", *PADDING_TAGS[:2],
    "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "SpacingBetweenSlices", "EchoTime",
    "InversionTime", "TriggerTime", "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation",
    "TemporalPositionIdentifier", "FrameReferenceTime", "AcquisitionNumber", "AcquisitionTime",
    "ConvolutionKernel", "KVP",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "Units", "ModalityLUTSequence",
    "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence",
)  # fmt: skip
_UNIT = re.compile(r"[A-Z0-9_]{1,16}")
_CENTIMETRES = 3.0
MAX_ORIENTATION_FAULT = 0.01  # of direction cosines; more is no rounding
_ROUNDED = 1e-4  # less is left as it is

_SHARED = (
    "modality", "series", "study", "patient", "image_type", "tokens", "spacing", "orientation", "thickness",
    "slice_step", "echo_time", "inversion_time", "flip_angle", "acquisition_time", "kernel", "slope",
    "intercept", "repairs", "unit", "padding",
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
    pixels in the file. `rescaled` is whether the header has a rescale slope; `unit` is that of the values, as
    HU or BQML. `padding` is the range of stored values outside the scanned field. `reversed_rows`: the rows
    are stored bottom to top. `repairs` names contradictions in the header that were resolved.
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
    unit: str = ""
    number: float | None = None
    frame_time: float | None = None
    stack: str = ""
    burned_in_risk: bool = False
    inverted_display: bool = False
    reversed_rows: bool = False
    padding: tuple[float, float] | None = None
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
    return (*map(Tag, _KEYWORDS), *VENDOR_TAGS)


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
        patient="" if _NO_PATIENT.fullmatch(patient := text(dataset, "PatientID")) else patient,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        image_type=(*(str(word).upper() for word in values(dataset, "ImageType")), *complex_part(dataset)),
        tokens=tokens_of(
            text(dataset, name)
            for name in ("SeriesDescription", "ProtocolName", "SequenceName", "BodyPartExamined")
        ),
        spacing=numbers(dataset, "PixelSpacing", 2) or _detector_spacing(dataset, kind),
        orientation=orientation_of(dataset),
        position=numbers(dataset, "ImagePositionPatient", 3),
        thickness=number(dataset, "SliceThickness"),
        slice_step=number(dataset, "SpacingBetweenSlices"),
        **_acquisition(dataset),
        slope=1.0 if slope is None or slope == 0 else slope,
        intercept=number(dataset, "RescaleIntercept") or 0.0,
        rescaled=slope is not None,
        unit=_unit(dataset),
        number=number(dataset, "InstanceNumber"),
        frame_time=number(dataset, "FrameReferenceTime"),
        burned_in_risk=text(dataset, "BurnedInAnnotation").upper() == "YES"
        or sop_classes.has_burned_in_risk(text(dataset, "SOPClassUID")),
        inverted_display=text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        reversed_rows=has_reversed_rows(dataset, int(number(dataset, "TemporalPositionIdentifier") or 0)),
        padding=padding_range(*(values(dataset, name) for name in PADDING_TAGS)),
        repairs=repairs,
        raw=raw,
    )


def _unit(dataset: pydicom.Dataset) -> str:
    """Return the unit of the values, or "" if it is not stated or no code."""
    unit = (text(dataset, "Units") or text(dataset, "RescaleType")).upper()
    return unit if _UNIT.fullmatch(unit) and unit != "US" else ""  # US: unspecified


def _acquisition(dataset: pydicom.Dataset) -> dict[str, Any]:
    """Return the values that separate time points, echoes, diffusion weightings and reconstructions."""
    b_value = number(dataset, "DiffusionBValue")
    return {
        "echo_time": number(dataset, "EchoTime"),
        "inversion_time": number(dataset, "InversionTime"),
        "flip_angle": number(dataset, "FlipAngle"),
        "b_value": private_b_value(dataset) if b_value is None else b_value,
        "gradient": numbers(dataset, "DiffusionGradientOrientation", 3),
        "temporal_position": number(dataset, "TemporalPositionIdentifier"),
        "trigger_time": number(dataset, "TriggerTime"),
        "acquisition": number(dataset, "AcquisitionNumber"),
        "acquisition_time": text(dataset, "AcquisitionTime"),
        "kernel": tuple(map(str, values(dataset, "ConvolutionKernel"))),
        "kvp": number(dataset, "KVP"),
    }


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
    element = dataset.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement) and (plain := _plain_values(element)) is not None:
        return plain
    value = dataset[tag].value
    if value is None or value == "":
        return []
    single = isinstance(value, str | bytes | int | float | PersonName) or not hasattr(value, "__iter__")
    return [value] if single else list(value)


def _plain_values(raw: RawDataElement) -> list[Any] | None:
    """Return the values of an element of a simple type; None leaves the conversion to pydicom (slower)."""
    content = raw.value or b""
    kind = raw.VR or dictionary_VR(raw.tag)
    if kind == "US" and len(content) == 2:
        return [int.from_bytes(content, "little" if raw.is_little_endian else "big")]
    if kind not in ("CS", "DS", "UI"):
        return None
    words = content.decode("latin-1").rstrip(" \0").split("\\")
    if words == [""] or kind != "DS":
        return [] if words == [""] else list(words)
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


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
        raise ValueError(f"expected {counted(count, 'number')}, got {len(found)}")
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
