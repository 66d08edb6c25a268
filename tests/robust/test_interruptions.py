"""Ingestion killed or out of disk space at any write: no data is lost, and the next run completes it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_source import write_source
from writes import Here, Writes, forked, tree_of

from medmim.data.dataset.integrity import find_problems
from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.errors import RunError
from medmim.stages.ingest import ingest

SHM = Path("/dev/shm")
MAY_MOUNT = not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode
STEP = 7  # every so many writes are tried; the slow test tries all


@pytest.fixture
def home(tmp_path):
    """A project folder with a key, so that all runs give the same names."""
    Keys.load_or_create(tmp_path / "home" / KEY_FILE)
    return tmp_path / "home"


def run(source: Path, out: Path, home: Path) -> int:
    """Ingest and return the exit code of the command; any other error is 99."""
    try:
        ingest(source, out, home=home, sandbox=Here())
    except RunError:
        return 1
    return 0


def counted(source: Path, out: Path, home: Path, note: Path) -> int:
    """Return the number of writes of an ingestion."""
    writes = Writes()

    def deed() -> int:
        status = run(source, out, home)
        note.write_text(str(writes.count))
        return status

    assert forked(deed, writes.watch) == 0
    return int(note.read_text())


@pytest.fixture(params=["new", "grown"])
def places(request, tmp_path, home):
    """A source, the expected dataset folder, a function that restores the initial folder, and the writes.

    new: the folder is empty; grown: it contains the dataset of a smaller source.
    """
    source = write_source(tmp_path / "in")
    before, here = tmp_path / "before", tmp_path / "here"
    before.mkdir()
    assert run(source, here, home) == 0  # what the first ingestion of a process loads, no fork loads again
    if request.param == "grown":
        assert forked(lambda: run(source, before, home)) == 0
        write_source(source / "more", seed=1)
        assert run(source, here, home) == 0
    target = tmp_path / "target"
    shutil.copytree(before, target)
    assert forked(lambda: run(source, target, home)) == 0

    def start() -> Path:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        return out

    return source, tree_of(target), start, counted(source, start(), home, tmp_path / "note")


def lost(out: Path, before: dict[str, str]) -> list[str]:
    """Return the volumes and labels that are missing or changed."""
    now = tree_of(out)
    return [name for name, digest in before.items() if "/" in name and now.get(name) != digest]


def interrupt(places, home, deed: str, numbers: range) -> None:
    source, wanted, start, total = places
    for number in numbers:
        out = start()
        before = tree_of(out)
        status = forked(lambda out=out: run(source, out, home), Writes(number, deed).watch)
        # the last steps only remove files, which a full disk permits
        expected = {"kill": {-signal.SIGKILL}, "full": {1, 0 if tree_of(out) == wanted else 1}}[deed]
        assert status in expected, f"write {number} of {total}: {status}"
        assert not lost(out, before), f"write {number} of {total}"
        if deed == "full" and before:
            # renames need no space; if one fails nevertheless, the next run repairs the three files
            whole = ("volume", "label", "subject", "row")
            wrong = [one for one in find_problems(read_dataset(out)) if one.what in whole]
            assert not wrong, f"write {number} of {total}: {wrong}"
        assert forked(lambda out=out: run(source, out, home)) == 0
        assert tree_of(out) == wanted, f"after write {number} of {total}"


def test_killed_at_some_writes(places, home):
    interrupt(places, home, "kill", range(1 + places[3] % STEP, places[3] + 1, STEP))


def test_disk_full_at_some_writes(places, home):
    interrupt(places, home, "full", range(1 + places[3] % STEP, places[3] + 1, STEP))


@pytest.mark.slow
def test_killed_at_every_write(places, home):
    interrupt(places, home, "kill", range(1, places[3] + 1))


@pytest.mark.slow
def test_disk_full_at_every_write(places, home):
    interrupt(places, home, "full", range(1, places[3] + 1))


def test_the_key_is_complete_or_absent(tmp_path):
    note = tmp_path / "note"
    for number in range(1, 12):
        home = tmp_path / f"home{number}"
        writes = Writes(number, "kill")

        def deed(home=home) -> int:
            Keys.load_or_create(home / KEY_FILE)
            return 0

        forked(deed, writes.watch)
        key = home / KEY_FILE
        note.write_bytes(key.read_bytes() if key.exists() else b"")
        assert len(note.read_bytes()) in (0, 32)
        assert len(Keys.load_or_create(key).key("subject", "a")) == 16


@pytest.mark.slow
@pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="no second filesystem")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["30-kills", "20-kills-tmpdir-elsewhere"])
def test_random_kills_of_the_command(elsewhere, tmp_path, source):
    """The command is killed with its child processes after a random time."""
    words = {**os.environ, "MEDMIM_HOME": str(tmp_path / "home")}
    if elsewhere:
        words["TMPDIR"] = str(SHM)

    def command(out: Path) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "medmim", "ingest", str(source), "--out", str(out), "--workers", "1"]
        return subprocess.Popen(
            line, env=words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    started = time.monotonic()
    assert command(tmp_path / "target").wait(60) == 0
    length, wanted = time.monotonic() - started, tree_of(tmp_path / "target")
    chance = random.Random(int(elsewhere))
    out = tmp_path / "out"
    for number in range(20 if elsewhere else 30):
        process = command(out)
        time.sleep(chance.uniform(0.35, 1.0) * length)
        process.kill()
        process.wait()
        if number % 5 == 4:  # several kills in a row, then a complete run
            assert command(out).wait(60) == 0
            assert tree_of(out) == wanted
            shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="no permission to mount")
@pytest.mark.parametrize("pages", [0, 1, 3])
def test_a_real_full_disk(pages, tmp_path):
    """A small filesystem with room for this many pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        source = write_source(tmp_path / "in")
        (disk / "filler").write_bytes(bytes((1 << 20) - pages * 4096))
        words = [sys.executable, "-m", "medmim", "ingest", str(source), "--out", str(disk / "out")]
        surroundings = {**os.environ, "MEDMIM_HOME": str(tmp_path / "home")}
        ran = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert "No space left" in ran.stderr
        assert "Traceback" not in ran.stderr
        (disk / "filler").unlink()
        again = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        dataset = read_dataset(disk / "out")
        assert len(dataset.volumes) == 2
        assert not find_problems(dataset)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
