import contextlib
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from medmim.data.dataset.pseudonyms import Keys
from medmim.errors import DataError, RunError
from medmim.stages.doctor import Check
from medmim.stages.doctor import run as module
from medmim.stages.doctor.run import DoctorReport, doctor, refuse_bad
from medmim.stages.doctor.tracking_server import Client, check_server

KNOWN = {"MLFLOW_TRACKING_USERNAME": "somebody"}


class Server(Client):
    """A tracking server with configured responses."""

    def __init__(self, version="3.17.2", *, to_anybody=401, under_any_name=403, password=""):
        self.version, self.to_anybody, self.under_any_name = version, to_anybody, under_any_name
        self.password = password

    def get(self, url, *, host="", authorization=""):
        if self.version is None:
            return None
        if url.endswith("/version"):
            return (200, self.version) if authorization.endswith(self.password) else (401, "")
        return (self.under_any_name if host else self.to_anybody), ""


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
def test_old_missing_and_untested_packages_are_reported(tmp_path, monkeypatch, wanted, status, found, advice):
    monkeypatch.setitem(module._NEWEST_TESTED, "torch", (1, 0))
    monkeypatch.setattr(module, "requires", lambda name: [wanted, "nothing; extra == 'dev'"])
    result = doctor(tmp_path, {})
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
def test_low_disk_space_is_reported(tmp_path, monkeypatch, free, status):
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda place: module.shutil._ntuple_diskusage(0, 0, free)
    )
    assert find(doctor(tmp_path / "not" / "yet", {}), "disk").status == status


def test_missing_decoders_are_reported(tmp_path, monkeypatch):
    class Missing:
        is_available = False

    monkeypatch.setattr(module, "get_decoder", lambda syntax: Missing)
    result = doctor(tmp_path, {})
    assert find(result, "JPEG-LS pictures").advice == "pip install pyjpegls"


@pytest.mark.parametrize(
    ("address", "server", "words", "said"),
    [
        ("https://mlflow.org.test", Server("3.17.1"), KNOWN, "older than 3.17.2"),
        ("https://mlflow.org.test", Server("<html>"), KNOWN, "does not report a version"),
        ("http://mlflow.org.test", Server(), KNOWN, "without TLS"),
        ("https://mlflow.org.test", Server(), {}, "no credentials are set"),
        ("https://somebody:secret@mlflow.org.test", Server(), {}, "contains a password"),
        ("https://mlflow.org.test", Server(to_anybody=200), KNOWN, "accepts requests without credentials"),
        ("http://127.0.0.1:5000", Server(under_any_name=200), {}, "accepts any host name"),
    ],
)
def test_an_unsafe_server_is_reported(address, server, words, said):
    _, status, _, advice = check_server({"MLFLOW_TRACKING_URI": address, **words}, server)
    assert status == "bad"
    assert said in advice
    assert "secret" not in advice
    assert "org.test" not in advice


@pytest.mark.parametrize(
    ("address", "words"),
    [("https://mlflow.org.test/", KNOWN), ("http://localhost:5000", {}), ("http://[::1]", {})],
)
def test_a_safe_server_passes(address, words):
    assert check_server({"MLFLOW_TRACKING_URI": address, **words}, Server())[1] == "ok"


@pytest.mark.parametrize(
    ("address", "words", "status"),
    [
        ("https://mlflow.org.test", {"MLFLOW_TRACKING_TOKEN": "sesame"}, "ok"),
        ("http://localhost:5000", {"MLFLOW_TRACKING_TOKEN": "sesame"}, "ok"),
        ("https://mlflow.org.test", KNOWN, "note"),
    ],
)
def test_the_version_is_requested_with_credentials_if_it_is_refused_without(address, words, status):
    found = check_server({"MLFLOW_TRACKING_URI": address, **words}, Server(password="sesame"))
    assert found[1] == status


def test_credentials_are_not_sent_without_tls():
    class Listening(Server):
        def get(self, url, *, host="", authorization=""):
            assert not authorization
            return super().get(url, host=host)

    environment = {"MLFLOW_TRACKING_URI": "http://mlflow.org.test", "MLFLOW_TRACKING_TOKEN": "sesame"}
    assert check_server(environment, Listening(password="sesame"))[1] == "bad"


def test_a_server_that_does_not_answer_gives_a_note():
    environment = {"MLFLOW_TRACKING_URI": "https://mlflow.org.test", **KNOWN}
    assert check_server(environment, Server(None))[1] == "note"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://somebody:secret@localhost:5998", "contains a password"),
        ("https://somebody:secret@mlflow.org.test", "contains a password"),
        ("http://mlflow.org.test", "without TLS"),
        ("https://mlflow.org.test", "no credentials are set"),
    ],
)
def test_the_address_of_a_server_that_is_down_is_checked(address, said):
    _, status, found, advice = check_server({"MLFLOW_TRACKING_URI": address}, Server(None))
    assert (status, found[:15]) == ("bad", "does not answer")
    assert said in advice
    assert "secret" not in found + advice


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


@pytest.mark.parametrize("address", ["", "databricks://profile:prefix", "sqlite:////my runs/mlflow.db"])
def test_addresses_without_a_server_are_ignored(address):
    assert check_server({"MLFLOW_TRACKING_URI": address}, Server(None))[1] == "ok"


def test_a_password_in_the_address_is_not_sent():
    class Listening(Server):
        def get(self, url, *, host="", authorization=""):
            assert url.startswith("http://localhost:5998/")
            return super().get(url, host=host, authorization=authorization)

    environment = {"MLFLOW_TRACKING_URI": "http://somebody:secret@localhost:5998/"}
    assert "contains a password" in check_server(environment, Listening())[3]


def test_a_port_without_http_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.getsockname()[1]}"}
        _, status, _, advice = check_server(environment, Client())
    assert status == "bad"
    assert "does not speak HTTP: set MLFLOW_TRACKING_URI" in advice


def greet(server):
    """Answer like an SSH server."""
    with contextlib.suppress(OSError):
        while True:
            caller, _ = server.accept()
            with caller:
                caller.recv(1024)
                caller.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/version")
        else:
            self.send_response(403 if "invalid" in self.headers["Host"] else 200)
        self.end_headers()
        self.wfile.write(b"3.17.2")

    def log_message(self, *words):
        """Suppress the log."""


def test_the_client_queries_a_real_server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert Client().get(f"{address}/version") == (200, "3.17.2")
        assert Client().get(f"{address}/version", host="x.invalid") == (403, "")
        assert Client().get(f"{address}/away") == (302, "")
    finally:
        server.shutdown()
        server.server_close()
    assert Client().get(f"{address}/version") is None
    assert Client().get(f"http://{'a' * 70}.test/version") is None  # not a valid host name


def test_failed_checks_raise_an_error():
    refuse_bad(DoctorReport((Check("a", "note", "x", "y"),)))
    with pytest.raises(RunError, match="1 of 2 checks failed, first 'b': fix it"):
        refuse_bad(DoctorReport((Check("a", "ok", "x"), Check("b", "bad", "x", "fix it"))))
