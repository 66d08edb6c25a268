"""Links to files of the source that say no path: what a killed run leaves behind names nobody."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import ExitStack
from pathlib import Path

_SPARE = 64  # descriptors for all else that this process opens


class Links:
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

    def __enter__(self) -> Links:
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
