"""SOP classes that medmim reads as slices, frames or single images, and the reason to refuse the others."""

from __future__ import annotations

from typing import Literal

_STORAGE = "1.2.840.10008.5.1.4.1.1."
LABEL = "label_object"  # a segmentation or structure set: read after its image
DICOMDIR = "1.2.840.10008.1.3.10"
Content = Literal["slice", "frames", "picture"]

SLICES = {_STORAGE + "2": "CT", _STORAGE + "4": "MR", _STORAGE + "128": "PT"}
_FRAMES = {
    "2.1": "CT", "2.2": "CT", "4.1": "MR", "4.4": "MR", "128.1": "PT", "130": "PT", "20": "NM",
    "13.1.1": "XA", "13.1.2": "XA", "13.1.3": "MG",
}  # fmt: skip
_PICTURES = {
    "1": "CR", "1.1": "DX", "1.1.1": "DX", "1.2": "MG", "1.2.1": "MG", "1.3": "IO", "1.3.1": "IO",
    "481.1": "RTIMAGE",
}  # fmt: skip
# classes whose pixels often show the patient's name
_BURNED_IN = {
    "3": "US", "3.1": "US", "6": "US", "6.1": "US", "7": "SC", "7.1": "SC", "7.2": "SC", "7.3": "SC",
    "7.4": "SC", "12.1": "XA", "12.2": "RF", "12.3": "XA", "77.1.1": "ES", "77.1.1.1": "ES", "77.1.2": "GM",
    "77.1.4": "XC", "77.1.4.1": "XC", "77.1.5.1": "OP", "77.1.5.2": "OP", "77.1.5.4": "OPT",
}  # fmt: skip

# The longest matching prefix of the number after `_STORAGE` decides.
_OTHERS = {
    "7": "burned_in_risk", "6": "burned_in_risk", "3": "burned_in_risk", "12": "burned_in_risk",
    "77": "burned_in_risk", "4.3": "colour_volume", "481.2": "dose_no_image", "30": "parametric_map",
    "66.4": LABEL, "66.7": LABEL,
    "481.3": LABEL, "481": "radiotherapy_no_image", "66": "derived_no_image",
    "4.2": "spectroscopy_no_image", "88": "report_no_image", "11": "presentation_no_image",
    "104": "document_no_image", "9": "waveform_no_image",
}  # fmt: skip


def content_of(sop_class: str) -> Content | None:
    """Return what objects of this class contain, or None if medmim reads no image from them."""
    if sop_class in SLICES:
        return "slice"
    short = sop_class.removeprefix(_STORAGE)
    if short in _FRAMES:
        return "frames"
    return "picture" if short in _PICTURES or short in _BURNED_IN else None


def modality_of(sop_class: str) -> str:
    """Return DICOM's code of the modality, from the class and not from the header's Modality element.

    Raises:
        KeyError: if objects of this class contain no image.
    """
    short = sop_class.removeprefix(_STORAGE)
    return SLICES.get(sop_class) or {**_FRAMES, **_PICTURES, **_BURNED_IN}[short]


def has_burned_in_risk(sop_class: str) -> bool:
    """Return whether images of this class often show the patient's name."""
    return sop_class.removeprefix(_STORAGE) in _BURNED_IN


def refusal(sop_class: str) -> str | None:
    """Return the reason why objects of this class are refused, or None if they are images."""
    if content_of(sop_class):
        return None
    if not sop_class:
        return "missing_sop_class"
    parts = sop_class.removeprefix(_STORAGE).split(".")
    starts = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    known = sop_class.startswith(_STORAGE)
    return next((_OTHERS[start] for start in starts if known and start in _OTHERS), "other_no_image")
