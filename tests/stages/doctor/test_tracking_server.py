"""Unsafe, silent and wrongly addressed tracking servers are reported, and no credentials leak."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

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
