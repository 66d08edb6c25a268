"""Files of a source: links, hidden folders, single files, and paths that cannot be used."""

import pytest

from medmim.data.ingest.sources import find_files, walk
from medmim.errors import DataError, UsageError


def listed(root, **options):
    return {one.path.relative_to(root).as_posix(): one.reason for one in walk(root, **options)}


@pytest.fixture
def annex(tmp_path):
    """A DataLad dataset: files are links to objects in a hidden folder."""
    target = tmp_path / "in" / ".git" / "annex" / "objects" / "x" / "MD5E-s3--1.nii.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"abc")
    (tmp_path / "in" / "sub-01").mkdir()
    (tmp_path / "in" / "sub-01" / "T1.nii.gz").symlink_to(target)
    (tmp_path / "in" / "sub-02.nii.gz").symlink_to(tmp_path / "in" / ".git" / "annex" / "missing")
    return tmp_path / "in"


def test_links_into_hidden_folders_are_followed(annex):
    assert listed(annex) == {
        ".git": "hidden_folder",
        "sub-01/T1.nii.gz": None,
        "sub-02.nii.gz": "link_without_target",
    }
    (link,) = [one for one in walk(annex) if one.reason is None]
    assert link.file.read_bytes() == b"abc"


def test_links_out_of_the_source_are_followed_on_request(tmp_path):
    (tmp_path / "pool" / "p1").mkdir(parents=True)
    (tmp_path / "pool" / "p1" / "a.nii").write_bytes(b"a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p1").symlink_to(tmp_path / "pool" / "p1")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "pool" / "p1")
    assert listed(tmp_path / "in") == {"again": "link_not_followed", "p1": "link_not_followed"}
    followed = listed(tmp_path / "in", follow_links=True)
    assert followed == {"again/a.nii": None, "p1": "link_duplicate"}


def test_files_are_listed_once(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"a")
    (tmp_path / "b.nii").symlink_to(tmp_path / "a.nii")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert listed(tmp_path, follow_links=True) == {
        "a.nii": None,
        "b.nii": "link_duplicate",
        "loop": "link_duplicate",
        "self": "link_without_target",
    }


def test_hidden_folders_are_one_entry(tmp_path):
    for name in (".snapshot", "__MACOSX", "p1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_bytes(b"a")
    assert listed(tmp_path) == {".snapshot": "hidden_folder", "__MACOSX": "hidden_folder", "p1/a.nii": None}


def test_a_single_file_is_a_source(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"a")
    (tmp_path / "b.nii").write_bytes(b"b")
    sources = find_files(tmp_path / "a.nii", tmp_path / "out", None)
    assert [one.path.name for one in sources.entries] == ["a.nii"]
    assert sources.source == tmp_path


def test_invalid_paths_are_rejected(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        find_files(tmp_path / "gone", tmp_path / "out", None)
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no files below"):
        find_files(tmp_path / "in", tmp_path / "out", None)
    (tmp_path / "in" / "a").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="--follow-links"):
        find_files(tmp_path / "in", tmp_path / "out", None)
