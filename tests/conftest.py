"""Small datasets and an empty store that tests of several folders share; warnings of our own are errors."""

import functools
import gc
import json
import os
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import checked_calls
import pytest
import torch

checked_calls.install("medmim")

import tiny  # noqa: E402

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", r"error:::medmim(\.|$)")


def pytest_collection_finish(session):
    """Exempt modules and collected tests from garbage collection, which every failing command asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Several threads on tensors of a few voxels only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Ten patients of 20×16×16 voxels, 1 mm, RAS, labels `core` and `rim`; 7 train, 1 val, 2 test."""
    return tiny.make_dataset(tmp_path_factory.mktemp("sources") / "tiny-scans")


@pytest.fixture
def dataset_copy(tiny_dataset, tmp_path):
    """A copy of the tiny dataset, to be damaged."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


@pytest.fixture(scope="session")
def varied_dataset(tmp_path_factory):
    """Eight patients with three spacings and four orientations; one has two volumes."""
    return tiny.make_dataset(
        tmp_path_factory.mktemp("sources") / "varied-scans", patients=8, varied=True, seed=1
    )


@pytest.fixture(scope="session")
def unlabelled_dataset(tmp_path_factory):
    """Eight patients without labels."""
    return tiny.make_dataset(
        tmp_path_factory.mktemp("sources") / "bare-scans", patients=8, labels=False, seed=2
    )


@pytest.fixture(scope="session")
def sandbox():
    """One running parser process: starting Python takes longer than ingesting a few files."""
    from medmim.data.sandbox.sandbox import Sandbox

    with Sandbox(1) as running:
        yield running


def _unsynced(raw, _):
    if isinstance(raw, sqlite3.Connection):
        raw.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session")
def new_home(tmp_path_factory):
    """A function that gives a fresh home folder; its database is a copy, since making one takes seconds.

    MLflow loads its migration scripts for every database that it opens, to find the newest: here only once.
    And no test cuts the power of the machine, so nothing has to reach the disk at once.
    """
    import sqlalchemy
    from mlflow.store.db import utils

    from medmim.tracking.mlflow_store import Store

    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", _unsynced)
    template = tmp_path_factory.mktemp("template")
    Store(template).client.search_experiments()

    def make() -> Path:
        home = tmp_path_factory.mktemp("home")
        shutil.copyfile(template / "mlflow.db", home / "mlflow.db")
        return home

    return make


@pytest.fixture
def free_port():
    """A function that gives a port nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def home(new_home, monkeypatch):
    """A fresh `MEDMIM_HOME`."""
    folder = new_home()
    monkeypatch.setenv("MEDMIM_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def study(tiny_dataset, new_home):
    """A home folder with one pretraining, a fine-tuning from it and one from scratch."""
    from medmim.config.runs import FinetuneSettings, PretrainSettings
    from medmim.stages.finetune.run import finetune
    from medmim.stages.pretrain.run import pretrain

    home, said = new_home(), []
    words = {**tiny.TINY, "data": tiny_dataset, "num_evaluations": 2}
    pretraining = PretrainSettings(**words, steps=2, method_options={"decoder_width": 8})
    pretrained = pretrain(pretraining, home=home)
    tuned = finetune(FinetuneSettings(**words, steps=2), home=home, log=said.append)
    scratch = finetune(FinetuneSettings(**words, steps=2, init="scratch"), home=home, log=said.append)
    return SimpleNamespace(
        home=home, data=tiny_dataset, pretrained=pretrained, tuned=tuned, scratch=scratch, said=said
    )


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch):
    """Commands of one test leave their list of trusted code in the environment of this process."""
    monkeypatch.delenv("MEDMIM_TRUST_CODE", raising=False)


@pytest.fixture(autouse=True)
def _study_unchanged(request):
    """Tests share the study, in an order that differs between runs: one that trains in it takes a copy."""
    yield
    if "study" in request.fixturenames:
        with closing(sqlite3.connect(request.getfixturevalue("study").home / "mlflow.db")) as database:
            assert database.execute("SELECT COUNT(*) FROM runs").fetchone() == (3,)


@pytest.fixture
def study_copy(study, tmp_path):
    """The study in a home folder of the test's own, for tests that train in it."""
    return SimpleNamespace(**{**vars(study), "home": shutil.copytree(study.home, tmp_path / "study-home")})


@pytest.fixture
def stored(home):
    """A home with a pretraining, a registered fine-tuning with scores, and a failed control."""
    from medmim.tracking.mlflow_store import Store

    store = Store(home)
    pre = store.begin(experiment="e", name="pre", tags={"stage": "pretrain", "arm": "spark mesh 0.7"})
    pre.finish("FINISHED")
    tags = {"stage": "finetune", "task": "segment", "metric": "dice", "dataset": "scans"}
    tuned = store.begin(experiment="e", name="a", tags={**tags, "arm": "spark mesh 0.7"})
    tuned.metrics({"test/dice": 0.8, "last/minutes": 3.0}, step=0)
    tuned.text("scores.jsonl", json.dumps({"metric": "dice", "low": 0.7, "high": 0.9}) + "\n")
    tuned.finish("FINISHED")
    store.register(
        model="scans-segment", run_id=tuned.run_id, tags={"status": "candidate"}, alias="challenger"
    )
    control = store.begin(experiment="e", name="b", tags={**tags, "arm": "scratch"})
    control.finish("FAILED")
    store.begin(experiment="e", name="study", tags={})
    return home, pre.run_id, tuned.run_id, control.run_id
