"""The affine of a NIfTI file: sform, qform, pixdim and units are compared before one of them is used.

The rules, in this order (spacings differ if any axis deviates by more than 0.1 %):

1. A declared form that is invalid (zero, singular or not finite) is ignored: repair `sform_invalid` or
   `qform_invalid`. Without a valid form the file is rejected: NIfTI's method 1 does not define left and
   right.
2. Forms that mirror each other, or whose axes run in different directions although their codes are equal,
   are rejected: `contradictory_orientation`.
3. If the spacings of sform and pixdim differ, unit spacing marks the placeholder: a unit sform gives way to
   the qform (`sform_spacing_ignored`), a unit pixdim to the sform (`pixdim_ignored`). An sform with another
   code than the qform is a registration and gives way to the scanner's qform (`sform_spacing_ignored`).
   Anything else is rejected: `contradictory_spacing`.
4. Otherwise the sform is used, as in nibabel and ITK. A qform of equal code at another position is flagged
   `qform_ignored`.
5. Axes that are more than 2° from a right angle are kept as they are, with their angle: repair
   `sheared_axes_kept`. Programs that need right angles, such as ITK, refuse or ignore them.
6. `xyzt_units` of metres and micrometres are converted to millimetres (`units_converted`), as in ITK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64
from nibabel.spatialimages import HeaderDataError

from medmim.data.formats.nifti_header import bad_affine, check_affine
from medmim.errors import DataError

_MIN_EXTENT_MM = 1.0  # smaller volumes are in wrong units
_SPACING_TOLERANCE = 1e-3  # relative
_MAX_OFFSET_VOXELS = 0.5
_MAX_SHEAR_DEGREES = 2.0
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # codes of xyzt_units: metre, micrometre

Affine = Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class GridFromHeader:
    """Affine from voxel indices to RAS mm, and how contradictions in the header were resolved.

    Attributes:
        affine: voxel to mm.
        repairs: names of the rules that were applied.
        measured: the values that contradict each other.
    """

    affine: Affine
    repairs: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)


def affine_of(header: Any, shape: Sequence[int]) -> GridFromHeader:
    """Return the affine of a header; the module's docstring lists the rules.

    Args:
        shape: of the voxels, at least three axes.

    Raises:
        DataError: with reason no_orientation, bad_affine, contradictory_spacing or contradictory_orientation.
    """
    factor = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    forms, repairs = _valid_forms(header, factor)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64)) * factor
    grid = _choose(forms, pixdim, _codes(header), shape)
    extent = float((np.linalg.norm(grid.affine[:3, :3], axis=0) * np.asarray(shape[:3])).max())
    if extent < _MIN_EXTENT_MM:
        raise bad_affine(
            f"expected an extent of at least {_MIN_EXTENT_MM:g} mm, got {extent:g}; check the unit"
        )
    measured = dict(grid.measured)
    if factor != 1.0:
        repairs.append("units_converted")
        measured["mm_per_unit"] = factor
    if (shear := _shear_degrees(grid.affine)) > _MAX_SHEAR_DEGREES:
        repairs.append("sheared_axes_kept")
        measured["shear_degrees"] = shear
    return GridFromHeader(grid.affine, (*repairs, *grid.repairs), measured)


def _shear_degrees(affine: Affine) -> float:
    """Return how far the angle between two axes is from a right angle."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0.0, 1.0))))


def _codes(header: Any) -> tuple[int, int]:
    return int(header["sform_code"]), int(header["qform_code"])


def _valid_forms(header: Any, factor: float) -> tuple[dict[str, Affine], list[str]]:
    """Return the valid forms in mm by name, and a repair for each invalid one.

    Args:
        factor: millimetres per unit of the header.

    Raises:
        DataError: if no form is valid.
    """
    forms: dict[str, Affine] = {}
    errors: dict[str, DataError] = {}
    for name, code in zip(("sform", "qform"), _codes(header), strict=True):
        if not code:
            continue
        try:
            form, _ = getattr(header, f"get_{name}")(coded=True)
            affine = np.diag([factor, factor, factor, 1.0]) @ np.asarray(form, np.float64)
            check_affine(affine)
            forms[name] = affine
        except (HeaderDataError, ValueError):
            errors[name] = bad_affine("expected a unit quaternion and positive spacing, got neither")
        except DataError as error:
            errors[name] = error
    if forms:
        return forms, [f"{name}_invalid" for name in errors]
    if errors:
        raise next(iter(errors.values()))
    raise DataError(
        "NIfTI file does not define left and right: expected an sform or a qform, got neither; set one "
        "from the original scan",
        reason="no_orientation",
    )


def _choose(
    forms: dict[str, Affine], pixdim: Float64[np.ndarray, "3"], codes: tuple[int, int], shape: Sequence[int]
) -> GridFromHeader:
    sform, qform = forms.get("sform"), forms.get("qform")
    if sform is None:
        return GridFromHeader(forms["qform"])
    if qform is not None:
        _check_orientation(sform, qform, equal_codes=codes[0] == codes[1])
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(spacing, pixdim, rtol=_SPACING_TOLERANCE, atol=0.0):
        return _resolve_spacing(sform, qform, pixdim, equal_codes=codes[0] == codes[1])
    distance = _corner_voxels(sform, qform, shape) if qform is not None and codes[0] == codes[1] else 0.0
    if distance > _MAX_OFFSET_VOXELS:
        return GridFromHeader(sform, ("qform_ignored",), {"qform_offset_voxels": distance})
    return GridFromHeader(sform)


def _resolve_spacing(
    sform: Affine, qform: Affine | None, pixdim: Float64[np.ndarray, "3"], *, equal_codes: bool
) -> GridFromHeader:
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    measured = {f"sform_mm_{axis}": float(value) for axis, value in enumerate(spacing)}
    measured |= {f"pixdim_mm_{axis}": float(value) for axis, value in enumerate(pixdim)}
    unit_sform, unit_pixdim = (np.allclose(one, 1.0, rtol=1e-6) for one in (spacing, pixdim))
    if qform is not None and (unit_sform or not (equal_codes or unit_pixdim)):
        return GridFromHeader(qform, ("sform_spacing_ignored",), measured)
    if (unit_pixdim or not (pixdim > 0).all()) and not unit_sform:
        return GridFromHeader(sform, ("pixdim_ignored",), measured)
    shown = [" × ".join(f"{length:g}" for length in one) for one in (spacing, pixdim)]
    raise DataError(
        f"NIfTI header contradicts itself: expected one spacing, got {shown[0]} mm in the sform and "
        f"{shown[1]} mm in pixdim; correct it from the original scan",
        reason="contradictory_spacing",
    )


def _check_orientation(sform: Affine, qform: Affine, *, equal_codes: bool) -> None:
    codes = ["".join(nib.aff2axcodes(form)) for form in (sform, qform)]
    mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    if mirrored or (equal_codes and codes[0] != codes[1]):
        raise DataError(
            f"NIfTI header contradicts itself: expected one orientation, got {codes[0]} in the sform and "
            f"{codes[1]} in the qform; correct it from the original scan",
            reason="contradictory_orientation",
        )


def _corner_voxels(first: Affine, second: Affine, shape: Sequence[int]) -> float:
    """Return the largest distance between corresponding corners, in voxels of the smallest spacing."""
    ends = np.array(np.meshgrid(*((0.0, length - 1.0) for length in shape[:3]))).reshape(3, -1)
    difference = (first - second)[:3, :3] @ ends + (first - second)[:3, 3:]
    spacing = np.linalg.norm(first[:3, :3], axis=0).min()
    return float(np.linalg.norm(difference, axis=0).max() / spacing)
