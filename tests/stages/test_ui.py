import importlib.metadata
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from local_server import free_port, wait_for

from medmim.errors import RunError, UsageError
from medmim.stages.ui import pages, require_server, run_until_interrupted, serve, server_command


def test_a_home_without_runs_is_rejected(tmp_path):
    with pytest.raises(RunError, match=r"no runs in .*: run `medmim pretrain`, or set MEDMIM_HOME"):
        serve(tmp_path, port=free_port(), token="abc")


def test_without_the_server_of_mlflow_the_extra_is_named(monkeypatch):
    require_server()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UsageError, match=r"MLflow's server, .*pip install 'medmim\[ui\]'"):
        require_server()


def test_each_experiment_has_addresses_that_open_its_table_and_its_charts(study):
    place = "http://127.0.0.1:5001/?token=abc#/experiments/1/runs?workflowType=machine_learning"
    assert pages(study.home, port=5001, token="abc") == [
        ("medmim, table", f"{place}&viewStateShareKey=medmim"),
        ("medmim, charts", f"{place}&compareRunsMode=CHART&viewStateShareKey=medmim-charts"),
    ]


def test_a_port_in_use_is_rejected_with_another(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--port {port} is in use: choose another"):
            serve(home, port=port, token="abc")


def test_the_server_is_started_on_the_store_of_the_home_folder(tmp_path):
    command = server_command(tmp_path / "mlflow.db", port=5001)
    assert command[1:3] == ["-m", "medmim.stages.ui_server"]
    assert command[3].endswith("/mlflow.db")
    assert command[4:] == [(tmp_path / "artifacts").as_uri(), "5001"]


SERVER = """
import pathlib, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(worker.pid))
time.sleep(60)
"""


def is_running(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads Linux's table of processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_the_server_and_its_workers(number, tmp_path):
    noted = tmp_path / "worker"
    command = [sys.executable, "-c", SERVER, str(noted)]
    process = multiprocessing.get_context("fork").Process(target=run_until_interrupted, args=(command,))
    process.start()
    while not (noted.exists() and noted.read_text()):
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == 0
    assert not is_running(int(noted.read_text()))


class SignalledCommand(list):
    """A command during whose start this process gets a signal."""

    def __iter__(self):
        os.kill(os.getpid(), signal.SIGHUP)
        return super().__iter__()


def test_a_signal_while_the_server_starts_ends_it():
    command = SignalledCommand([sys.executable, "-c", "import time; time.sleep(600)"])
    process = multiprocessing.get_context("fork").Process(target=run_until_interrupted, args=(command,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_the_exit_code_of_a_server_that_fails_is_returned():
    assert run_until_interrupted([sys.executable, "-c", "raise SystemExit(3)"]) == 3


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
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
        address = server.stderr.readline().split()[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"MLflow" in opener.open(address, timeout=60).read()
    finally:
        os.killpg(server.pid, signal.SIGINT)
        _, stderr = server.communicate(timeout=60)
    assert server.returncode == 0, stderr
    assert listeners(port) == set()
