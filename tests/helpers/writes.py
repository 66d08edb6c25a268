"""Every write of an ingestion, counted in a fork of this process, and what can happen at one of them."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forks import fork

from medmim.data.sandbox.sandbox import Answer, Limits, Sandbox, _Job
from medmim.data.sandbox.sandbox_worker import Task, attempt

_CHANGES = {"os.rename", "os.mkdir", "os.symlink", "os.link", "os.truncate", "subprocess.Popen"}
_REMOVALS = {"os.remove", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Here(Sandbox):
    """A sandbox without child processes, so that every write happens where it is counted."""

    def __init__(self, _: int | None = None) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def run_each(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        limits: Limits | None = None,
        on_done: Callable[[int], None] | None = None,
        keep: Callable[[Any], Any] | None = None,
    ) -> list[Answer]:
        call = f"{function.__module__}:{function.__qualname__}"
        job = _Job(call, tasks, limits or Limits(), on_done, keep)
        for number, task in enumerate(tasks):
            said = attempt(call, task)
            job.answer(number, Answer(said.get("value"), said.get("reason")))
        return [job.answers[number] for number in range(len(tasks))]


def forked(deed: Callable[[], int], fault: Callable[[], None] | None = None) -> int:
    """Run `deed` in a fork after `fault` was set up; return its exit status, negative for a signal."""
    child = fork()
    if child == 0:
        status = 99
        try:
            if fault:
                fault()
            status = deed()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Writes:
    """Counts writes, and does something at the n-th.

    Args:
        at: number of the write, from 1; 0 for none.
        deed: "kill" ends the process there, in the middle of a file's content; "full" makes this and every
            further write fail as on a full disk.
        note: file that the number of writes is appended to at the end, by `report`.
    """

    def __init__(self, at: int = 0, deed: str = "") -> None:
        self.at, self.deed, self.count = at, deed, 0

    def watch(self) -> None:
        """Start; there is no way back, so this belongs into a fork."""
        sync, fdopen = os.fsync, os.fdopen

        def counted_sync(descriptor: int) -> None:
            self.step()
            sync(descriptor)

        def counted_fdopen(descriptor: int, mode: str = "r", *rest: Any, **more: Any) -> Any:
            stream = fdopen(descriptor, mode, *rest, **more)
            return _Torn(stream, self) if "w" in mode else stream

        os.fsync, os.fdopen = counted_sync, counted_fdopen
        sys.addaudithook(self._hook)

    def step(self, half: Callable[[], None] | None = None, *, frees: bool = False) -> None:
        """Count one write; `half` writes a part of what is meant."""
        self.count += 1
        if not self.at or self.count < self.at:
            return
        if self.deed == "kill":
            if half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "full" and not frees:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _hook(self, event: str, words: tuple[Any, ...]) -> None:
        if event in _CHANGES or event in _REMOVALS:
            self.step(frees=event in _REMOVALS)
        elif event == "open" and isinstance(words[2], int) and words[2] & _WRITING:
            self.step()


class _Torn:
    """A stream whose writes are counted, and cut in the middle when the process dies there."""

    def __init__(self, stream: Any, writes: Writes) -> None:
        self.stream, self.writes = stream, writes

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, content: bytes) -> None:
        def half() -> None:
            self.stream.write(content[: len(content) // 2])
            self.stream.flush()

        self.writes.step(half)
        self.stream.write(content)


def tree_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, hidden ones too; folders are listed as such."""
    return {
        str(path.relative_to(folder)): "folder" if path.is_dir() else _hash(path)
        for path in sorted(folder.rglob("*"))
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
