"""Memory-mapped disk cache of preprocessed volumes, shared by workers and runs.

<folder>/<k>/<key>-<digest>.safetensors

k: first two digits of the key; key: hash of the source and its preprocessing; digest: SHA-256 of the file,
checked on opening.

Mapped files occupy no process memory: the kernel loads pages on demand, and a crop reads only its own pages.
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

PREPARED = "prepared"  # name of the cache folder in `MEDMIM_HOME`
DIGITS = 32
_ABANDONED_S = 3600.0
_WRITERS = 64  # processes that may write between two scans of the folder without exceeding the limit
_SPARE = 1 / 16  # additional share of the limit to free: a scan takes longer than a write


class DiskCache:
    """Files of preprocessed volumes; the least recently used are deleted above a size limit."""

    def __init__(self, folder: Path, *, limit_gb: float) -> None:
        self.folder = folder
        self.limit = int(limit_gb * 1e9)
        self._allowed = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key, or None; delete a file that does not match its digest."""
        for path in self._place(key).glob(f"{key}-*.safetensors"):
            try:
                if files.sha256_of(path)[:DIGITS] == path.stem.partition("-")[2]:
                    os.utime(path)
                    return safetensors.torch.load_file(path)
                path.unlink()
            except OSError:  # another process deleted it, or it is not a regular file
                continue
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Write the tensors of a key and return them mapped from disk; None if they exceed the limit."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        if len(content) > self.limit:
            return None
        if len(content) > self._allowed:
            self._make_room(len(content))
        self._allowed -= len(content)
        digest = hashlib.sha256(content).hexdigest()[:DIGITS]
        place = self._place(key) / f"{key}-{digest}.safetensors"
        # not flushed: a file cut short by a power failure does not match its digest
        files.write_bytes(place, content, lasting=False)
        try:
            return safetensors.torch.load_file(place)
        except FileNotFoundError:  # another process deleted it
            return None

    def _place(self, key: str) -> Path:
        return self.folder / key[:2]

    def _make_room(self, wanted: int) -> None:
        """Delete the least recently used files if needed; set how much may be written before the next scan.

        Open maps of deleted files remain valid.
        """
        for left in self.folder.glob("*/.*.tmp"):  # left by a process that was killed while writing
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # another process deleted it
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        held = sum(size for _, size, _ in found)
        if held + wanted > self.limit:
            for _, size, path in sorted(found):
                if held + wanted <= self.limit * (1 - _SPARE):
                    break
                path.unlink(missing_ok=True)
                held -= size
        self._allowed = max(wanted, (self.limit - held) // _WRITERS)
