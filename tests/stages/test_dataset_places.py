"""A run finds its dataset where it was last, or where it was moved to."""

import shutil

import pytest

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError
from medmim.stages.dataset_places import PLACES, find_place, note_place


@pytest.fixture
def noted(tiny_dataset, tmp_path, monkeypatch):
    """A home that knows a dataset, and the dataset's hash."""
    monkeypatch.chdir(tmp_path)
    data, home = tmp_path / "scans" / "lung", tmp_path / "home"
    shutil.copytree(tiny_dataset, data)
    content = read_dataset(data).info.content_hash
    note_place(home, content, data)
    return home, content, data


def test_the_last_place_is_found_and_private(noted):
    home, content, data = noted
    assert find_place(home, content) == data
    assert (home / PLACES).stat().st_mode & 0o777 == 0o600


def test_a_renamed_dataset_is_found_by_its_content(noted):
    home, content, data = noted
    data.rename(data.with_name("chest"))
    assert find_place(home, content) == data.with_name("chest")


def test_a_dataset_that_was_moved_elsewhere_is_named_with_the_way_out(noted, tmp_path):
    home, content, data = noted
    (tmp_path / "far").mkdir()
    data.rename(tmp_path / "far" / "gone")
    with pytest.raises(DataError, match=rf"content {content[:8]}\) was at '.*lung'.*--data"):
        find_place(home, content)


def test_the_default_folder_is_searched_without_a_note(noted, tmp_path):
    _, content, data = noted
    data.rename(tmp_path / "medmim-data")
    assert find_place(tmp_path / "other", content) == tmp_path / "medmim-data"
