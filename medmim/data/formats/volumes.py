"""Volumes in any format that medmim reads from files: NIfTI by nibabel, NRRD and MetaImage by SimpleITK."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from jaxtyping import Float64

from medmim.data.formats import nifti_header
from medmim.data.formats.images import is_picture, read_picture
from medmim.data.formats.nifti import Image, open_regular, read_image
from medmim.errors import DataError

# mypy: disable-error-code="no-untyped-call"

ITK_NAMES = (".nrrd", ".mha", ".mhd")
_HEADER_BYTES = 1 << 16
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# of a NRRD, ITK turns these three spaces to its own and takes any other as if it were its own
_PLACED = {
    ".nrrd": rb"(?im)^space\s*:\s*(LPS|RAS|LAS|(left-posterior|right-anterior|left-anterior)-superior)\s*$",
    ".mha": rb"(?im)^(TransformMatrix|Orientation|Rotation)\s*=",
}
_DETACHED = rb"(?im)^data ?file\s*:"
_DATA_FILE = rb"(?im)^ElementDataFile\s*=\s*(.*?)\s*$"


def read_volume(path: Path, *, spacing_mm: float = 1.0) -> tuple[Image, tuple[str, ...]]:
    """Read a volume, or a picture as a volume of one slice, by the ending of its name.

    Args:
        path: the file.
        spacing_mm: of pictures, which do not say it.

    Returns:
        The image, and what was done to it.

    Raises:
        DataError: if it cannot be used.
    """
    if is_picture(path):
        return read_picture(path, spacing_mm)
    return (read_itk(path) if path.suffix.lower() in ITK_NAMES else read_image(path)), ()


def read_itk(path: Path) -> Image:
    """Read a NRRD or MetaImage file that anybody may have written.

    Raises:
        DataError: with reason unreadable, damaged, no_orientation, detached_data, not_3d, not_scalar,
            too_large or bad_affine.
    """
    _check_text(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO")
    try:
        reader.ReadImageInformation()
        _check_sizes(reader)
        affine = _affine_of(reader)
        image = reader.Execute()
    except RuntimeError as error:  # its text quotes the path
        raise DataError(
            "volume file cannot be decoded: expected a whole NRRD or MetaImage file; export it again",
            reason="damaged",
        ) from error
    nifti_header.check_affine(affine)
    return Image(np.ascontiguousarray(sitk.GetArrayFromImage(image).T), affine)


def _check_text(path: Path) -> None:
    """Look at the header's own text: which side is left must be said, and voxels must lie where we look."""
    with open_regular(path) as stream:
        head = stream.read(_HEADER_BYTES)
    kind = ".nrrd" if path.suffix.lower() == ".nrrd" else ".mha"
    if not re.search(_PLACED[kind], head):
        raise DataError(
            "volume file does not say which side is left: expected a space of LPS, RAS or LAS "
            "(NRRD) or a TransformMatrix (MetaImage); set it from the original scan, never by guess",
            reason="no_orientation",
        )
    found = re.search(_DATA_FILE, head)
    named = found.group(1).decode("latin-1") if found else "LOCAL"
    beside = path.suffix.lower() == ".mhd" and named in (f"{path.stem}.raw", f"{path.stem}.zraw")
    if re.search(_DETACHED, head) if kind == ".nrrd" else not (beside or named == "LOCAL"):
        raise DataError(
            "volume file keeps its voxels elsewhere: expected them inside, or for .mhd in the .raw or "
            ".zraw file of the same name; save it as one file",
            reason="detached_data",
        )
    if beside:
        _check_beside(path.with_name(named))


def _check_beside(path: Path) -> None:
    """Refuse voxels behind a link, in a pipe, or nowhere: SimpleITK would follow, wait or complain."""
    open_regular(path).close()
    if path.is_symlink():
        raise DataError(
            "volume file keeps its voxels behind a link, expected a regular file; copy it beside its header",
            reason="unreadable",
        )


def _check_sizes(reader: sitk.ImageFileReader) -> None:
    size = reader.GetSize()
    if len(size) != 3:
        raise DataError(
            f"volume file has {len(size)} axes, expected 3; split series and channels into one file each",
            reason="not_3d",
        )
    if reader.GetNumberOfComponents() != 1:
        raise nifti_header.not_scalar("a colour, vector or complex")
    if max(size) > nifti_header.MAX_LENGTH or np.prod(size, dtype=float) * 4 > nifti_header.MAX_BYTES:
        raise DataError(
            f"volume file of {nifti_header.show(size)} voxels: expected up to "
            f"{nifti_header.MAX_LENGTH} along an axis and 1 billion in all; crop it",
            reason="too_large",
        )


def _affine_of(reader: sitk.ImageFileReader) -> Float64[np.ndarray, "4 4"]:
    """Return voxel to RAS mm; ITK counts towards the patient's left and back (LPS)."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) @ np.diag(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return np.asarray(_LPS_TO_RAS @ affine, np.float64)
