"""The processes that prepare batches: they outlive signals; when one fails or dies, its volume is named."""

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

_MOST = 256
_DEATH = re.compile(r"worker \(pid(?:\(s\))? (\d+)")
_CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)  # when it dies while its tensors are fetched
_CLOSING_S = 2.0  # its sockets close before its end can be seen


class WorkerLog:
    """Which draw each worker is at, and whether its trainer is at work, in memory that all processes see."""

    def __init__(self) -> None:
        self._rows = torch.full((_MOST, 2), -1)  # process, draw
        self._rows.share_memory_()  # type: ignore[no-untyped-call]
        self._training = torch.zeros(1, dtype=torch.bool)
        self._training.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def training(self) -> bool:
        """Whether a trainer needs its workers."""
        return bool(self._training)

    @training.setter
    def training(self, value: bool) -> None:
        self._training.fill_(value)

    def note(self, number: int) -> None:
        """Note the draw that this worker begins; the trainer's own process notes nothing."""
        worker = get_worker_info()
        if worker is not None:
            self._rows[worker.id % _MOST] = torch.tensor([os.getpid(), number])

    def draw_of(self, process: int) -> int | None:
        """Return the draw that a process was at, or None."""
        for known, number in self._rows.tolist():
            if known == process:
                return int(number)
        return None

    def died(self, *, wait_s: float) -> int | None:
        """Return a worker that was killed or failed, or None when there is none within `wait_s`."""
        deadline = time.monotonic() + wait_s
        while True:
            for process in self._rows[:, 0].tolist():
                if process > 0 and _failed(process):
                    return int(process)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)


def leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore what stops a training: it needs its workers until its state is saved.

    After that SIGTERM is how Python ends them: one that ignored it would be waited for without end.
    """
    signal.signal(signal.SIGTERM, _end_unless_training)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _end_unless_training(number: int, frame: object) -> None:
    worker = get_worker_info()
    notes = getattr(worker.dataset, "notes", None) if worker else None
    if notes is None or not notes.training:
        os._exit(128 + number)


@contextmanager
def naming(notes: WorkerLog, volume_of: Callable[[int], str]) -> Iterator[None]:
    """Keep workers through signals, and turn what PyTorch says of a failed one into a line with the volume.

    Args:
        notes: that the workers made.
        volume_of: from the number of a draw to its volume's id.

    Raises:
        DataError: for a volume that cannot be read.
        RunError: for a worker that died.
    """
    notes.training = True
    try:
        yield
    except MedmimError as error:
        if "\n" not in str(error):
            raise
        # PyTorch puts the worker's whole traceback into the message; ours is its last line
        said = str(error).strip().splitlines()[-1].partition(": ")[2]
        raise DataError(said, reason="damaged_dataset") from None
    except (RuntimeError, *_CUT_OFF) as error:
        worker = _dead_worker(error, notes)
        if worker is None:
            raise
        draw = notes.draw_of(worker)
        volume = "a volume" if draw is None else f"volume {volume_of(draw)}"
        raise RunError(
            f"a process that prepares patches died while it was at {volume}: expected memory enough for it; "
            "use fewer --workers, a smaller --set cache_gb, or `medmim verify`; --resume continues"
        ) from None
    finally:
        notes.training = False


def _dead_worker(error: Exception, notes: WorkerLog) -> int | None:
    """Return the process whose death an error tells of, or None."""
    if isinstance(error, _CUT_OFF):
        _hear_no_more_of_children()
        return notes.died(wait_s=_CLOSING_S)
    death = _DEATH.search(str(error))
    return int(death[1]) if death else None


def _failed(process: int) -> bool:
    """Return whether a child ended other than well; it can be waited for as before."""
    try:
        end = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return end is not None and end.si_status != 0


def _hear_no_more_of_children() -> None:
    """Take PyTorch's handler away: it would raise wherever this process is when it hears of the death.

    PyTorch still looks at its workers every few seconds.
    """
    while threading.current_thread() is threading.main_thread():
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except RuntimeError:  # of one that just died
            continue
        return
