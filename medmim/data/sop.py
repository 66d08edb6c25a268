"""Which DICOM objects hold slices of a volume, and the reason for each other kind."""

from __future__ import annotations

_STORAGE = "1.2.840.10008.5.1.4.1.1."
DICOMDIR = "1.2.840.10008.1.3.10"
SLICES = {_STORAGE + "2": "CT", _STORAGE + "4": "MR", _STORAGE + "128": "PT"}

# The longest matching start of the number after `_STORAGE` decides.
_OTHERS = {
    "7": "burned_in_risk", "6": "burned_in_risk", "3": "burned_in_risk", "12": "burned_in_risk",
    "77": "burned_in_risk", "1": "radiograph_not_supported_yet", "481.1": "radiograph_not_supported_yet",
    "2.1": "multiframe_not_supported_yet", "2.2": "multiframe_not_supported_yet",
    "4.1": "multiframe_not_supported_yet", "4.3": "multiframe_not_supported_yet",
    "4.4": "multiframe_not_supported_yet", "128.1": "multiframe_not_supported_yet",
    "130": "multiframe_not_supported_yet", "20": "multiframe_not_supported_yet",
    "13": "multiframe_not_supported_yet", "481.2": "dose_not_supported_yet",
    "66.4": "segmentation_not_supported_yet", "66.7": "segmentation_not_supported_yet",
    "481.3": "structure_set_not_supported_yet", "481": "radiotherapy_no_image",
    "4.2": "spectroscopy_no_image", "88": "report_no_image", "11": "presentation_no_image",
    "104": "document_no_image", "9": "waveform_no_image",
}  # fmt: skip


def refusal(sop_class: str) -> str | None:
    """Return why objects of this class are no slices, or None if they are."""
    if sop_class in SLICES:
        return None
    if not sop_class:
        return "missing_sop_class"
    parts = sop_class.removeprefix(_STORAGE).split(".")
    starts = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    known = sop_class.startswith(_STORAGE)
    return next((_OTHERS[start] for start in starts if known and start in _OTHERS), "other_no_image")
