"""Differences between operating systems, with fallbacks: locks, limits, forks, signals, /proc, file flags.

Linux has all of these. macOS has neither /proc nor affinity and refuses limits on memory. Windows has no
limits, no fork, fewer signals, and no permission bits. Only this module imports `fcntl` and `resource`.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

PROC = Path("/proc")
_ZEROS = 1 << 24
_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 2**10


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:  # Windows
        return None


_fcntl, _resource = _optional("fcntl"), _optional("resource")


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


def nvidia_driver(proc: Path = PROC, program: str = "nvidia-smi") -> str | None:
    """Return the version of the NVIDIA driver, such as 550.54.15.

    An empty text means that there are parts of a driver which name no version, such as an `nvidia-smi` that
    fails because the driver is not loaded; None means that there is no driver.

    Args:
        proc: folder of the process file system, where Linux names the driver.
        program: the program that names it on other systems.
    """
    place = proc / "driver" / "nvidia" / "version"
    if place.is_file():
        found = re.search(
            r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", place.read_text("utf-8", errors="replace")
        )
        return found[1] if found else ""
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError):  # the program exists, but no driver responds
        return ""
    found = re.match(r"\d+(\.\d+)+", output.strip())
    return found[0] if found else ""


def driver_is_of_windows(release: str = platform.release()) -> bool:
    """Return whether NVIDIA's driver is that of Windows: on Windows, and on Linux inside it (WSL)."""
    return sys.platform == "win32" or "microsoft" in release.lower()


def peak_memory_mb() -> float:
    """Return the largest memory of this process so far, in MiB; NaN if the system does not report it."""
    if _resource is None:
        return math.nan
    return float(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss * _BYTES_PER_UNIT / 2**20)


def descriptors_are_files(proc: Path = PROC) -> bool:
    """Return whether other processes can open a file through a descriptor of this one."""
    return (proc / "self" / "fd").is_dir()


def limit(name: str, amount: int) -> None:
    """Set a soft limit of this process, at most to the hard limit, where the system has such a limit.

    Args:
        name: AS (bytes of address space), CPU (seconds), FSIZE (bytes of a file) or CORE (bytes of a dump).
    """
    if _resource is None:
        return
    kind = getattr(_resource, f"RLIMIT_{name}")
    hard = _resource.getrlimit(kind)[1]
    try:
        _resource.setrlimit(kind, (amount if hard == _resource.RLIM_INFINITY else min(amount, hard), hard))
    except (ValueError, OSError):  # macOS refuses limits on address space below what is mapped
        return


def file_limit_is_hard() -> bool:
    """Return whether this process cannot write larger files because of a limit that it did not set itself."""
    return _resource is not None and len(set(_resource.getrlimit(_resource.RLIMIT_FSIZE))) == 1


def open_files(wanted: int) -> int:
    """Raise the number of files that this process may open to `wanted` if possible; return that number."""
    if _resource is None:
        return 0
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    allowed = max(soft, min(wanted, hard))
    _resource.setrlimit(_resource.RLIMIT_NOFILE, (allowed, hard))
    return int(allowed)


def can_fork_workers() -> bool:
    """Return whether a fork server can receive descriptors and separate messages: on Linux only."""
    try:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError):  # Windows; macOS
        return False
    for one in pair:
        one.close()
    return hasattr(os, "fork") and hasattr(socket, "send_fds")


def read_flags(*, follow_links: bool = True) -> int:
    """Return the flags with which `os.open` reads bytes, never blocks, and follows links or refuses them."""
    names = ["O_NONBLOCK", "O_CLOEXEC", "O_BINARY", *([] if follow_links else ["O_NOFOLLOW"])]
    return os.O_RDONLY | sum(getattr(os, name, 0) for name in names)


def reserve(stream: IO[bytes], size: int) -> None:
    """Occupy `size` bytes of the disk for an empty file; a mapped file without room ends the process.

    Raises:
        OSError: if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
        return
    for start in range(0, size, _ZEROS):  # macOS and Windows
        stream.write(bytes(min(_ZEROS, size - start)))
    stream.flush()


def has_permission_bits() -> bool:
    """Return whether the permission bits of a file determine who can read it."""
    return hasattr(os, "fchmod") and os.name == "posix"


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of some signals, such as SIGHUP, that the system has."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


class FolderLock:
    """A lock on a folder itself, without a file in it, where the system has such locks.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            _fcntl.flock(self._descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise

    @staticmethod
    def exists() -> bool:
        """Return whether this system has such locks."""
        return _fcntl is not None

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
