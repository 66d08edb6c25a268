"""Fallbacks where the system has no affinity, no /proc, or refuses a limit."""

import math
import os
import resource

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
    operating_system.limit(resource.RLIMIT_AS, 1 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
