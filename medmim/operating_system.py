"""What Linux offers and macOS lacks, with fallbacks: core affinity, /proc, and limits that can be enforced.

Windows is not supported: it has neither fork nor these limits.
"""

from __future__ import annotations

import math
import os
import re
import resource
from pathlib import Path

PROC = Path("/proc")


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use; without affinity, all cores."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def available_memory_mb(proc: Path = PROC) -> float:
    """Return the memory of the machine that is free for new processes, in MiB; infinity if unknown.

    Args:
        proc: folder of the process file system; without one, as on macOS, the memory is unknown.
    """
    place = proc / "meminfo"
    found = re.search(r"MemAvailable:\s+(\d+) kB", place.read_text("ascii")) if place.is_file() else None
    return int(found[1]) / 2**10 if found else math.inf


def descriptors_are_files(proc: Path = PROC) -> bool:
    """Return whether other processes can open a file through a descriptor of this one."""
    return (proc / "self" / "fd").is_dir()


def limit(kind: int, amount: int) -> None:
    """Set a soft limit of this process, at most to the hard limit, where the system has such a limit.

    Args:
        kind: a constant of `resource`, such as `resource.RLIMIT_AS`.
        amount: the limit, in the unit of that constant (bytes, or seconds of CPU time).
    """
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))
    except (ValueError, OSError):  # macOS refuses limits on address space below what is mapped
        return
