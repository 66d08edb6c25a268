"""Batches on nodes give the answers of one sandbox; a node with another setup stops the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medmim.data.ingest.dicom_copies import hash_file
from medmim.data.sandbox import ray_sandbox
from medmim.data.sandbox.ray_cluster import Engine, Job
from medmim.data.sandbox.ray_sandbox import RaySandbox
from medmim.data.sandbox.sandbox import Sandbox
from medmim.errors import RunError
from medmim.files import WriteError


class Here(Engine):
    """An engine in this process that finishes its jobs backwards and runs the first one twice."""

    capacity = 2  # type: ignore[assignment]

    def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        function(**jobs[0])
        for place in reversed(range(len(jobs))):
            yield place, function(**jobs[place])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("staging", "source"):
        (tmp_path / name).mkdir()
    return tmp_path / "staging", tmp_path / "source"


@pytest.fixture(scope="module", autouse=True)
def own() -> Iterator[None]:
    yield
    ray_sandbox._own_sandbox().__exit__()
    ray_sandbox._own_sandbox.cache_clear()


def test_answers_equal_those_of_a_sandbox(folders: tuple[Path, Path]):
    tasks = []
    for number in range(21):
        (folders[1] / f"{number}").write_text(f"{number}")
        tasks.append({"path": str(folders[1] / f"{number if number != 7 else 'absent'}")})
    progress: list[int] = []
    found = RaySandbox(Here(), folders[0], [folders[1]]).run_each(
        hash_file, tasks, on_done=progress.append, keep=lambda digest: digest[:9]
    )
    with Sandbox(1) as sandbox:
        assert found == sandbox.run_each(hash_file, tasks, keep=lambda digest: digest[:9])
    assert found[7].reason == "parser_error"
    assert progress == sorted(progress)
    assert progress[-1] == 21
    assert RaySandbox(Here(), folders[0], [folders[1]]).run_each(hash_file, tasks[:1])[0].value


def run(folders: tuple[Path, Path], made: RaySandbox | None = None) -> None:
    (made or RaySandbox(Here(), folders[0], [folders[1]])).run_each(hash_file, [{"path": "x"}])


def test_a_node_without_the_folders_stops_the_run(folders: tuple[Path, Path]):
    made = RaySandbox(Here(), folders[0], [folders[1]])
    folders[1].rmdir()
    with pytest.raises(RunError, match="source': expected the source and the dataset folder under the same"):
        run(folders, made)
    folders[1].mkdir()
    (folders[0] / "marker.json").unlink()
    with pytest.raises(RunError, match=r"a Ray node does not see .*staging"):
        run(folders, made)


def test_a_node_with_another_converter_stops_the_run(folders: tuple[Path, Path]):
    made = RaySandbox(Here(), folders[0], [folders[1]])
    versions = json.loads((folders[0] / "marker.json").read_text())
    (folders[0] / "marker.json").write_text(json.dumps({**versions, "dcm2niix": "0.1"}))
    with pytest.raises(RunError, match=r"has dcm2niix .*, expected 0\.1"):
        run(folders, made)


@pytest.mark.parametrize(
    ("error", "fault"), [(WriteError(28, "full"), "cannot write"), (RunError("no worker"), "no worker")]
)
def test_errors_of_a_node_stop_the_run(folders: tuple[Path, Path], error: Exception, fault: str):
    class Failing:
        def run_each(self, *_: Any, **__: Any) -> None:
            raise error

    class OnFailingNode(Here):
        def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
            yield 0, function(**jobs[0], sandbox=Failing)

    with pytest.raises(type(error), match="No space left" if fault == "cannot write" else fault):
        run(folders, RaySandbox(OnFailingNode(), folders[0], [folders[1]]))
