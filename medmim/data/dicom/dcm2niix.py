"""dcm2niix as a child process: a folder of DICOM files in, one plain volume out, or none."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import dcm2niix

from medmim.data.formats.nifti import Image, read_image
from medmim.errors import DataError
from medmim.files import require_room

_SPARE = 64  # descriptors for all else that this process opens


class FdLinks:
    """Makes links through this process's own descriptors; with it, or at the end of the block, they go.

    Args:
        count: number of links; where the machine lets a process have fewer descriptors, the rest are copies.
    """

    def __init__(self, count: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = max(soft, min(count + _SPARE, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        self._left = allowed - _SPARE
        self._open = ExitStack()

    def __enter__(self) -> FdLinks:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def link(self, link: Path, file: Path) -> None:
        """Put a link to `file` at the place `link`, or a copy."""
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._left > 0:
            self._left -= 1
            self._open.callback(os.close, descriptor)
            link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
            return
        with os.fdopen(descriptor, "rb") as source, link.open("xb") as target:
            shutil.copyfileobj(source, target)


TIMEOUT_S = 300.0
_OPTIONS = (
    *("-b", "n", "-z", "n"),  # one plain volume and nothing beside it
    *("-g", "i"),  # defaults of the program, not those that a user saved at home
    *("-m", "y"),  # the slices belong together: that was decided before
    *("-x", "i", "-l", "o"),  # no cropping, turning or scaling of its own
    *("-d", "0", "-f", "volume"),
)


def run_converter(source: Path, result: Path, *, precise: bool = False) -> Image | None:
    """Convert the files in `source`, which carry names of our own; None unless there is exactly one volume.

    Args:
        source: folder with files of one stack.
        result: folder that is made for what the converter writes.
        precise: slopes vary by slice. For one slope this would prefer a vendor's private one.
    """
    result.mkdir(parents=True)
    try:
        subprocess.run(
            [dcm2niix.bin, *_OPTIONS, "-p", "y" if precise else "n", "-o", str(result), str(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it prints names of series
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            env={"HOME": str(result), "TMPDIR": str(result)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    require_room(result)  # on a full disk it ends well and leaves half a volume
    # Beside a volume it may write a resampled one (`_Eq`, `_Tilt`); the plain one is checked like any other.
    outputs = [
        path for path in result.glob("*.nii") if not path.stem.startswith(("volume_Eq", "volume_Tilt"))
    ]
    if len(outputs) != 1:
        return None
    try:
        return read_image(outputs[0])
    except DataError:  # several volumes in one file where one was expected, or colours: no volume of ours
        return None
