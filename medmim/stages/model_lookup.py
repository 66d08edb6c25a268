"""The weights that `--model WORD` refers to: a registered model, a run, or a file.

Without a word, or with a name alone, this is the champion, else the candidate with the best validation score
among comparable versions: of one model, on one dataset and split. Controls (from scratch) and versions that
failed the sanity check are only used if there is nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import Run

from medmim.errors import RunError
from medmim.stages.initial_weights import CANDIDATE, CONTROL, FAILED, SCRATCH, STATUS, weights_of
from medmim.tracking.comparison.champion import CHAMPION, RegisteredModel, versions
from medmim.tracking.mlflow_store import Store, begins_with


@dataclass(frozen=True)
class SelectedModel:
    """The weights of a model and its name.

    Attributes:
        weights: safetensors file; its description is next to it.
        title: name for people.
    """

    weights: Path
    title: str


@dataclass(frozen=True)
class _Version:
    """A registered version with what is needed to compare it.

    Attributes:
        model: the registered version.
        status: candidate, control or failed sanity.
        arm: name of the pretraining in comparisons.
        score: validation score; minus infinity if there is none.
        metric: name of the score.
        started: start of the run, in milliseconds since 1970.
        group: model, dataset and split, within which scores are comparable.
    """

    model: RegisteredModel
    status: str
    arm: str
    score: float
    metric: str
    started: int
    group: tuple[str, ...]

    @property
    def words(self) -> str:
        """Title, score, arm and date for people."""
        score = f"{self.metric} {self.score:.3f} on validation" if self.metric else "no validation score"
        date = datetime.fromtimestamp(self.started / 1000, UTC).date()
        return f"{_title(self.model)}, {score}, arm '{self.arm}', {date}"


def find_model(
    word: str | None, home: Path, log: Callable[[str], None], *, stages: Sequence[str] = ("finetune",)
) -> SelectedModel:
    """Return the model that `--model WORD` refers to.

    Args:
        word: a weights file, the name of a registered model (`NAME`, `NAME:VERSION` or `NAME@ALIAS`), a run
            (or the beginning of its id), or None: the champion, else the best candidate.
        home: `MEDMIM_HOME`.
        log: receives the selection and its reason where `word` leaves it open.
        stages: stages whose runs may be given.

    Raises:
        RunError: if no model matches, or several do.
    """
    if word is not None and word.endswith(".safetensors"):
        return SelectedModel(Path(word), Path(word).name)
    store = Store(home, reading=True)
    known = versions(store)
    if word is None and not known:
        raise RunError(
            "--model: no registered model in this home folder; run `medmim finetune segment`, or give a run "
            "or a .safetensors file"
        )
    name, number, alias = _parts(word or "")
    named = [one for one in known if one.model == name or word is None]
    if named and (number or alias):
        named = [one for one in named if number == str(one.version) or alias in one.aliases]
    if not named:
        run_id = _matching_run(store, str(word), known, stages)
        return SelectedModel(weights_of(store, run_id), f"run {word}")
    chosen = named[0] if number or alias else _best(named, store, log)
    return SelectedModel(weights_of(store, chosen.run_id), _title(chosen))


def _parts(word: str) -> tuple[str, str, str]:
    """Return name, version and alias of `NAME`, `NAME:VERSION` or `NAME@ALIAS`."""
    name, _, alias = word.partition("@")
    name, _, number = name.partition(":")
    return name, number, alias


def _best(known: Sequence[RegisteredModel], store: Store, log: Callable[[str], None]) -> RegisteredModel:
    """Return the champion, else the best comparable candidate; log the reason."""
    champions = [one for one in known if CHAMPION in one.aliases]
    if len(champions) > 1:
        names = ", ".join(one.model for one in champions)
        raise RunError(f"--model: expected the name of one model, as several have a champion: {names}")
    if champions:
        log(f"model: {_version(champions[0], store.run(champions[0].run_id)).words}: the champion")
        return champions[0]
    runs = {one.run_id: store.find_run(one.run_id) for one in known}
    for one in known:
        if runs[one.run_id] is None:
            log(f"warning: {_title(one)} is left out: its run {one.run_id} was removed from the store")
    found = [_version(one, run) for one in known if (run := runs[one.run_id])]
    if not found:
        raise RunError("--model: the runs of all registered models were removed; give a .safetensors file")
    group = max(found, key=lambda one: one.started).group  # of the newest version
    comparable = [one for one in found if one.group == group]
    usable = [[one for one in comparable if one.status == status] for status in (CANDIDATE, CONTROL, FAILED)]
    best = max(next(filter(None, usable)), key=lambda one: (one.score, one.started))
    of = f"the best of {len(usable[0])} candidates" if best.status == CANDIDATE else best.status
    log(f"model: {best.words}: {of} of {len(comparable)} comparable versions; choose another with --model")
    if best.status != CANDIDATE:
        log(f"warning: no candidate is registered; this version is marked '{best.status}'")
    higher = [one for one in usable[1] if one.score > best.score]
    if best.status == CANDIDATE and higher:
        control = max(higher, key=lambda one: one.score)
        log(f"warning: the control without pretraining scores higher: {control.words}")
    return best.model


def _version(model: RegisteredModel, run: Run) -> _Version:
    tags, metrics = run.data.tags, run.data.metrics
    scores = {key: value for key, value in metrics.items() if key.startswith("best/val_")}
    scores = scores or {
        key: value for key, value in metrics.items() if key == f"last/val_{tags.get('metric')}"
    }
    metric, score = next(iter(scores.items()), ("", -math.inf))
    arm = tags.get("arm", "unknown")
    return _Version(
        model=model,
        status=model.tags.get(STATUS, CONTROL if arm == SCRATCH else CANDIDATE),
        arm=arm,
        score=score if math.isfinite(score) else -math.inf,
        metric=metric.partition("val_")[2],
        started=int(run.info.start_time),
        group=(model.model, tags.get("dataset_hash", ""), tags.get("split_hash", "")),
    )


def _title(one: RegisteredModel) -> str:
    aliases = f" ({', '.join(one.aliases)})" if one.aliases else ""
    return f"{one.model} {one.version}{aliases}"


def _matching_run(store: Store, word: str, known: Sequence[RegisteredModel], stages: Sequence[str]) -> str:
    found = [run for stage in stages for run in store.runs(begins_with(word), stage=stage)]
    matching = [run.info.run_id for run in found]
    if len(matching) != 1:
        names = ", ".join(sorted({one.model for one in known})) or "none yet"
        kinds = " or ".join({"finetune": "fine-tuning", "pretrain": "pretraining"}[stage] for stage in stages)
        raise RunError(
            f"--model {word}: expected a registered model ({names}), a .safetensors file or a {kinds} "
            f"run, got something that fits {len(matching)} runs; see `medmim models`"
        )
    return str(matching[0])
