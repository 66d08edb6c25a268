"""Sandboxed calls on the nodes of a cluster: each node parses files in its own limited child process.

Nodes read the source and write to the staging folder directly, so both must have the same path on every node
(NFS, for example); only paths and small answers travel between nodes.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from medmim import __version__, files
from medmim.data.sandbox.ray_cluster import Engine
from medmim.data.sandbox.sandbox import Answer, Limits, Sandbox, for_scans
from medmim.data.sandbox.sandbox_worker import Task
from medmim.errors import RunError
from medmim.files import WriteError

_BATCH = 64
_BATCHES_EACH = 4  # per CPU, so that all CPUs finish at about the same time
_PACKAGES = ("dcm2niix", "isal", "nibabel", "numpy", "pydicom")  # determine the bytes of a volume


class RaySandbox:
    """A `Sandbox` on many machines, with the same answers.

    Args:
        staging: folder that tasks write to; a file in it shows each node that it sees the same folder.
    """

    def __init__(self, engine: Engine, staging: Path, sources: Sequence[Path]) -> None:
        self._engine = engine
        self._shared = [str(staging), *map(str, sources)]
        files.write_json(staging / _MARKER, _versions())

    def run_each(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        limits: Limits | None = None,
        on_done: Callable[[int], None] | None = None,
        keep: Callable[[Any], Any] | None = None,
    ) -> list[Answer]:
        """Call `function(**task)` for each task, as `Sandbox.run_each` does.

        Raises:
            RunError: if folders or versions of a node differ from this machine's, or no node is left.
            WriteError: if a node cannot write.
        """
        size = max(1, min(_BATCH, len(tasks) // (_BATCHES_EACH * self._engine.capacity)))
        starts = range(0, len(tasks), size)
        common = {"function": function, "limits": limits or Limits(), "shared": self._shared}
        jobs = [{**common, "tasks": list(tasks[start : start + size])} for start in starts]
        answers: dict[int, Answer] = {}
        for place, (fault, found) in self._engine.map(run_batch, jobs):
            if fault:
                raise (
                    WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if fault == _FULL else RunError(fault)
                )
            for index, answer in enumerate(found, start=starts[place]):
                value = keep(answer.value) if keep and answer.value is not None else answer.value
                answers[index] = Answer(value, answer.reason)
            if on_done:
                on_done(len(answers))
        return [answers[index] for index in range(len(tasks))]


def run_batch(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    *,
    limits: Limits,
    shared: Sequence[str],
    sandbox: Callable[[], Sandbox] | None = None,
) -> tuple[str, list[Answer]]:
    """Run tasks on this node; called by an engine.

    Args:
        shared: the staging folder, then the folders of the source.
        sandbox: returns the sandbox to use; by default that of this process.

    Returns:
        A message about what is wrong with this node, or ""; and the answers.
    """
    if fault := _fault(shared):
        return fault, []
    try:
        return "", (sandbox or _own_sandbox)().run_each(function, tasks, limits=limits)
    except WriteError:
        return _FULL, []
    except RunError as error:
        return str(error), []


_MARKER = "marker.json"
_FULL = "cannot write"


@functools.cache
def _own_sandbox() -> Sandbox:
    """Return this process's sandbox, which is kept because starting it takes longer than most tasks."""
    return for_scans(1)


def _fault(shared: Sequence[str]) -> str:
    """Return why this node would give other answers, or ""."""
    missing = [folder for folder in shared if not Path(folder).is_dir()]
    marker = Path(shared[0]) / _MARKER
    if missing or not marker.is_file():
        return (
            f"a Ray node does not see '{(missing or shared)[0]}': expected the source and the dataset folder "
            "under the same paths on every node; share them, or leave out --engine ray"
        )
    expected, own = json.loads(marker.read_text(encoding="utf-8")), _versions()
    if differing := sorted(name for name in expected if expected[name] != own.get(name)):
        name = differing[0]
        return (
            f"a Ray node has {name} {own.get(name)}, expected {expected[name]} as here, for equal bytes; "
            "install the same versions on every node"
        )
    return ""


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:2]))
    return {"medmim": __version__, "Python": python, **{name: metadata.version(name) for name in _PACKAGES}}
