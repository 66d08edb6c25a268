import multiprocessing
import os
import signal
import time
from contextlib import suppress

import pytest
import tiny
import torch
from torch.utils.data import get_worker_info

from medmim.data.loading.patches import PatchDataset, SampleRange, batches, pretraining_patches
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.worker_failures import named_failures
from medmim.errors import DataError, RunError

PLAN = PreprocessingPlan(3, (8, 8, 8))
ROWS = [tiny.row(name) for name in "abcdef"]
BAD = ROWS[3]
READY = PreprocessedVolume(torch.ones(1, 8, 8, 8), None, torch.eye(4).double().numpy(), 2)


def failing(how, bad=(BAD,)):
    """Volumes, one of which cannot be prepared."""

    def prepare(volume):
        if volume.id in {one.id for one in bad}:
            how()
        return READY

    draws = PatchDataset(ROWS, prepare, pretraining_patches(PLAN), labelled=False, seed=0)
    with named_failures(draws.notes, lambda draw: draws.volume_of(draw).id):
        return list(batches(draws, SampleRange(12), batch_size=2, workers=2))


def refuse():
    raise DataError(f"volume {BAD.id}: cut off; run `medmim ingest` again", reason="damaged_dataset")


def test_a_volume_that_fails_in_a_worker_is_told_in_one_line():
    with pytest.raises(DataError, match=f"^volume {BAD.id}: cut off; run `medmim ingest` again$"):
        failing(refuse)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_names_the_volume(number):
    with pytest.raises(RunError, match=f"died while loading volume {BAD.id}, ") as caught:
        failing(lambda: os.kill(os.getpid(), number))
    assert "\n" not in str(caught.value)


def test_the_death_of_every_worker_is_told_once():
    """The second dies while the trainer already unwinds: nothing may be raised at some later place."""

    def die():
        time.sleep(0.3 * get_worker_info().id)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match="died while loading volume "):
        failing(die, ROWS)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        pass


def test_a_worker_that_dies_while_its_batch_is_fetched_names_the_volume():
    """The trainer sees a closed socket before it can see that the child is dead."""

    def prepare(volume):
        if volume.id == draws.volume_of(2).id:  # of the second batch
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return READY

    def cut_off():
        with named_failures(draws.notes, lambda draw: draws.volume_of(draw).id):
            coming = iter(batches(draws, SampleRange(12), batch_size=2, workers=1))
            next(coming)
            raise ConnectionResetError(104, "Connection reset by peer")

    draws = PatchDataset(ROWS, prepare, pretraining_patches(PLAN), labelled=False, seed=0)
    with pytest.raises(RunError, match=f"died while loading volume {draws.volume_of(2).id}, "):
        cut_off()


def test_a_lost_connection_of_the_trainer_itself_stays_what_it_is():
    draws = PatchDataset(ROWS, lambda volume: READY, pretraining_patches(PLAN), labelled=False, seed=0)
    report = named_failures(draws.notes, lambda draw: draws.volume_of(draw).id)
    with pytest.raises(ConnectionResetError, match="reset by peer"), report:
        raise ConnectionResetError(104, "Connection reset by peer")


def test_workers_leave_signals_to_the_trainer():
    def interrupt():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)

    assert len(failing(interrupt)) == 6


def test_a_worker_that_is_left_behind_ends_when_python_asks_it_to():
    draws = PatchDataset(ROWS, lambda volume: READY, pretraining_patches(PLAN), labelled=False, seed=0)
    coming = iter(batches(draws, SampleRange(12), batch_size=2, workers=1))
    next(coming)
    worker = multiprocessing.active_children()[-1]
    time.sleep(0.5)  # until it waits: a worker that ends while it holds PyTorch's lock blocks the trainer
    worker.terminate()
    with suppress(RuntimeError):  # torch's own handler tells of the child's end, here or later
        worker.join(20)
    worker.join(20)
    assert worker.exitcode == 128 + signal.SIGTERM


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError, match="by zero"):
        failing(lambda: 1 / 0)
