import multiprocessing
import os
import signal
from contextlib import suppress

import pytest
import tiny
import torch

from medmim.data.draws import Draws, batches, pretraining_patches
from medmim.data.plan import Plan
from medmim.data.prepare import Prepared
from medmim.data.workers import naming
from medmim.errors import DataError, RunError

PLAN = Plan(3, (8, 8, 8))
ROWS = [tiny.row(name) for name in "abcdef"]
BAD = ROWS[3]
READY = Prepared(torch.ones(1, 8, 8, 8), None, torch.eye(4).double().numpy(), 2)


def failing(how):
    """Volumes, one of which cannot be prepared."""

    def prepare(volume):
        if volume is BAD or volume.id == BAD.id:
            how()
        return READY

    draws = Draws(ROWS, prepare, pretraining_patches(PLAN), labelled=False, seed=0, total=12)
    with naming(draws.notes, lambda draw: draws.volume_of(draw).id):
        return list(batches(draws, batch_size=2, workers=2))


def refuse():
    raise DataError(f"volume {BAD.id}: cut off; run `medmim ingest` again", reason="damaged_dataset")


def test_a_volume_that_fails_in_a_worker_is_told_in_one_line():
    with pytest.raises(DataError, match=f"^volume {BAD.id}: cut off; run `medmim ingest` again$"):
        failing(refuse)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_names_the_volume(number):
    with pytest.raises(RunError, match=f"died while it was at volume {BAD.id}: ") as caught:
        failing(lambda: os.kill(os.getpid(), number))
    assert "\n" not in str(caught.value)


def test_workers_leave_signals_to_the_trainer():
    def interrupt():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)

    assert len(failing(interrupt)) == 6


def test_a_worker_that_is_left_behind_ends_when_python_asks_it_to():
    draws = Draws(ROWS, lambda volume: READY, pretraining_patches(PLAN), labelled=False, seed=0, total=12)
    coming = iter(batches(draws, batch_size=2, workers=1))
    next(coming)
    worker = multiprocessing.active_children()[-1]
    worker.terminate()
    with suppress(RuntimeError):  # torch's own handler tells of the child's end, here or later
        worker.join(20)
    worker.join(20)
    assert worker.exitcode == 128 + signal.SIGTERM


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError):
        failing(lambda: 1 / 0)
