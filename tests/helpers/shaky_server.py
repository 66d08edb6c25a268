"""A real MLflow server in a thread, behind a socket that can fail in every way that a test asks for."""

import os
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

HANG_S = 5.0  # longer than the tests' timeout of a request


class ShakyServer:
    """Answers as MLflow does unless `fault` says otherwise.

    fault: from the number of the request since it was set to a word of `_FAULTS`, or None.
    """

    def __init__(self, folder):
        self._variables = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "server-artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        os.environ.update(self._variables)
        from mlflow.server import app
        from werkzeug.test import Client

        self.client = Client(app)
        self.asked = Counter()
        self.fault = None
        self.last = ""  # path of the last request
        self._count = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        for name in self._variables:
            os.environ.pop(name, None)

    @contextmanager
    def failing(self, fault):
        """Fail for a while; a word means every request."""
        self._count = 0
        self.fault = fault if callable(fault) else lambda number: fault
        try:
            yield
        finally:
            self.fault = None

    def next_fault(self, path):
        with self._lock:
            self._count += 1
            self.last = path
            self.asked[path.split("?")[0]] += 1
            return self.fault(self._count) if self.fault else None

    def answer(self, request, body):
        with self._lock:  # the handlers share one SQLite file; one request at a time is enough here
            return self.client.open(
                request.path, method=request.command, headers=dict(request.headers), data=body
            )

    def serve(self, request):
        """Read one request and answer it, or fail."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = self.next_fault(request.path)
        if fault in _BEFORE:
            _BEFORE[fault](request)
            return
        if fault == "slow":
            time.sleep(0.05)
        answer = self.answer(request, body)
        if fault == "lost answer":  # the work is done, nobody hears of it
            reset(request)
            return
        content = answer.get_data()
        request.send_response(answer.status_code)
        for key, value in answer.headers.items():
            if key.lower() not in ("content-length", "connection"):
                request.send_header(key, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if fault == "half answer" else content)
        if fault == "half answer":
            reset(request)

    def _handler(self):
        def serve(request):
            self.serve(request)

        methods = {f"do_{word}": serve for word in ("GET", "POST", "PUT", "PATCH", "DELETE")}
        return type("Handler", (_Handler,), methods)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        """Stay quiet."""

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def reset(handler):
    """Close the connection with a reset instead of an end."""
    handler.wfile.flush()
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def _status(code, content=b'{"error_code": "INTERNAL_ERROR", "message": "no"}', kind="application/json"):
    def send(handler):
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return send


def _hang(handler):
    time.sleep(HANG_S)
    reset(handler)


_BEFORE = {
    "down": reset,
    "500": _status(500),
    "503": _status(503, b"", "text/plain"),
    "401": _status(401, b"You are not authenticated", "text/html"),
    "403": _status(403, b"Permission denied", "text/html"),
    "host": _status(403, b"Invalid Host header - possible DNS rebinding attack detected", "text/plain"),
    "hang": _hang,
    "garbage": _status(200, b"<html>captive portal</html>", "text/html"),
    "empty": _status(200, b""),
}
