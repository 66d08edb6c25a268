"""Registration of finished fine-tunings as versions of a model, at the end of the training or later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from medmim import files
from medmim.errors import RunError, UnregisteredError, message_of
from medmim.stages.run_lifecycle import RunResult
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import NamedRun, RunOption

_KEPT = "registration.json"  # next to the weights
_REGISTER = RunOption("models register", stages=("finetune",))


class Registration(BaseModel):
    """What is registered of a run, as it is kept next to the weights.

    Attributes:
        score: metric of the pretraining run and its value; may be empty.
    """

    model: str
    tags: dict[str, str]
    score: dict[str, float]


def register(
    store: Store, result: RunResult, *, model: str, tags: Mapping[str, str], score: Mapping[str, float]
) -> None:
    """Register the model of a finished training, and note its score on the pretraining run.

    Args:
        store: that contains the run.
        result: of the training.
        model: name of the model.
        tags: of its new version.
        score: metric of the pretraining run and its value; may be empty.

    Raises:
        UnregisteredError: if the store fails or no longer contains the run; see `register_later`.
    """
    kept = Registration(model=model, tags=dict(tags), score=dict(score))
    files.write_json(store.checkpoints(result.run_id) / _KEPT, kept.model_dump())
    try:
        _register(store, result.run_id, kept)
    except Exception as error:
        raise UnregisteredError(
            f"the training finished with weights '{result.checkpoint}', but its model was not registered "
            f"({_reason(error)}): run `medmim models register {result.run_id[:8]}`",
            result,
        ) from error


def register_later(home: Path, word: str) -> tuple[str, int]:
    """Register the model of a finished fine-tuning unless it is registered; return name and version.

    Args:
        home: home folder.
        word: id of the run, or its beginning.

    Raises:
        RunError: if no finished fine-tuning, or more than one, has such an id, or its file is damaged.
    """
    kept_of = {one.parent.name: one for one in home.glob(f"checkpoints/*/{_KEPT}")}
    candidates = [NamedRun(one, one, "finetune") for one in kept_of if one.startswith(word)]
    run_id = _REGISTER.only(word, candidates, lambda: kept_of)  # deleted runs too
    path = kept_of[run_id]
    try:
        kept = Registration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"'{path}' is damaged: expected model, tags and score; predict with --model {word}, or "
            "fine-tune again"
        ) from error
    return kept.model, _register(Store(home), run_id, kept)


def _register(store: Store, run_id: str, kept: Registration) -> int:
    version = store.register(model=kept.model, run_id=run_id, tags=kept.tags, alias="challenger")
    for key, value in kept.score.items():
        store.note_score(kept.tags["pretraining_run"], key, value)
    return version


def _reason(error: Exception) -> str:
    """Return the first line of an error, without SQL and its values."""
    if isinstance(error, RunError):
        return message_of(error)
    return f"{type(error).__name__}: {str(error).partition('[SQL')[0].partition(chr(10))[0][:200]}"
