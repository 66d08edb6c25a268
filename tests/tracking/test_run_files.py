import pytest

from medmim.tracking.run_files import inside, link_files


@pytest.mark.parametrize("old", ["file:///old/home", "file:///old/artifacts/home"])
def test_an_address_of_an_old_home_folder_is_found_in_the_new_one(old, tmp_path):
    (tmp_path / "artifacts" / "quick").mkdir(parents=True)
    assert inside(tmp_path, f"{old}/artifacts/quick/abc/artifacts") == (
        tmp_path / "artifacts" / "quick" / "abc" / "artifacts"
    )


def test_an_address_elsewhere_is_kept(tmp_path):
    assert str(inside(tmp_path, "file:///mnt/a%20b/runs/abc")) == "/mnt/a b/runs/abc"


def test_linked_files_take_no_space(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_text("content")
    link_files(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c" / "b" / "weights").stat().st_nlink == 2
    link_files(tmp_path / "gone", tmp_path / "d")
    assert not (tmp_path / "d").exists()
