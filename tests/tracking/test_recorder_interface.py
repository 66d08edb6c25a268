import inspect

import pytest

from medmim.tracking.mlflow_recorder import MlflowRecorder
from medmim.tracking.recorder_interface import MemoryRecorder, Recorder
from medmim.training.callbacks import Log

METHODS = ["settings", "tags", "metrics", "picture", "text", "file", "finish"]


def public(kind):
    return {name for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [MemoryRecorder, MlflowRecorder])
def test_recorders_implement_the_interface(kind):
    assert public(Recorder) == set(METHODS)
    assert set(METHODS) <= public(kind)
    for name in METHODS:
        asked, given = (inspect.signature(getattr(owner, name)).parameters for owner in (Recorder, kind))
        assert [(p.name, p.kind) for p in asked.values()] == [(p.name, p.kind) for p in given.values()]


def test_the_memory_recorder_is_a_recorder_and_a_log():
    assert isinstance(MemoryRecorder(), Recorder)
    assert isinstance(MemoryRecorder(), Log)


def test_the_memory_recorder_records_everything(tmp_path):
    recorder = MemoryRecorder()
    (tmp_path / "a.bin").write_bytes(b"abc")
    recorder.settings({"lr": 0.1})
    recorder.tags({"stage": "x"})
    recorder.metrics({"loss": 1.0}, step=2)
    recorder.picture("p", b"png", step=0)
    recorder.picture("p", b"png2", step=1)
    recorder.text("t.txt", "words")
    recorder.file(tmp_path / "a.bin", folder="model")
    recorder.finish("FINISHED")
    assert recorder.all_settings == {"lr": 0.1}
    assert recorder.all_tags == {"stage": "x"}
    assert recorder.history == [(2, {"loss": 1.0})]
    assert recorder.pictures == {"p": [b"png", b"png2"]}
    assert recorder.texts == {"t.txt": "words"}
    assert recorder.stored == {"model/a.bin": b"abc"}
    assert recorder.status == "FINISHED"
