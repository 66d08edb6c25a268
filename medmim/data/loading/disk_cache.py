"""Prepared volumes on disk, mapped into memory: made once, shared by workers and runs, checked when opened.

<folder>/<k>/<key>-<digest>.safetensors

k: the key's first two digits; key: what it was made from and how; digest: SHA-256 of the file.

A map costs no memory of its own: the kernel keeps what is used, drops it when memory is short, and a crop
reads the pages that it touches.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from torch import Tensor

from medmim import files

PREPARED = "prepared"  # the folder's name in `MEDMIM_HOME`
DIGITS = 32
_ABANDONED_S = 3600.0
_WRITERS = 64  # processes that may write between two looks at the folder without going over the limit
_SPARE = 1 / 16  # of the limit, made free beside what is wanted: a look takes longer than a write


class DiskCache:
    """Files of prepared volumes, the least recently used of which go when there are too many.

    Args:
        folder: where they lie; made when missing.
        limit_gb: on disk.
    """

    def __init__(self, folder: Path, *, limit_gb: float) -> None:
        self.folder = folder
        self.limit = int(limit_gb * 1e9)
        self._allowed = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key, or None; a file that is not what was written is removed."""
        for path in self._place(key).glob(f"{key}-*.safetensors"):
            try:
                if files.sha256_of(path)[:DIGITS] == path.stem.partition("-")[2]:
                    os.utime(path)
                    return safetensors.torch.load_file(path)
                path.unlink()
            except OSError:  # another process made room, or it is no file
                continue
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Write the tensors of a key and return them as they lie there; None: they alone exceed the limit."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        if len(content) > self.limit:
            return None
        if len(content) > self._allowed:
            self._make_room(len(content))
        self._allowed -= len(content)
        digest = hashlib.sha256(content).hexdigest()[:DIGITS]
        place = self._place(key) / f"{key}-{digest}.safetensors"
        files.write_bytes(place, content, lasting=False)  # what a power cut leaves does not fit its digest
        try:
            return safetensors.torch.load_file(place)
        except FileNotFoundError:  # another process made room
            return None

    def _place(self, key: str) -> Path:
        return self.folder / key[:2]

    def _make_room(self, wanted: int) -> None:
        """Remove what was used longest ago, if need be, and note what may be written before the next look.

        An open map of a removed file stays whole.
        """
        for left in self.folder.glob("*/.*.tmp"):  # by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # another process made room
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        held = sum(size for _, size, _ in found)
        if held + wanted > self.limit:
            for _, size, path in sorted(found):
                if held + wanted <= self.limit * (1 - _SPARE):
                    break
                path.unlink(missing_ok=True)
                held -= size
        self._allowed = max(wanted, (self.limit - held) // _WRITERS)
