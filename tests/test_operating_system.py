"""Fallbacks where the system has no affinity or /proc, refuses a limit, or is not POSIX (simulated)."""

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from dicom_maker import make_slice, save_all

from medmim import operating_system


def test_all_cores_count_without_affinity(monkeypatch):
    assert operating_system.usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert operating_system.usable_cores() == os.cpu_count()


def test_memory_is_unknown_without_proc(tmp_path):
    assert operating_system.available_memory_mb(tmp_path) == math.inf
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    2048 kB\n")
    assert operating_system.available_memory_mb(tmp_path) == 2
    assert not operating_system.descriptors_are_files(tmp_path)


def test_a_refused_limit_is_left_out(monkeypatch):
    def refuse(kind, limits):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    before = resource.getrlimit(resource.RLIMIT_AS)
    operating_system.limit("AS", 1 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


# what Windows lacks; macOS lacks a part of it
WITHOUT = """
import multiprocessing, os, shutil, signal, socket, sys
shutil._use_fd_functions = False  # as on Windows; it would use what is removed below
sys.modules["fcntl"] = sys.modules["resource"] = None
for owner, names in (
    (os, "fork forkpty killpg setsid sched_getaffinity waitid fchmod O_NOFOLLOW O_NONBLOCK O_CLOEXEC"),
    (socket, "send_fds recv_fds SOCK_SEQPACKET"),
    (signal, "SIGHUP SIGXCPU"),  # PyTorch and Lightning use two more unless the platform is Windows
):
    for name in names.split():
        delattr(owner, name)
multiprocessing.set_start_method("spawn")
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A function that runs a command where Python has no fork, locks, limits and signals of POSIX."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "hidden"), str(Path(operating_system.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "MEDMIM_HOME": str(tmp_path / "runs")}

    def run(*words):
        command = [sys.executable, "-m", "medmim", *map(str, words)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    return run


def test_scans_are_ingested_without_fork_locks_and_limits(elsewhere, tmp_path):
    save_all(tmp_path / "scans", [make_slice(place) for place in range(6)])
    (tmp_path / "scans" / "broken.dcm").write_bytes(b"0" * 128 + b"DICM")
    found = json.loads(elsewhere("ingest", "scans", "--json").splitlines()[-1])
    assert (found["files_accepted"], found["files_quarantined"]) == (6, 1)
    assert found["volumes"] == 1


@pytest.mark.slow
def test_models_are_trained_compared_and_used_without_fork_locks_and_limits(elsewhere, tmp_path):
    root = tiny.make_dataset(tmp_path / "medmim-data")
    words = [*tiny.TINY_WORDS, "--steps", "2", "--set", "num_evaluations=1"]
    words[words.index("--workers") + 1] = "1"  # spawned: it receives the dataset by pickling
    elsewhere("pretrain", *words)
    elsewhere("finetune", "segment", *words)
    elsewhere("finetune", "segment", "--init", "scratch", *words)
    assert "too few patients" in elsewhere("compare")
    scan = next((root / "volumes").rglob("*.nii.gz"))
    elsewhere("predict", scan, "--out", "predicted")
    assert list((tmp_path / "predicted").rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build", "580.95.05"),
        ("something else", ""),
    ],
)
def test_the_driver_is_read_from_proc(tmp_path, line, version):
    place = tmp_path / "driver" / "nvidia" / "version"
    place.parent.mkdir(parents=True)
    place.write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert operating_system.nvidia_driver(tmp_path) == version


def test_without_proc_the_drivers_own_program_is_asked(tmp_path):
    program = tmp_path / "smi"
    program.write_text("#!/bin/sh\necho 552.22\necho 552.22\n")
    program.chmod(0o755)
    assert operating_system.nvidia_driver(tmp_path, str(program)) == "552.22"
    assert operating_system.nvidia_driver(tmp_path, str(tmp_path / "none")) is None
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert operating_system.nvidia_driver(tmp_path, str(program)) == ""


def test_linux_inside_windows_has_the_driver_of_windows():
    assert operating_system.driver_is_of_windows("5.15.153.1-microsoft-standard-WSL2")
    assert not operating_system.driver_is_of_windows("6.8.0-45-generic")
