"""What the training stages share: an open run that always ends, its result, where weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from medmim.config import RunSettings
from medmim.errors import RunError

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder
    from medmim.tracking.store import Store

Settings = TypeVar("Settings", bound=RunSettings)


@dataclass(frozen=True)
class Result:
    """What `pretrain` and `finetune` give.

    Attributes:
        run_id: in the MLflow store.
        checkpoint: weights (safetensors).
        metrics: the run's final numbers.
        panel: the last picture.
    """

    run_id: str
    checkpoint: Path
    metrics: dict[str, float]
    panel: Path

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "run_id": self.run_id,
            "checkpoint": str(self.checkpoint),
            "metrics": self.metrics,
            "panel": str(self.panel),
        }


@contextmanager
def ending(recorder: Recorder) -> Iterator[Recorder]:
    """Give the run back and end it whatever happens: FINISHED, FAILED, or KILLED when interrupted."""
    try:
        yield recorder
    except Exception:
        recorder.finish("FAILED")
        raise
    except BaseException:
        recorder.finish("KILLED")
        raise
    recorder.finish("FINISHED")


def stored_settings(kind: type[Settings], store: Store, run_id: str, *, data: Path) -> Settings:
    """Return the settings that a run was started with, for `--resume`; the dataset's place is given again."""
    values = yaml.safe_load(store.read_text(store.run(run_id), "settings.yaml"))
    return kind.model_validate({**values, "data": data})


def unfinished(store: Store, stage: str, word: str) -> str:
    """Return the run that `--resume WORD` means.

    Args:
        store: the local store.
        stage: pretrain or finetune.
        word: a run id, or `latest`.

    Raises:
        RunError: if there is none, or it is already complete.
    """
    if word == "latest":
        open_runs = [run for run in store.runs(stage=stage) if run.info.status != "FINISHED"]
        if not open_runs:
            raise RunError(f"--resume: no unfinished {stage} run here")
        return str(open_runs[0].info.run_id)
    run = store.run(word)
    if run.data.tags.get("stage") != stage:
        raise RunError(f"--resume: run {word} was not made by `medmim {stage}`")
    if run.info.status == "FINISHED":
        raise RunError(f"--resume: run {word} is already complete")
    return word
