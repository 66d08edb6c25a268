"""One reader for all image files: NIfTI, FreeSurfer, NRRD and MetaImage (through SimpleITK), and pictures."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float64, Shaped

from medmim.data.formats import nifti_header
from medmim.data.formats.file_types import open_regular
from medmim.data.formats.images import is_picture, read_picture
from medmim.data.formats.mgh import MGH_NAMES, read_mgh
from medmim.data.formats.nifti import Image, LoadedImage, load_nifti
from medmim.data.formats.plain_arrays import ARRAY_NAMES, read_plain_array
from medmim.errors import DataError, size_text

# mypy: disable-error-code="no-untyped-call"

ITK_NAMES = (".nrrd", ".mha", ".mhd")
_HEADER_BYTES = 1 << 16
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# ITK converts these three NRRD spaces to LPS and treats any other space as if it were LPS
_ORIENTED = {
    ".nrrd": rb"(?im)^space\s*:\s*(LPS|RAS|LAS|(left-posterior|right-anterior|left-anterior)-superior)\s*$",
    ".mha": rb"(?im)^(TransformMatrix|Orientation|Rotation)\s*=",
}
_DIMENSIONS = {".nrrd": rb"(?im)^dimension\s*:\s*[1-9]\s*$", ".mha": rb"(?im)^NDims\s*=\s*[1-9]\s*$"}
_DETACHED = rb"(?im)^data ?file\s*:"
_DATA_FILE = rb"(?im)^ElementDataFile\s*=\s*(.*?)\s*$"


def read_volume(path: Path) -> tuple[Image, tuple[str, ...]]:
    """Return the image and repairs of `load_volume`."""
    loaded = load_volume(path)
    return loaded.image, loaded.repairs


def is_nifti(path: Path) -> bool:
    """Return whether a file is read as NIfTI: all files are whose name has no other known extension."""
    return not is_picture(path) and not path.name.lower().endswith((*ITK_NAMES, *MGH_NAMES, *ARRAY_NAMES))


def load_volume(
    path: Path, *, spacing_mm: float = 1.0, frame: int | None = None, label: bool = False
) -> LoadedImage:
    """Read a volume, or a picture as a volume of one slice; the suffix selects the reader.

    Args:
        spacing_mm: voxel spacing of pictures and NumPy arrays, whose files do not state it.
        frame: index along the fourth axis of a NIfTI file that has one.
        label: of a NumPy archive, read the array with the label instead of the image.

    Raises:
        DataError: if it cannot be used.
    """
    if is_picture(path):
        return LoadedImage(*read_picture(path, spacing_mm))
    name = path.name.lower()
    if name.endswith(ARRAY_NAMES):
        return read_plain_array(path, spacing_mm=spacing_mm, label=label)
    if name.endswith((*ITK_NAMES, *MGH_NAMES)):
        return LoadedImage(read_mgh(path) if name.endswith(MGH_NAMES) else read_itk(path))
    return load_nifti(path, frame=frame)


def fill_background(loaded: LoadedImage) -> LoadedImage:
    """Replace a background of NaN by the smallest finite value, as a repair; keep NaN elsewhere.

    Background is every connected region of NaN that touches the border of the volume.
    """
    array = loaded.image.array
    if array.dtype.kind != "f" or np.isinf(array).any() or not (missing := np.isnan(array)).any():
        return loaded
    regions, count = scipy.ndimage.label(missing)
    faces = [regions.take(end, axis) for axis in range(3) for end in (0, -1)]
    touching = np.unique(np.concatenate([face.ravel() for face in faces]))
    if missing.all() or set(range(1, count + 1)) - set(touching.tolist()):
        return loaded
    value = float(np.nanmin(array))
    filled = Image(np.where(missing, np.float32(value), array), loaded.image.affine)
    measured = {"nan_voxels": float(missing.sum()), "nan_replaced_by": value}
    return LoadedImage(filled, (*loaded.repairs, "nan_background"), {**loaded.measured, **measured})


def read_itk(path: Path) -> Image:
    """Read a NRRD or MetaImage file from an untrusted source.

    Raises:
        DataError: with reason unreadable, damaged, no_decoder, no_orientation, detached_data, not_3d,
            not_scalar, too_large or bad_affine.
    """
    layers, affine, _ = read_layers(path)
    if len(layers) != 1:
        raise nifti_header.not_scalar("a colour, vector or complex")
    return Image(layers[0], affine)


def read_layers(
    path: Path,
) -> tuple[Shaped[np.ndarray, "layers x y z"], Float64[np.ndarray, "4 4"], dict[str, str]]:
    """Read the components of the voxels of a NRRD or MetaImage file, its affine and its metadata.

    Raises:
        DataError: as `read_itk`, but for not_scalar.
    """
    _check_text(path)
    try:
        sitk = importlib.import_module("SimpleITK")  # large, and rarely needed
    except ImportError as error:
        raise DataError(
            "NRRD and MetaImage need SimpleITK, which is not installed: run `pip install 'medmim[itk]'`",
            reason="no_decoder",
        ) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO")
    try:
        reader.ReadImageInformation()
        _check_sizes(reader)
        affine = _affine_of(reader)
        image = reader.Execute()
    except RuntimeError as error:  # its text contains the path
        raise _damaged() from error
    nifti_header.check_affine(affine)
    array = sitk.GetArrayFromImage(image).T
    layers = array if reader.GetNumberOfComponents() > 1 else array[None]
    metadata = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return np.ascontiguousarray(layers), affine, metadata


def _check_text(path: Path) -> None:
    """Require an orientation in the header, and voxels in the same file or next to it."""
    with open_regular(path) as stream:
        head = stream.read(_HEADER_BYTES)
    kind = ".nrrd" if path.suffix.lower() == ".nrrd" else ".mha"
    if not re.search(_DIMENSIONS[kind], head):  # SimpleITK would crash on a huge number
        raise _damaged()
    if not re.search(_ORIENTED[kind], head):
        raise DataError(
            "volume file does not define left and right: expected a space of LPS, RAS or LAS (NRRD) or a "
            "TransformMatrix (MetaImage); set it from the original scan",
            reason="no_orientation",
        )
    match = re.search(_DATA_FILE, head)
    data_file = match.group(1).decode("latin-1") if match else "LOCAL"
    separate = path.suffix.lower() == ".mhd" and data_file in (f"{path.stem}.raw", f"{path.stem}.zraw")
    if re.search(_DETACHED, head) if kind == ".nrrd" else not (separate or data_file == "LOCAL"):
        raise DataError(
            "volume file refers to voxels in another file: expected them inside, or for .mhd in the .raw or "
            ".zraw file of the same name; save it as one file",
            reason="detached_data",
        )
    if separate:  # SimpleITK would follow a link and block on a pipe
        open_regular(path.with_name(data_file), follow_links=False).close()


def _damaged() -> DataError:
    return DataError(
        "volume file cannot be decoded: expected a complete NRRD or MetaImage file; export it again",
        reason="damaged",
    )


def _check_sizes(reader: Any) -> None:
    size = reader.GetSize()
    if len(size) != 3:
        raise DataError(
            f"volume file has {len(size)} axes, expected 3; split time points and channels into files",
            reason="not_3d",
        )
    voxels = np.prod(size, dtype=float) * reader.GetNumberOfComponents()
    if max(size) > nifti_header.MAX_LENGTH or voxels * 4 > nifti_header.MAX_BYTES:
        raise DataError(
            f"volume file of {size_text(size)} voxels: expected up to "
            f"{nifti_header.MAX_LENGTH} along an axis and 1 billion in total; crop it",
            reason="too_large",
        )


def _affine_of(reader: Any) -> Float64[np.ndarray, "4 4"]:
    """Return voxel to RAS mm; ITK uses LPS."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) @ np.diag(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return np.asarray(_LPS_TO_RAS @ affine, np.float64)
