"""One-line messages, with a remedy, for failures of the machine: disk, memory, permissions, locks.

Exceptions of MLflow, SQLAlchemy and PyTorch are recognised by name and text, so that none is imported.
"""

from __future__ import annotations

import errno
import traceback

from medmim.errors import causes

BY_NUMBER = {
    errno.ENOSPC: "the disk is full: free space, or set MEDMIM_HOME to a folder on another disk",
    errno.EDQUOT: "your disk quota is used up: free space, or set MEDMIM_HOME to a folder on another disk",
    errno.EROFS: "a folder is read-only: set MEDMIM_HOME (and --out) to folders that you may write to",
    errno.EACCES: "permission denied: set MEDMIM_HOME (and --out) to folders that you may read and write",
    errno.EPERM: "permission denied: set MEDMIM_HOME (and --out) to folders that you may read and write",
    errno.ENAMETOOLONG: "a path is too long for this filesystem: use shorter names",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n 4096`, or use fewer --workers",
    errno.ENFILE: "too many open files on this machine: use fewer --workers, or close other programs",
    errno.ENOMEM: "out of memory: use a smaller --batch-size or --size, or fewer --workers",
    errno.EAGAIN: "no further process can be started: use fewer --workers, or raise `ulimit -u`",
    errno.EFBIG: "a file is larger than the limit allows: raise it with `ulimit -f unlimited`",
    errno.EIO: "the disk reports an input/output error: check it, and restore damaged files from a backup",
    errno.ENOTDIR: "a part of a path is a file, not a folder: check MEDMIM_HOME and the paths that you gave",
    errno.ENOLCK: "this network folder supports no locks: set MEDMIM_HOME to a folder on a local disk",
}
# parts of messages, in lower case
BY_TEXT = {
    "too many open files": BY_NUMBER[errno.EMFILE],  # shared memory is a file too
    "bus error": "shared memory is too small: use --workers 0, or start the container with --shm-size 8g",
    "shared memory": "shared memory is too small: use --workers 0, or start the container with --shm-size 8g",
    "database is locked": "the store is locked by another process: wait until it ends, then run this again",
    "readonly database": "the store is read-only: make it writable, or set MEDMIM_HOME to another folder",
    "unable to open database": "the store cannot be opened: check the permissions of MEDMIM_HOME",
    "database or disk is full": "the disk is full: free space, or move MEDMIM_HOME to another disk",
    "disk i/o error": "the store cannot be read or written: check the disk of MEDMIM_HOME, and the limits "
    "`ulimit -f` and `ulimit -v`",
    "database disk image is malformed": "the store is damaged: run `medmim doctor --repair`",
    "file is not a database": "mlflow.db is not a database: run `medmim doctor --repair`",
    "can't locate revision": "a newer MLflow wrote the store: `pip install -U mlflow`",
    "out of memory": "out of memory: use a smaller --batch-size or --size; `medmim plan` finds what fits",
    "can't start new thread": "no further thread can be started: use fewer --workers, or raise the limits of "
    "processes and memory (`ulimit -u`, `ulimit -v`)",
}
# what libraries say of a failed allocation, in exceptions of any kind; in lower case
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",  # a library that is loaded late
    "could not create a primitive",  # oneDNN: memory for a kernel
    "unknown file extension: .webp",  # Pillow without its plugin, which could not be loaded
)
# limits of the machine, which errors of our own with a cause attribute to the file that was read
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG)
_STORE = ("OperationalError", "DatabaseError", "MlflowException")
_SYSTEM = ("OperationalError", "DatabaseError", "MlflowException", "RuntimeError", "OutOfMemoryError")


def explain(error: BaseException) -> str | None:
    """Return what happened and what to do, for a failure of the machine; None for anything else."""
    for cause in causes(error):
        if isinstance(cause, MemoryError) or any(part in str(cause).lower() for part in _NO_MEMORY):
            return BY_NUMBER[errno.ENOMEM]
        if isinstance(cause, OSError) and cause.errno in BY_NUMBER:
            return BY_TEXT["shared memory"] if _is_shared_memory(cause) else BY_NUMBER[cause.errno]
        if any(kind.__name__ in _SYSTEM for kind in type(cause).__mro__):
            text = str(cause).lower()
            known = next((advice for part, advice in BY_TEXT.items() if part in text), None)
            if known:
                return known
            if type(cause).__name__ in _STORE:
                return _of_store(cause)
    return None


def explain_exhausted(error: BaseException) -> str | None:
    """Return the advice for an error that open files or memory caused, although it names a file."""
    numbers = (cause.errno for cause in causes(error) if isinstance(cause, OSError))
    return next((BY_NUMBER[number] for number in numbers if number in _EXHAUSTED), None)


def _is_shared_memory(error: OSError) -> bool:
    """Return whether /dev/shm, where multiprocessing creates its locks, is the disk that is full."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return error.errno == errno.ENOSPC and bool(frames) and frames[-1].startswith("multiprocessing")


def _of_store(error: BaseException) -> str:
    """Describe a failure of the store that has no advice of its own, without SQL and values."""
    text = next(iter(str(error).splitlines()), "").partition("[SQL")[0][:200]
    return f"the store failed ({type(error).__name__}: {text}): `medmim doctor` checks it"
