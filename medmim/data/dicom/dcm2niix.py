"""dcm2niix as a child process: a folder of DICOM files is converted to one volume, or none."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import dcm2niix

from medmim.data.formats.nifti import Image, read_image
from medmim.errors import DataError
from medmim.files import require_room
from medmim.operating_system import descriptors_are_files, open_files, read_flags

_SPARE = 64  # descriptors for other files of this process


class FdLinks:
    """Links to files through descriptors of this process, which work until the end of the block.

    Args:
        count: number of links; files beyond the limit of descriptors are copied.
    """

    def __init__(self, count: int) -> None:
        allowed = open_files(count + _SPARE)
        self._left = allowed - _SPARE if descriptors_are_files() else 0
        self._open = ExitStack()

    def __enter__(self) -> FdLinks:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def link(self, link: Path, file: Path) -> None:
        """Create a link to `file` at the path `link`, or a copy."""
        descriptor = os.open(file, read_flags(follow_links=False))
        if self._left > 0:
            self._left -= 1
            self._open.callback(os.close, descriptor)
            link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
            return
        with os.fdopen(descriptor, "rb") as source, link.open("xb") as target:
            shutil.copyfileobj(source, target)


TIMEOUT_S = 300.0
_OPTIONS = (
    *("-b", "n", "-z", "n"),  # an uncompressed volume and no JSON
    *("-g", "i"),  # the program's defaults, not those that a user saved
    *("-m", "y"),  # the slices belong together, as grouped before
    *("-x", "i", "-l", "o"),  # no cropping, rotation or scaling
    *("-d", "0", "-f", "volume"),
)


def run_converter(source: Path, result: Path, *, precise: bool = False) -> Image | None:
    """Convert the files in `source`; return the volume, or None unless there is exactly one.

    Args:
        source: folder with the files of one stack.
        result: folder to create for the converter's output.
        precise: rescale slopes vary by slice; for equal slopes, this would prefer a vendor's private slope.
    """
    result.mkdir(parents=True)
    try:
        subprocess.run(
            [dcm2niix.bin, *_OPTIONS, "-p", "y" if precise else "n", "-o", str(result), str(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it contains names of series
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            env={"HOME": str(result), "TMPDIR": str(result)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    require_room(result)  # on a full disk the converter succeeds with half a volume
    # it may also write a resampled volume (`_Eq`, `_Tilt`), which is ignored
    outputs = [
        path for path in result.glob("*.nii") if not path.stem.startswith(("volume_Eq", "volume_Tilt"))
    ]
    if len(outputs) != 1:
        return None
    try:
        return read_image(outputs[0])
    except DataError:  # several volumes in one file, or colours
        return None
