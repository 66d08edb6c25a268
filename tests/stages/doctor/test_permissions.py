import os
import stat

import pytest

from medmim.files import SHARED
from medmim.stages.doctor.permissions import judge_permissions, restrict_permissions


@pytest.fixture
def open_home(tmp_path):
    home = tmp_path / "home"
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / "weights.safetensors").write_bytes(b"x")
    (home / "link").symlink_to(tmp_path)
    for path, mode in [(home, 0o755), (home / "checkpoints", 0o755)]:
        path.chmod(mode)
    (home / "checkpoints" / "weights.safetensors").chmod(0o640)
    return home


def modes(home):
    paths = (home, home / "checkpoints", home / "checkpoints" / "weights.safetensors")
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_files_that_others_can_read_are_counted_and_repaired(open_home, tmp_path):
    before = stat.S_IMODE(tmp_path.stat().st_mode)
    name, status, found, advice = judge_permissions([open_home, tmp_path / "missing"])
    assert (name, status) == ("permissions", "bad")
    assert found == "3 files and folders can be read by others"
    assert "doctor --repair" in advice
    assert restrict_permissions([open_home]) == 3
    assert modes(open_home) == [0o700, 0o700, 0o600]
    assert judge_permissions([open_home])[1] == "ok"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == before  # the target of the link


def test_a_private_folder_protects_its_content(open_home):
    open_home.chmod(0o700)
    assert judge_permissions([open_home])[1] == "ok"


def test_a_shared_home_is_open_to_the_group_only(open_home, monkeypatch):
    monkeypatch.setenv(SHARED, "1")
    assert restrict_permissions([open_home]) == 2
    assert modes(open_home) == [0o750, 0o750, 0o640]


def test_files_of_other_owners_are_skipped(open_home, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert restrict_permissions([open_home]) == 0
