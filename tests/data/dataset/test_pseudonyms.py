"""Keys: stable, secret, and rejected if other users can read them."""

import hashlib
import hmac
import os
import stat

import pytest

from medmim.data.dataset.pseudonyms import Keys
from medmim.errors import DataError


def test_a_new_secret_is_private_and_persistent(tmp_path):
    path = tmp_path / "home" / "project.key"
    old_mask = os.umask(0)
    try:
        first = Keys.load_or_create(path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert Keys.load_or_create(path).key("subject", "Doe^Jane") == first.key("subject", "Doe^Jane")


def test_keys_are_hmacs_of_kind_and_text(tmp_path):
    path = tmp_path / "project.key"
    keys = Keys.load_or_create(path)
    expected = hmac.new(path.read_bytes(), b"subject\0caf\xc3\xa9", hashlib.sha256).hexdigest()[:16]
    assert keys.key("subject", "café") == expected
    assert keys.key("study", "café") != expected
    assert Keys.load_or_create(tmp_path / "other.key").key("subject", "café") != expected


def test_undecodable_file_names_have_keys(tmp_path):
    keys = Keys.load_or_create(tmp_path / "project.key")
    assert len(keys.key("file", os.fsdecode(b"\xff\xfe"))) == 16


def test_the_secret_is_not_shown(tmp_path):
    path = tmp_path / "project.key"
    keys = Keys.load_or_create(path)
    shown = f"{keys!r} {keys}"
    assert path.read_bytes().hex() not in shown
    assert repr(path.read_bytes()) not in shown


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_accessible_to_others_is_rejected(tmp_path, mode):
    path = tmp_path / "project.key"
    Keys.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(DataError, match=f"chmod 600 {path}") as caught:
        Keys.load_or_create(path)
    assert caught.value.reason == "key_exposed"


@pytest.mark.parametrize("length", [0, 31, 33, 5000])
def test_a_secret_of_wrong_length_is_rejected(tmp_path, length):
    path = tmp_path / "project.key"
    path.write_bytes(bytes(length))
    path.chmod(0o600)
    with pytest.raises(DataError, match="expected 32 bytes") as caught:
        Keys.load_or_create(path)
    assert caught.value.reason == "bad_key"


def test_links_folders_and_pipes_are_rejected(tmp_path):
    Keys.load_or_create(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    with pytest.raises(DataError, match="regular file"):
        Keys.load_or_create(tmp_path / "link.key")
    (tmp_path / "folder.key").mkdir()
    with pytest.raises(DataError, match="regular file"):
        Keys.load_or_create(tmp_path / "folder.key")
    os.mkfifo(tmp_path / "fifo.key", 0o600)
    with pytest.raises(DataError, match="regular file"):
        Keys.load_or_create(tmp_path / "fifo.key")


def test_identifiers_that_differ_in_writing_only_have_one_loose_key():
    keys = Keys(b"0" * 32)
    alike = ("pat-7", "PAT-07", "Pat_007", "pat 7", "ｐａｔ７", "р\u0430t-7")  # the last: Cyrillic р and а
    assert len({keys.loose_key(text) for text in alike}) == 1
    others = ("pat-7", "pat-70", "pat-7-1", "pat-71", "bat-7", "7", "pat-7b")
    assert len({keys.loose_key(text) for text in others}) == len(others)
    assert keys.loose_key("--") is None
    assert keys.loose_key("0") == keys.loose_key("00") is not None
