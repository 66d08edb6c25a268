import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from local_server import free_port, wait_for

from medmim.errors import RunError, UsageError
from medmim.stages.ui import pages, serve


def test_without_runs_there_is_nothing_to_show(tmp_path):
    with pytest.raises(RunError, match=r"no runs in .*: run `medmim pretrain`, or set MEDMIM_HOME"):
        serve(tmp_path, port=free_port())


def test_each_experiment_has_an_address_that_opens_its_table(study):
    assert pages(study.home, port=5001) == [
        ("medmim", "http://127.0.0.1:5001/#/experiments/1/runs?workflowType=machine_learning")
    ]


def test_a_taken_port_is_told(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--port {port} is in use: choose another"):
            serve(home, port=port)


class Server:
    """Stands for the process of MLflow's server."""

    def __init__(self, ending):
        self.endings, self.words, self.terminated = [ending, 0], None, False

    def __call__(self, words, env):
        self.words, self.env = words, env
        return self

    def wait(self):
        ending = self.endings.pop(0)
        if isinstance(ending, int):
            return ending
        raise ending

    def terminate(self):
        self.terminated = True


def test_the_server_is_told_to_stay_on_this_machine(home, monkeypatch):
    server, port = Server(0), free_port()
    monkeypatch.setattr(subprocess, "Popen", server)
    serve(home, port=port)
    assert server.words[server.words.index("--host") + 1] == "127.0.0.1"
    assert server.words[server.words.index("--port") + 1] == str(port)
    assert server.words[server.words.index("--backend-store-uri") + 1].endswith("/mlflow.db")
    assert server.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not server.terminated


def test_ctrl_c_ends_the_server(home, monkeypatch):
    server = Server(KeyboardInterrupt())
    monkeypatch.setattr(subprocess, "Popen", server)
    serve(home, port=free_port())
    assert server.terminated


def test_a_server_that_fails_is_told(home, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Server(3))
    with pytest.raises(RunError, match="ended with exit code 3"):
        serve(home, port=free_port())


def listeners(port):
    """Addresses that listen on a port, as Linux writes them."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rsplit(":", 1)[1], 16) == port:
                found.add(address.rsplit(":", 1)[0])
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_the_server_answers_on_this_machine_only_and_ends_with_ctrl_c(study):
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "medmim", "ui", "--port", str(port)],
        env={**os.environ, "MEDMIM_HOME": str(study.home)},
        start_new_session=True,  # so that Ctrl-C reaches the server below it, as it does in a terminal
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        assert listeners(port) == {"0100007F"}
    finally:
        os.killpg(server.pid, signal.SIGINT)
        _, stderr = server.communicate(timeout=60)
    assert server.returncode == 0, stderr
    assert f"http://127.0.0.1:{port}" in stderr
    assert listeners(port) == set()
