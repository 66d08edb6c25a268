"""Files are written whole or not at all."""

import hashlib
import io
import json
import os
import stat
import threading
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


def test_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    files.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_replaces_what_was_there(target):
    files.write_text(target, "a longer text than the next")
    files.write_text(target, TEXT)
    assert target.read_bytes() == TEXT.encode("utf-8")
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("step", ["replace", "fsync", "write"])
def test_a_kill_in_the_middle_leaves_the_old_content_and_no_litter(step, target, monkeypatch):
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


def test_control_c_in_the_middle_leaves_no_litter(target, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(target, "new")
    assert list(target.parent.iterdir()) == []


def test_the_temporary_file_lies_beside_the_target(target, monkeypatch):
    seen = []
    monkeypatch.setattr(Path, "replace", lambda self, _target: seen.append(self))
    files.write_text(target, "new")
    assert seen[0].parent == target.parent
    assert seen[0].name.startswith(".")


def test_works_without_a_usable_tmpdir(target, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(target.parent / "missing"))
    files.write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_rules_without_a_mode(umask, expected, target):
    before = os.umask(umask)
    try:
        files.write_bytes(target, b"x")
        assert permissions(target) == expected
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_mode_is_exact_whatever_the_umask(mode, target):
    before = os.umask(0o027)
    try:
        files.write_bytes(target, b"x", mode=mode)
    finally:
        os.umask(before)
    assert permissions(target) == mode


def test_a_secret_is_never_readable_by_others(target, monkeypatch):
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


def test_the_processes_umask_is_never_touched(target, monkeypatch):
    # it belongs to all threads: changing it for a moment would open the files that they write meanwhile
    monkeypatch.setattr(os, "umask", broken)
    files.write_bytes(target, b"x")


def test_writers_at_the_same_time_leave_one_whole_file(target):
    contents = [bytes([65 + i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_bytes, args=(target, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert list(target.parent.iterdir()) == [target]


def test_json_is_the_same_bytes_for_equal_content(tmp_path):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    files.write_json(first, {"b": [1, 2.5], "a": {"y": None, "x": "ü"}})
    files.write_json(second, {"a": {"x": "ü", "y": None}, "b": [1, 2.5]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().endswith("}\n")
    assert json.loads(first.read_text()) == {"b": [1, 2.5], "a": {"y": None, "x": "ü"}}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_json(number, target):
    for write in (
        lambda: files.write_json(target, {"a": number}),
        lambda: files.write_jsonl(target, [{"a": number}]),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write()
    assert not target.exists()


def test_json_lines_come_back_in_order(target):
    rows = [{"b": 1, "a": "line\nbreak\u2028"}, {}, {"a": None}]
    files.write_jsonl(target, iter(rows))
    assert list(files.read_jsonl(target)) == rows
    assert target.read_text().count("\n") == 3
    target.write_text(target.read_text() + "\n  \n")
    assert list(files.read_jsonl(target)) == rows


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_sha256_equals_hashlibs(size, target):
    content = os.urandom(size)
    target.write_bytes(content)
    assert files.sha256_of(target) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("folder", ["configs", "data_manifests"])
def test_shipped_folders_are_there(folder):
    assert files.shipped(folder).is_dir()
    assert files.shipped(folder).name == folder


def test_files_written_together_are_all_there_or_all_as_before(tmp_path, monkeypatch):
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


def test_a_file_is_moved_to_a_folder_that_is_made(tmp_path):
    (tmp_path / "staged").write_bytes(b"x")
    files.move(tmp_path / "staged", tmp_path / "a" / "b" / "place")
    assert (tmp_path / "a" / "b" / "place").read_bytes() == b"x"
    with pytest.raises(files.WriteError):
        files.move(tmp_path / "staged", tmp_path / "a" / "other")


def test_errors_of_writing_name_no_path(tmp_path):
    (tmp_path / "SENTINEL").write_bytes(b"no folder")
    with pytest.raises(files.WriteError) as caught:
        files.write_bytes(tmp_path / "SENTINEL" / "file", b"x")
    assert "SENTINEL" not in str(caught.value)


def test_room_is_tried_and_left(tmp_path):
    files.require_room(tmp_path)
    assert not list(tmp_path.iterdir())
