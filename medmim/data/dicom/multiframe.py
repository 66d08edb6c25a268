"""Multi-frame files: the position and acquisition of each frame, from its functional groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom

from medmim.data.dicom.header import Header, header_of, number, numbers, orientation_of, text, values
from medmim.data.formats import geometry

_TYPES = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)  # fmt: skip
_MAX_FRAMES = 1e6  # keeps the numbers of frames apart if a series has one file for each time point


class _Groups:
    """The functional groups of one frame: its own first, then those that all frames share."""

    def __init__(self, *levels: pydicom.Dataset) -> None:
        self._levels = levels

    def item(self, *names: str) -> pydicom.Dataset:
        """Return the first item of the first sequence that is present, or an empty dataset."""
        for level in self._levels:
            for name in names:
                if found := level.get(name):
                    return found[0]
        return pydicom.Dataset()

    def number(self, sequences: tuple[str, ...], keyword: str, default: float | None = None) -> float | None:
        """Return a number of a functional group, or `default`."""
        found = number(self.item(*sequences), keyword)
        return default if found is None else found


def frame_headers(dataset: pydicom.Dataset) -> list[Header]:
    """Return the header of each frame.

    Raises:
        ValueError: if frames and functional groups differ in number, or a value has the wrong type.
    """
    whole = header_of(dataset, "frame")
    count = int(number(dataset, "NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if not per_frame and "DetectorInformationSequence" in dataset:
        return _tomographic(dataset, whole, count)
    if not per_frame or len(per_frame) != count:
        raise ValueError("the numbers of frames and functional groups differ")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return [_frame(whole, index, _Groups(own, shared)) for index, own in enumerate(per_frame)]


def _frame(whole: Header, index: int, groups: _Groups) -> Header:
    measures = groups.item("PixelMeasuresSequence")
    scale = ("PixelValueTransformationSequence",)
    slope = groups.number(scale, "RescaleSlope", whole.slope)
    update: dict[str, Any] = {
        "frame": index,
        "number": (whole.number or 0.0) * _MAX_FRAMES + index,
        "position": numbers(groups.item("PlanePositionSequence"), "ImagePositionPatient", 3),
        "orientation": orientation_of(groups.item("PlaneOrientationSequence")),
        "spacing": numbers(measures, "PixelSpacing", 2),
        "thickness": number(measures, "SliceThickness"),
        "slice_step": number(measures, "SpacingBetweenSlices"),
        "slope": slope or 1.0,
        "intercept": groups.number(scale, "RescaleIntercept", whole.intercept),
        "repairs": (*whole.repairs, "zero_slope_ignored") if slope == 0 else whole.repairs,
        **_acquisition(whole, groups),
    }
    if frame_type := groups.item(*_TYPES):
        words = [*values(frame_type, "FrameType"), text(frame_type, "ComplexImageComponent")]
        update["image_type"] = tuple(str(word).upper() for word in words if word)
        if "MOSAIC" in update["image_type"]:
            raise ValueError("a frame that is a mosaic")
    return whole.model_copy(update=update)


def _acquisition(whole: Header, groups: _Groups) -> dict[str, Any]:
    """Return the values that separate time points, echoes and diffusion weightings."""
    content = groups.item("FrameContentSequence")
    diffusion = groups.item("MRDiffusionSequence")
    direction = (diffusion.get("DiffusionGradientDirectionSequence") or [pydicom.Dataset()])[0]
    cardiac = ("CardiacSynchronizationSequence", "CardiacTriggerSequence")
    frame = ("FrameContentSequence",)
    return {
        "stack": text(content, "StackID"),
        "temporal_position": number(content, "TemporalPositionIndex"),
        "acquisition": groups.number(frame, "FrameAcquisitionNumber", whole.acquisition),
        "acquisition_time": text(content, "FrameAcquisitionDateTime"),
        "trigger_time": groups.number(cardiac, "NominalCardiacTriggerDelayTime"),
        "echo_time": groups.number(("MREchoSequence",), "EffectiveEchoTime", whole.echo_time),
        "flip_angle": groups.number(("MRTimingAndRelatedParametersSequence",), "FlipAngle", whole.flip_angle),
        "inversion_time": groups.number(("MRModifierSequence",), "InversionTimes", whole.inversion_time),
        "b_value": groups.number(("MRDiffusionSequence",), "DiffusionBValue", whole.b_value),
        "gradient": numbers(direction, "DiffusionGradientOrientation", 3),
    }


def _tomographic(dataset: pydicom.Dataset, whole: Header, count: int) -> list[Header]:
    """Return the frames of reconstructed nuclear medicine: one evenly spaced stack from one detector.

    Raises:
        ValueError: for planar and dynamic images, whose frames have no position in space.
    """
    detector = (dataset.get("DetectorInformationSequence") or [pydicom.Dataset()])[0]
    orientation = whole.orientation or orientation_of(detector)
    position = whole.position or numbers(detector, "ImagePositionPatient", 3)
    step = whole.slice_step or whole.thickness
    if "TOMO" not in "".join(whole.image_type) or not (orientation and position and step):
        raise ValueError("frames without a position in space")
    up = step * geometry.slice_normal(orientation)
    positions = [tuple((np.asarray(position) + index * up).tolist()) for index in range(count)]
    return [
        whole.model_copy(
            update={"frame": index, "number": float(index), "orientation": orientation, "position": one}
        )
        for index, one in enumerate(positions)
    ]
