"""Ten thousand files: memory of the parent stays flat, and time grows with the number of files."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from dicom_maker import make_slice

# Told apart from the workers by measuring inside: the parent's own peak, in kB, after the command is done.
_PROGRAM = """
import resource, sys
from medmim.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def write_files(folder, count):
    """Write series of 50 slices; every tenth series has a gap, every tenth file is no scan."""
    for number in range(count):
        series, place = divmod(number, 50)
        path = folder / f"{series:04d}"
        path.mkdir(parents=True, exist_ok=True)
        if number % 10 == 9:
            (path / f"{place}.txt").write_text("no scan")
            continue
        step = place - place // 10 + (5 if series % 10 == 0 and place > 20 else 0)
        words = {"series": f"1.2.{series + 1}", "study": f"1.3.{series + 1}", "patient": f"P{series // 3}"}
        make_slice(step, **words).save_as(path / f"{place}.dcm", enforce_file_format=True)


def measure(tmp_path, count):
    """Return the parent's peak memory in MB and the seconds of one ingestion."""
    write_files(tmp_path / f"in{count}", count)
    line = [sys.executable, "-c", _PROGRAM, "ingest", str(tmp_path / f"in{count}")]
    surroundings = {**os.environ, "MEDMIM_HOME": str(tmp_path / "home")}
    started = time.monotonic()
    ran = subprocess.run(
        [*line, "--out", str(tmp_path / f"out{count}")],
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stderr.split()[-1]) / 1024, time.monotonic() - started


@pytest.mark.slow
def test_memory_is_flat_and_time_linear(tmp_path, capsys):
    small, large = 1_000, 11_000
    first, first_s = measure(tmp_path, small)
    second, second_s = measure(tmp_path, large)
    with capsys.disabled():
        sys.stderr.write(
            f"\n{small}: {first:.0f} MB, {first_s:.1f} s; {large}: {second:.0f} MB, {second_s:.1f} s\n"
        )
    assert (second - first) / (large - small) * 10_000 < 50
    assert second_s / large < 1.5 * first_s / small
