import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import signal
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest

from medmim import files

TEXT = "Grüße, 3×3×3"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "report.json"


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def broken(*_args, **_kwargs):
    raise OSError("the disk is gone")


class FullDisk(io.FileIO):
    """A stream that cannot be written to."""

    def write(self, _content):
        raise OSError("the disk is gone")


def test_the_folder_is_created(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_an_existing_file_is_replaced(target):
    files.write_text(target, "a longer text than the next")
    files.write_text(target, TEXT)
    assert target.read_bytes() == TEXT.encode("utf-8")
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("step", ["replace", "fsync", "write"])
def test_a_failed_write_keeps_the_old_file_and_no_temporary_file(step, target, monkeypatch):
    files.write_text(target, "old")
    if step == "replace":
        monkeypatch.setattr(Path, "replace", broken)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", broken)
    else:
        monkeypatch.setattr(os, "fdopen", FullDisk)
    with pytest.raises(OSError, match="the disk is gone"):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_an_interrupted_write_leaves_no_temporary_file(target, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        files.write_text(target, "new")
    assert list(target.parent.iterdir()) == []


def test_the_temporary_file_is_hidden_in_the_folder_of_the_target(target, monkeypatch):
    seen = []
    monkeypatch.setattr(Path, "replace", lambda self, _target: seen.append(self))
    files.write_text(target, "new")
    assert seen[0].parent == target.parent
    assert seen[0].name.startswith(".")


def test_tmpdir_is_not_used(target, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(target.parent / "missing"))
    files.write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_applies_without_a_mode(umask, expected, target):
    before = os.umask(umask)
    try:
        files.write_bytes(target, b"x")
        assert permissions(target) == expected
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_mode_is_exact_under_any_umask(mode, target):
    before = os.umask(0o027)
    try:
        files.write_bytes(target, b"x", mode=mode)
    finally:
        os.umask(before)
    assert permissions(target) == mode


def test_a_secret_is_created_unreadable_for_others(target, monkeypatch):
    seen = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
    )
    opened = os.open

    def watched(path, flags, mode=0o777, **rest):
        handle = opened(path, flags, mode, **rest)
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "open", watched)
    files.write_bytes(target, b"secret", mode=0o600)
    assert seen[0] == 0o600


def test_the_umask_of_the_process_is_not_changed(target, monkeypatch):
    # the umask is shared by all threads: changing it for a moment would affect files that they create
    monkeypatch.setattr(os, "umask", broken)
    files.write_bytes(target, b"x")


