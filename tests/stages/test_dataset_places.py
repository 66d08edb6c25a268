"""A run finds its dataset where it was last, or where it was moved to."""

import shutil

import pytest
import tiny

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError
from medmim.stages.dataset_places import PLACES, find_places, note_places


@pytest.fixture
def noted(tiny_dataset, tmp_path, monkeypatch):
    """A home that knows a dataset, and the dataset's hash."""
    monkeypatch.chdir(tmp_path)
    data, home = tmp_path / "scans" / "lung", tmp_path / "home"
    shutil.copytree(tiny_dataset, data)
    content = read_dataset(data).info.content_hash
    note_places(home, {"dataset_hash": content}, [data])
    return home, content, data


def test_the_last_place_is_found_and_private(noted):
    home, content, data = noted
    assert find_places(home, {"dataset_hash": content}) == [data]
    assert (home / PLACES).stat().st_mode & 0o777 == 0o600


def test_a_renamed_dataset_is_found_by_its_content(noted):
    home, content, data = noted
    data.rename(data.with_name("chest"))
    assert find_places(home, {"dataset_hash": content}) == [data.with_name("chest")]


def test_a_dataset_that_was_moved_elsewhere_is_named_with_the_way_out(noted, tmp_path):
    home, content, data = noted
    (tmp_path / "far").mkdir()
    data.rename(tmp_path / "far" / "gone")
    with pytest.raises(DataError, match=rf"content {content[:8]}\) was at '.*lung'.*--data"):
        find_places(home, {"dataset_hash": content})


def test_the_default_folder_is_searched_without_a_note(noted, tmp_path):
    _, content, data = noted
    data.rename(tmp_path / "medmim-data")
    assert find_places(tmp_path / "other", {"dataset_hash": content}) == [tmp_path / "medmim-data"]


def test_every_dataset_of_a_run_is_found(noted, tmp_path):
    home, content, data = noted
    other = tiny.make_dataset(tmp_path / "scans" / "brain", seed=4)
    tags = {"dataset_hash": "of both", "dataset_hashes": f"{content},{read_dataset(other).info.content_hash}"}
    note_places(home, tags, [data, other])
    assert find_places(home, tags) == [data, other]
