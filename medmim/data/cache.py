"""Prepared volumes on disk, mapped into memory: made once, shared by workers and runs, checked when opened.

<folder>/<key>-<digest>.safetensors    key: what it was made from and how; digest: SHA-256 of the file

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

DIGITS = 32
_ABANDONED_S = 3600.0


class DiskCache:
    """Files of prepared volumes, the least recently used of which go when there are too many.

    Args:
        folder: where they lie; made when missing.
        limit_gb: on disk.
    """

    def __init__(self, folder: Path, *, limit_gb: float) -> None:
        self.folder = folder
        self.limit = int(limit_gb * 1e9)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key, or None; a file that is not what was written is removed."""
        for path in self.folder.glob(f"{key}-*.safetensors"):
            try:
                if files.sha256_of(path)[:DIGITS] == path.stem.partition("-")[2]:
                    os.utime(path)
                    return safetensors.torch.load_file(path)
                path.unlink()
            except FileNotFoundError:  # another process made room
                continue
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a key, unless they alone are more than the limit."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        if len(content) > self.limit:
            return
        self._make_room(len(content))
        digest = hashlib.sha256(content).hexdigest()[:DIGITS]
        files.write_bytes(self.folder / f"{key}-{digest}.safetensors", content)

    def _make_room(self, wanted: int) -> None:
        """Remove what was used longest ago; a map of it that is open stays whole."""
        for left in self.folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
        found = []
        for path in self.folder.glob("*.safetensors"):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:  # another process made room
                continue
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held + wanted <= self.limit:
                return
            path.unlink(missing_ok=True)
            held -= size
