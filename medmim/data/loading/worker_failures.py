"""Failures and signals of data loader workers: error messages name the volume that a worker was loading."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from medmim.errors import DataError, MedmimError, RunError
from medmim.operating_system import signals

_MOST = 256
_DEATH = re.compile(r"worker \(pid(?:\(s\))? (\d+)")
# raised if a worker ends while its tensors are fetched
_CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)
_CLOSING_S = 2.0  # the sockets of a dying worker close before its exit status is available


class WorkerLog:
    """The current sample of each worker and the state of the trainer, in memory shared by all processes."""

    def __init__(self) -> None:
        self._rows = torch.full((_MOST, 2), -1)  # process id, sample number
        self._rows.share_memory_()  # type: ignore[no-untyped-call]
        self._training = torch.zeros(1, dtype=torch.bool)
        self._training.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def training(self) -> bool:
        """Whether training is in progress."""
        return bool(self._training)

    @training.setter
    def training(self, value: bool) -> None:
        self._training.fill_(value)

    def note(self, number: int) -> None:
        """Record the sample that this worker loads next; does nothing in the main process."""
        worker = get_worker_info()
        if worker is not None:
            self._rows[worker.id % _MOST] = torch.tensor([os.getpid(), number])

    def draw_of(self, process: int) -> int | None:
        """Return the sample that a process was loading, or None."""
        for known, number in self._rows.tolist():
            if known == process:
                return int(number)
        return None

    def died(self, *, wait_s: float) -> int | None:
        """Return the process id of a failed worker, or None if no worker fails within `wait_s` seconds."""
        deadline = time.monotonic() + wait_s
        while True:
            for process in self._rows[:, 0].tolist():
                if process > 0 and _failed(process):
                    return int(process)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)


def leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore signals that stop training: the trainer needs its workers until its state is saved.

    Afterwards, workers must react to SIGTERM, which Python sends to stop them.
    """
    signal.signal(signal.SIGTERM, _end_unless_training)
    for number in signals("SIGINT", "SIGUSR1"):
        signal.signal(number, signal.SIG_IGN)


def _end_unless_training(number: int, frame: object) -> None:
    worker = get_worker_info()
    notes = getattr(worker.dataset, "notes", None) if worker else None
    if notes is None or not notes.training:
        os._exit(128 + number)


@contextmanager
def named_failures(notes: WorkerLog, volume_of: Callable[[int], str]) -> Iterator[None]:
    """Keep workers alive through signals and turn worker failures into one-line errors that name the volume.

    Args:
        volume_of: returns the volume id for a sample number.

    Raises:
        DataError: if a volume cannot be read.
        RunError: if a worker ends without an answer.
    """
    notes.training = True
    try:
        yield
    except MedmimError as error:
        if "\n" not in str(error):
            raise
        # PyTorch adds the worker's traceback to the message; the last line is our message
        message = str(error).strip().splitlines()[-1].partition(": ")[2]
        raise DataError(message, reason="damaged_dataset") from None
    except (RuntimeError, *_CUT_OFF) as error:
        worker = _dead_worker(error, notes)
        if worker is None:
            raise
        draw = notes.draw_of(worker)
        volume = "a volume" if draw is None else f"volume {volume_of(draw)}"
        raise RunError(
            f"a data loader worker died while loading {volume}, probably for lack of memory: use fewer "
            "--workers, a smaller --set cache_gb, or `medmim verify`; then continue with --resume"
        ) from None
    finally:
        notes.training = False


def _dead_worker(error: Exception, notes: WorkerLog) -> int | None:
    """Return the id of the dead worker process that caused an error, or None."""
    if isinstance(error, _CUT_OFF):
        _restore_sigchld()
        return notes.died(wait_s=_CLOSING_S)
    death = _DEATH.search(str(error))
    return int(death[1]) if death else None


def _failed(process: int) -> bool:
    """Return whether a child process exited with an error, without reaping it."""
    if not hasattr(os, "waitid"):  # Windows
        return False
    try:
        end = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return end is not None and end.si_status != 0


def _restore_sigchld() -> None:
    """Remove PyTorch's SIGCHLD handler, which would raise at an arbitrary point of this process.

    PyTorch still polls its workers every few seconds.
    """
    while signals("SIGCHLD") and threading.current_thread() is threading.main_thread():
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except RuntimeError:  # from the handler, for a worker that just died
            continue
        return