def test_concurrent_writers_leave_one_complete_file(target):
    contents = [bytes([65 + i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_bytes, args=(target, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert list(target.parent.iterdir()) == [target]


def test_equal_content_gives_equal_json_bytes(tmp_path):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    files.write_json(first, {"b": [1, 2.5], "a": {"y": None, "x": "ü"}})
    files.write_json(second, {"a": {"x": "ü", "y": None}, "b": [1, 2.5]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().endswith("}\n")
    assert json.loads(first.read_text()) == {"b": [1, 2.5], "a": {"y": None, "x": "ü"}}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_rejects_numbers_that_are_not_finite(number, target):
    for write in (
        lambda: files.write_json(target, {"a": number}),
        lambda: files.write_jsonl(target, [{"a": number}]),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write()
    assert not target.exists()


def test_json_lines_are_read_in_order(target):
    rows = [{"b": 1, "a": "line\nbreak\u2028"}, {}, {"a": None}]
    files.write_jsonl(target, iter(rows))
    assert list(files.read_jsonl(target)) == rows
    assert target.read_text().count("\n") == 3
    target.write_text(target.read_text() + "\n  \n")
    assert list(files.read_jsonl(target)) == rows


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_sha256_equals_that_of_hashlib(size, target):
    content = os.urandom(size)
    target.write_bytes(content)
    assert files.sha256_of(target) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("folder", ["configs", "data_manifests"])
def test_shipped_folders_exist(folder):
    assert files.shipped(folder).is_dir()
    assert files.shipped(folder).name == folder


def test_files_written_together_are_all_new_or_all_old(tmp_path, monkeypatch):
    first, second = tmp_path / "1", tmp_path / "2"
    files.write_together({first: b"old", second: b"old"})
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(files.WriteError, match="No space left"):
            files.write_together({first: b"new", second: b"new"})
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"old")
    files.write_together({first: b"new", second: b"new"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new", b"new")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_move_creates_the_folder(tmp_path):
    (tmp_path / "staged").write_bytes(b"x")
    files.move(tmp_path / "staged", tmp_path / "a" / "b" / "place")
    assert (tmp_path / "a" / "b" / "place").read_bytes() == b"x"
    with pytest.raises(files.WriteError, match=r"cannot write: No such file or directory"):
        files.move(tmp_path / "staged", tmp_path / "a" / "other")


def test_move_together_creates_the_folders(tmp_path):
    staged = [tmp_path / name for name in ("a", "b")]
    for path in staged:
        path.write_text(path.name)
    places = {path: tmp_path / "out" / path.name / "file" for path in staged}
    files.move_together(places)
    assert [place.read_text() for place in places.values()] == ["a", "b"]
    with pytest.raises(files.WriteError, match=r"cannot write: No such file or directory"):
        files.move_together(places)


def test_write_errors_contain_no_path(tmp_path):
    (tmp_path / "SENTINEL").write_bytes(b"no folder")
    with pytest.raises(files.WriteError, match=r"^cannot write: ") as caught:
        files.write_bytes(tmp_path / "SENTINEL" / "file", b"x")
    assert "SENTINEL" not in str(caught.value)


def test_require_room_leaves_no_file(tmp_path):
    files.require_room(tmp_path)
    assert not list(tmp_path.iterdir())


def hold_lock(folder, ready):
    with files.lock(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def lock_elsewhere():
    """A function that lets another process hold the lock of a folder until the test ends."""
    context = multiprocessing.get_context("fork")
    processes = []

    def start(folder):
        ready = context.Event()
        processes.append(context.Process(target=hold_lock, args=(folder, ready)))
        processes[-1].start()
        assert ready.wait(60)
        return processes[-1].pid

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_a_full_disk_costs_a_picture_and_no_training(caplog):
    with files.not_on_a_full_disk("a picture"):
        raise files.WriteError(errno.ENOSPC, "No space left on device")
    assert "a picture is not saved: No space left on device" in caplog.text
    with pytest.raises(files.WriteError, match="Read-only"), files.not_on_a_full_disk("a picture"):
        raise files.WriteError(errno.EROFS, "Read-only file system")


def test_a_lock_names_its_holder(tmp_path, lock_elsewhere):
    assert not files.is_locked(tmp_path)
    pid = lock_elsewhere(tmp_path)
    assert files.is_locked(tmp_path)
    message = f"is in use by process {pid} on "
    with pytest.raises(files.LockedError, match=message), files.lock(tmp_path, wait=False):
        raise AssertionError


def test_a_lock_ends_with_its_process(tmp_path, lock_elsewhere):
    pid = lock_elsewhere(tmp_path)
    os.kill(pid, signal.SIGKILL)
    with files.lock(tmp_path):
        assert files.is_locked(tmp_path)
    assert not files.is_locked(tmp_path)


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    with files.lock(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    assert not files.is_locked(tmp_path)
    child.kill()
    child.join()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_marker_file_replaces_flock_where_it_is_missing(code, tmp_path, monkeypatch):
    def missing(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)
    with files.lock(tmp_path):
        assert files.is_locked(tmp_path)
        with pytest.raises(files.LockedError, match="in use by process"), files.lock(tmp_path, wait=False):
            raise AssertionError
    assert not files.is_locked(tmp_path)


def test_a_link_shares_the_content_and_survives_the_replacement_of_the_original(tmp_path):
    path, place = tmp_path / "weights", tmp_path / "model" / "weights"
    path.write_bytes(b"first")
    files.link_or_copy(path, place)
    assert place.stat().st_ino == path.stat().st_ino
    files.write_bytes(path, b"second")
    assert place.read_bytes() == b"first"
    files.link_or_copy(path, place)
    assert place.read_bytes() == b"second"


def test_a_file_is_copied_where_links_are_not_possible(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"content")
    other = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    if other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second filesystem")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        files.link_or_copy(path, Path(folder) / "weights")
        assert (Path(folder) / "weights").read_bytes() == b"content"
