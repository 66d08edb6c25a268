"""Memory of a process and its children, in MB."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def process_mb(mark: str) -> float:
    """Return the memory that this process holds (VmRSS) or ever held (VmHWM), in MiB."""
    status = Path("/proc/self/status")
    # not getrusage where there is another way: on Linux it hands the parent's mark over to a new program
    found = re.search(rf"{mark}:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if found:
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
