"""The weights that `--model WORD` refers to: a registered model, a run, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.errors import RunError
from medmim.stages.finetune.initial_weights import weights_of
from medmim.tracking.comparison.champion import CHAMPION, RegisteredModel, versions
from medmim.tracking.mlflow_store import Store

_CHALLENGER = "challenger"


@dataclass(frozen=True)
class SelectedModel:
    """The weights of a model and its name.

    Attributes:
        weights: safetensors file; its description is next to it.
        title: name for people.
    """

    weights: Path
    title: str


def find_model(word: str | None, store: Store, log: Callable[[str], None]) -> SelectedModel:
    """Return the model that `--model WORD` refers to.

    Args:
        word: a weights file, the name of a registered model (`NAME`, or `NAME:VERSION`), a fine-tuning run
            (or the beginning of its id), or None: the champion, else the newest challenger.
        store: the local store.
        log: receives the selection when `word` is None.

    Raises:
        RunError: if no model matches, or several do.
    """
    if word is not None and word.endswith(".safetensors"):
        return SelectedModel(Path(word), Path(word).name)
    known = versions(store)
    if word is None:
        chosen = _open_choice(known, store)
        log(f"model: {_title(chosen)}")
        return SelectedModel(weights_of(store, chosen.run_id), _title(chosen))
    name, _, number = word.partition(":")
    named = [one for one in known if one.model == name and number in ("", str(one.version))]
    if named:
        chosen = min(named, key=_rank)
        return SelectedModel(weights_of(store, chosen.run_id), _title(chosen))
    return SelectedModel(weights_of(store, _matching_run(store, word, known)), f"run {word}")


def _open_choice(known: Sequence[RegisteredModel], store: Store) -> RegisteredModel:
    champions = [one for one in known if CHAMPION in one.aliases]
    if len(champions) > 1:
        names = ", ".join(one.model for one in champions)
        raise RunError(f"--model: expected the name of one model, as several have a champion: {names}")
    if champions:
        return champions[0]
    challengers = [one for one in known if _CHALLENGER in one.aliases]
    if not challengers:
        raise RunError(
            "--model: no registered model in this home folder; run `medmim finetune segment`, or give a run "
            "or a .safetensors file"
        )
    return max(challengers, key=lambda one: int(store.run(one.run_id).info.start_time))


def _rank(one: RegisteredModel) -> tuple[bool, bool, int]:
    """Order versions of a model: champion, challenger, then the newest."""
    return CHAMPION not in one.aliases, _CHALLENGER not in one.aliases, -one.version


def _title(one: RegisteredModel) -> str:
    aliases = f" ({', '.join(one.aliases)})" if one.aliases else ""
    return f"{one.model} {one.version}{aliases}"


def _matching_run(store: Store, word: str, known: Sequence[RegisteredModel]) -> str:
    matching = [run.info.run_id for run in store.runs(stage="finetune") if run.info.run_id.startswith(word)]
    if len(matching) != 1:
        names = ", ".join(sorted({one.model for one in known})) or "none yet"
        raise RunError(
            f"--model {word}: expected a registered model ({names}), a .safetensors file or a fine-tuning "
            f"run, got something that fits {len(matching)} runs; see `medmim models`"
        )
    return str(matching[0])
