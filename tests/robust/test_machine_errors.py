"""Ordinary errors of a machine end a command with one line, a remedy and the exit code 1."""

import contextlib
import ctypes
import os
import resource
import subprocess

import nibabel
import numpy as np
import pytest
import tiny
from forked_command import run_forked

import medmim.stages.finetune.run
import medmim.stages.predict.run
import medmim.stages.pretrain.run  # noqa: F401 (imported before the forks)
from medmim.tracking.mlflow_store import Store

NOBODY, NEW_MOUNTS = 65534, 0x00020000
WORDS = (*tiny.TINY_WORDS, "--steps", "1", "--set", "num_evaluations=1")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def place(new_home, tiny_dataset, tmp_path):
    """A home folder and the words of a pretraining."""
    Store(new_home())
    return new_home(), ("pretrain", "--data", tiny_dataset, *WORDS)


def assert_one_line(outcome, remedy):
    code, line = outcome
    assert (code, line[:8], "internal error" in line) == (1, "medmim: ", False), line
    assert remedy in line


@needs_root
def test_a_read_only_home(place):
    home, pretrain = place
    home.chmod(0o755)
    assert_one_line(run_forked(pretrain, home, lambda: os.seteuid(NOBODY)), "MEDMIM_HOME")


def test_a_path_that_is_too_long(place, tmp_path):
    home, _ = place
    words = ("ingest", tmp_path, "--out", tmp_path / ("long" * 80))
    assert_one_line(run_forked(words, home), "use shorter names")


def test_a_limit_of_the_size_of_files(place):
    home, pretrain = place
    limit = 8 << 10
    outcome = run_forked(pretrain, home, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert_one_line(outcome, "ulimit -f")


def test_a_limit_of_the_size_of_files_stops_an_ingestion(place, tmp_path):
    """Otherwise every scan would be quarantined as too large."""
    scan = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
    (tmp_path / "source").mkdir()
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), tmp_path / "source" / "scan.nii.gz")
    words = ("ingest", tmp_path / "source", "--out", tmp_path / "data")
    limit = 32 << 10
    outcome = run_forked(words, place[0], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert_one_line(outcome, "ulimit -f unlimited")


@pytest.mark.parametrize("free", range(4))
def test_a_limit_of_open_files(place, free):
    home, pretrain = place

    def leave_free():
        opened = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in opened[-free:] if free else []:
            os.close(descriptor)

    assert_one_line(run_forked(pretrain, home, leave_free), "ulimit -n")


def test_a_limit_of_memory(place):
    home, pretrain = place

    def limited():
        with open("/proc/self/statm", encoding="utf-8") as stream:  # noqa: PTH123
            used = int(stream.read().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), used + (24 << 20)))

    words = (*pretrain, "--size", "64", "--batch-size", "64")  # arrays of a MiB meet the limit, not objects
    assert_one_line(run_forked(words, home, limited, fork=os.fork), "memory")  # the heap stays as it is


@needs_root
@pytest.mark.slow
def test_shared_memory_that_is_too_small(place):
    home, pretrain = place

    def small():
        assert ctypes.CDLL(None).unshare(NEW_MOUNTS) == 0
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/dev/shm"], check=True)

    words = [*pretrain[: pretrain.index("--workers")], "--workers", "1", "--size", "64"]
    assert_one_line(run_forked((*words, "--steps", "1"), home, small), "--shm-size")
