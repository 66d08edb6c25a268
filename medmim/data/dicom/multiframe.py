"""Files with many frames: where each frame lies and what tells it from others, by its functional groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom

from medmim.data.dicom.header import Header, header_of, number, numbers, text, words
from medmim.data.formats import geometry

_TYPES = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)  # fmt: skip
_CENTRE_STEP = "SpacingBetweenSlices"
_MOST_FRAMES = 1e6  # numbers of frames stay apart when a series has a file for each time


class _Groups:
    """The functional groups of one frame: its own first, then those that all frames share."""

    def __init__(self, *levels: pydicom.Dataset) -> None:
        self._levels = levels

    def item(self, *names: str) -> pydicom.Dataset:
        """Return the first item of the first sequence that is there, or an empty one."""
        for level in self._levels:
            for name in names:
                if found := level.get(name):
                    return found[0]
        return pydicom.Dataset()


def frame_headers(dataset: pydicom.Dataset) -> list[Header]:
    """Return the facts of each frame.

    Raises:
        ValueError: if the groups are not one for each frame, or a value is not of its kind.
    """
    whole = header_of(dataset, "frame")
    count = int(number(dataset, "NumberOfFrames") or 1)
    each = dataset.get("PerFrameFunctionalGroupsSequence")
    if not each and "DetectorInformationSequence" in dataset:
        return _tomographic(dataset, whole, count)
    if not each or len(each) != count:
        raise ValueError("another number of functional groups than frames")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return [_frame(whole, place, _Groups(own, shared)) for place, own in enumerate(each)]


def _frame(whole: Header, place: int, groups: _Groups) -> Header:
    measures = groups.item("PixelMeasuresSequence")
    update: dict[str, Any] = {
        "frame": place,
        "number": (whole.number or 0.0) * _MOST_FRAMES + place,
        "position": numbers(groups.item("PlanePositionSequence"), "ImagePositionPatient", 3),
        "orientation": numbers(groups.item("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        "spacing": numbers(measures, "PixelSpacing", 2),
        "thickness": number(measures, "SliceThickness"),
        "slice_step": number(measures, _CENTRE_STEP),
        **_times(whole, groups),
        **_diffusion(whole, groups),
    }
    scale = groups.item("PixelValueTransformationSequence")
    slope, intercept = number(scale, "RescaleSlope"), number(scale, "RescaleIntercept")
    update["slope"] = whole.slope if slope is None else slope
    update["intercept"] = whole.intercept if intercept is None else intercept
    if frame_type := groups.item(*_TYPES):
        kinds = [*words(frame_type, "FrameType"), text(frame_type, "ComplexImageComponent")]
        update["image_type"] = tuple(str(word).upper() for word in kinds if word)
        if "MOSAIC" in update["image_type"]:
            raise ValueError("a frame that is a mosaic")
    return whole.model_copy(update=update)


def _times(whole: Header, groups: _Groups) -> dict[str, Any]:
    content = groups.item("FrameContentSequence")
    timing = groups.item("MRTimingAndRelatedParametersSequence")
    inversion = groups.item("MRModifierSequence")
    return {
        "stack": text(content, "StackID"),
        "temporal_position": number(content, "TemporalPositionIndex"),
        "acquisition": _or(number(content, "FrameAcquisitionNumber"), whole.acquisition),
        "acquisition_time": text(content, "FrameAcquisitionDateTime"),
        "trigger_time": number(
            groups.item("CardiacSynchronizationSequence", "CardiacTriggerSequence"),
            "NominalCardiacTriggerDelayTime",
        ),
        "echo_time": _or(number(groups.item("MREchoSequence"), "EffectiveEchoTime"), whole.echo_time),
        "flip_angle": _or(number(timing, "FlipAngle"), whole.flip_angle),
        "inversion_time": _or(number(inversion, "InversionTimes"), whole.inversion_time),
    }


def _diffusion(whole: Header, groups: _Groups) -> dict[str, Any]:
    diffusion = groups.item("MRDiffusionSequence")
    direction = (diffusion.get("DiffusionGradientDirectionSequence") or [pydicom.Dataset()])[0]
    return {
        "b_value": _or(number(diffusion, "DiffusionBValue"), whole.b_value),
        "gradient": numbers(direction, "DiffusionGradientOrientation", 3),
    }


def _tomographic(dataset: pydicom.Dataset, whole: Header, count: int) -> list[Header]:
    """Return frames of reconstructed nuclear medicine: one stack from one detector, evenly spaced.

    Raises:
        ValueError: for planar and dynamic images, whose frames lie nowhere in space.
    """
    detector = (dataset.get("DetectorInformationSequence") or [pydicom.Dataset()])[0]
    orientation = whole.orientation or numbers(detector, "ImageOrientationPatient", 6)
    position = whole.position or numbers(detector, "ImagePositionPatient", 3)
    step = whole.slice_step or whole.thickness
    if "TOMO" not in "".join(whole.image_type) or not (orientation and position and step):
        raise ValueError("frames without a place in space")
    normal = geometry.slice_normal(orientation)
    places = [np.asarray(position) + place * step * normal for place in range(count)]
    return [
        whole.model_copy(
            update={
                "frame": place,
                "number": float(place),
                "orientation": orientation,
                "position": tuple(where.tolist()),
            }
        )
        for place, where in enumerate(places)
    ]


def _or(value: float | None, default: float | None) -> float | None:
    return default if value is None else value
