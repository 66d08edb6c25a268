import json
import os
from types import SimpleNamespace

import pytest

from medmim.data.dataset.pseudonyms import Keys
from medmim.errors import DataError, RunError
from medmim.stages.doctor import Check
from medmim.stages.doctor.run import (
    DoctorReport,
    check_decoders,
    check_disk,
    check_packages,
    doctor,
    refuse_bad,
)


def find(result, name):
    return next(check for check in result.checks if check.name == name)


def test_this_machine_passes_all_checks(tmp_path):
    result = doctor(tmp_path, {})
    assert not [check for check in result.checks if check.status == "bad" and check.name != "disk"]
    assert {"python", "torch", "lightning", "devices", "precision", "disk", "key file"} <= {
        check.name for check in result.checks
    }
    assert find(result, "tracking server").found == "none: runs are stored locally"
    assert all(check.advice for check in result.checks if check.status != "ok")
    json.dumps(result.as_json())


@pytest.mark.parametrize(
    ("wanted", "status", "found", "advice"),
    [
        ("torch>=99", "bad", "expected >=99", "pip install 'torch>=99'"),
        ("torch>=2", "note", "expected >=2", "newer than 1.0, the newest that medmim was tested with"),
        ("no-such-part>=1", "bad", "not installed", "pip install 'no-such-part>=1'"),
        (
            "no-such-part>=1; extra == 'ui'",
            "note",
            "not installed",
            "only for `medmim ui`: pip install 'medmim[ui]'",
        ),
    ],
)
def test_old_missing_and_untested_packages_are_reported(wanted, status, found, advice):
    result = DoctorReport(tuple(check_packages([wanted, "nothing; extra == 'dev'"], {"torch": (1, 0)})))
    check = find(result, wanted.split(">")[0])
    assert check.status == status
    assert found in check.found
    assert advice in check.advice
    assert "nothing" not in [one.name for one in result.checks]


@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o640, "bad"), (0o604, "bad")])
def test_a_key_file_that_others_can_read_is_reported(tmp_path, mode, status):
    (tmp_path / "project.key").write_bytes(b"0" * 32)
    (tmp_path / "project.key").chmod(mode)
    check = find(doctor(tmp_path, {}), "key file")
    assert (check.status, check.found) == (status, f"permissions {mode:o}")


def test_the_advice_for_an_open_key_file_restricts_its_permissions(tmp_path):
    (tmp_path / "project.key").write_bytes(b"0" * 32)
    (tmp_path / "project.key").chmod(0o640)
    assert find(doctor(tmp_path, {}), "key file").advice == "chmod 600 $MEDMIM_HOME/project.key"


def make_folder(key):
    key.mkdir()


def make_dangling(key):
    key.symlink_to(key.with_name("nothing"))


def make_link(key):
    key.with_name("elsewhere").write_bytes(b"0" * 32)
    key.symlink_to(key.with_name("elsewhere"))


def make_pipe(key):
    os.mkfifo(key, 0o600)


def make_empty(key):
    key.touch(0o600)


@pytest.mark.parametrize(
    ("make", "found", "advice"),
    [
        (make_folder, "a folder, expected a regular file", "move it away"),
        (make_dangling, "a link, expected a regular file", "move it away"),
        (make_link, "a link, expected a regular file", "move it away"),
        (make_pipe, "a special file, expected a regular file", "move it away"),
        (make_empty, "0 bytes, expected 32", "restore it from a copy"),
    ],
)
def test_a_key_file_that_ingest_cannot_read_is_reported(tmp_path, make, found, advice):
    make(tmp_path / "project.key")
    check = find(doctor(tmp_path, {}), "key file")
    assert (check.status, check.found) == ("bad", found)
    assert check.advice.startswith(advice)
    with pytest.raises(DataError, match="key file"):
        Keys.load_or_create(tmp_path / "project.key")


@pytest.mark.parametrize("below", ["file", "file/below", "dangling", "dangling/below"])
def test_a_home_that_is_not_a_folder_is_reported(tmp_path, below):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    check = find(doctor(tmp_path / below, {}), "disk")
    assert (check.status, check.found) == ("bad", "MEDMIM_HOME is not a folder: runs cannot be written")
    assert check.advice == "set MEDMIM_HOME to a folder that you can write to"


def test_a_home_behind_a_link_passes(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert "GB free" in find(doctor(tmp_path / "link", {}), "disk").found


@pytest.mark.parametrize(("free", "status"), [(1e9, "bad"), (9e9, "note"), (9e10, "ok")])
def test_low_disk_space_is_reported(tmp_path, free, status):
    assert check_disk(tmp_path / "not" / "yet", lambda place: free).status == status


def test_missing_decoders_are_reported():
    checks = DoctorReport(tuple(check_decoders(lambda syntax: SimpleNamespace(is_available=False))))
    assert find(checks, "JPEG-LS pictures").advice == "pip install pyjpegls"


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1",
        "http://localhost:abc",
        "http://localhost:99999",
        "http://us er@host/",
        "http://somebody:secret @localhost:5000",
        "http://local\thost",
        "http://",
        "https:///path",
    ],
)
def test_an_invalid_address_is_reported(tmp_path, address):
    check = find(doctor(tmp_path, {"MLFLOW_TRACKING_URI": address}), "tracking server")
    assert (check.status, check.found) == ("bad", "MLFLOW_TRACKING_URI cannot be read")
    assert check.advice.startswith("set MLFLOW_TRACKING_URI to https://HOST[:PORT]")


def test_failed_checks_raise_an_error():
    refuse_bad(DoctorReport((Check("a", "note", "x", "y"),)))
    with pytest.raises(RunError, match="1 of 2 checks failed, first 'b': fix it"):
        refuse_bad(DoctorReport((Check("a", "ok", "x"), Check("b", "bad", "x", "fix it"))))
