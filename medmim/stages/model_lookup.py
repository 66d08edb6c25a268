"""The weights that `--model WORD` refers to: a registered model, a run, or a file.

Without a word, or with a name alone, this is the champion, else the candidate with the best validation score
among comparable versions: of one model, on one dataset and split. Controls (from scratch), versions that
failed the sanity check, and those of packs are only used if there is nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from medmim.data.dataset.splits import FOLDS
from medmim.errors import RunError, counted
from medmim.stages.initial_weights import CANDIDATE, CONTROL, FAILED, weights_of
from medmim.stages.store_filters import ModelFilter
from medmim.stages.store_listing import ListedModel, ListedRun, list_models, model_names
from medmim.tracking.comparison.champion import CHAMPION
from medmim.tracking.comparison.equality import fingerprint
from medmim.tracking.comparison.runs import RunScores, read_pretraining, read_settings
from medmim.tracking.mlflow_store import FINISHED, Store
from medmim.tracking.run_ids import MODEL, ORIGIN, RunOption

_FAILED = "that failed the sanity check"
_NOUNS = {
    CANDIDATE: ("candidate", "candidates"),
    CONTROL: ("control", "controls"),
    FAILED: (f"version {_FAILED}", f"versions {_FAILED}"),
}


@dataclass(frozen=True)
class SelectedModel:
    """The weights of a model and its name.

    Attributes:
        weights: safetensors file; its description is next to it.
        run_id: run that trained it; empty for a file.
    """

    weights: Path
    title: str
    run_id: str = ""


@dataclass(frozen=True)
class FoldsOf:
    """The five models of a cross-validation, of which `word` names one, see `find_model`."""

    word: str | None


def find_model(
    word: str | None, home: Path, log: Callable[[str], None], *, stages: Sequence[str] = ("finetune",)
) -> SelectedModel:
    """Return the model that `--model WORD` refers to.

    Args:
        word: a weights file, the name of a registered model (`NAME`, `NAME:VERSION` or `NAME@ALIAS`), a run
            (or the beginning of its id), or None: the champion, else the best candidate.
        stages: stages whose runs may be given.
    """
    if word is not None and word.endswith(".safetensors"):
        return SelectedModel(Path(word), Path(word).name)
    store = Store(home, reading=True)
    if word is None:
        found = list_models(home, ModelFilter(alias=CHAMPION)) or _like_the_newest(home)
        if not found:
            raise RunError(
                "--model: no registered model in this home folder; run `medmim finetune segment`, or give a "
                "run or a .safetensors file"
            )
        chosen = _best(found, log)
        return SelectedModel(weights_of(store, chosen.run_id), _title(chosen), chosen.run_id)
    name, number, alias = _parts(word)
    named = list_models(home, ModelFilter(name, number or None, alias or None))
    if not named:
        option = RunOption("--model", MODEL.others, stages, models=model_names(home))
        run_id = store.named(word, option).info.run_id
        return SelectedModel(weights_of(store, run_id), f"run {word}", run_id)
    chosen = named[0] if number or alias else _best(named, log)
    return SelectedModel(weights_of(store, chosen.run_id), _title(chosen), chosen.run_id)


def find_models(
    words: str | Sequence[str] | FoldsOf | None, home: Path, log: Callable[[str], None]
) -> list[SelectedModel]:
    """Return the models that words refer to, see `find_model`, or those of a cross-validation."""
    if isinstance(words, FoldsOf):
        return _models_of_folds(find_model(words.word, home, log), home)
    several: Sequence[str | None] = [words] if isinstance(words, str) else words or [None]
    return [find_model(word, home, log) for word in several]


def _models_of_folds(model: SelectedModel, home: Path) -> list[SelectedModel]:
    """Return the models of all five folds that were trained like this one: same data, settings and seed.

    Raises:
        RunError: if the model is a file, was not trained on a fold, or a fold is missing.
    """
    store = Store(home, reading=True)
    if not model.run_id:
        raise RunError(f"--folds all: expected a run or a registered model, got the file '{model.weights}'")
    own = _setup(store, store.run(model.run_id))
    if not own.settings or own.settings.get("fold") is None:
        raise RunError(
            f"--folds all: expected a run of `medmim finetune --fold N`, got run {own.run_id[:8]}, which was "
            "trained on the dataset's own split"
        )
    same = {key: own.tags[key] for key in ("stage", "task", "arm", "dataset_hash") if key in own.tags}
    found: dict[int, str] = {}
    for run in store.runs(FINISHED, limit=None, **same):
        other = _setup(store, run)
        if other.settings and other.seed == own.seed and fingerprint(other) == fingerprint(own):
            found.setdefault(other.settings["fold"], other.run_id)  # newest first
    found[own.settings["fold"]] = own.run_id
    if missing := sorted(set(range(FOLDS)) - set(found)):
        raise RunError(
            f"--folds all: expected runs of {FOLDS} folds with the settings and the seed of run "
            f"{own.run_id[:8]}, got none of fold {', '.join(map(str, missing))}; train them with "
            f"`medmim finetune … --fold {missing[0]}`, or name the runs, each with --model"
        )
    runs = [found[fold] for fold in range(FOLDS)]
    return [SelectedModel(weights_of(store, run_id), f"run {run_id[:8]}", run_id) for run_id in runs]


def _setup(store: Store, run: Run) -> RunScores:
    """Return a run without its scores."""
    tags = dict(run.data.tags)
    return RunScores(
        run_id=run.info.run_id,
        arm=tags["arm"],
        tags=tags,
        cases=(),
        settings=read_settings(store, run),
        pretraining=read_pretraining(store, tags),
    )


def _like_the_newest(home: Path) -> list[ListedModel]:
    """Return the versions of the model whose version is the newest of all."""
    newest = list_models(home, ModelFilter(newest=True, limit=1))
    return list_models(home, ModelFilter(newest[0].model)) if newest else []


def _parts(word: str) -> tuple[str, str, str]:
    """Return name, version and alias of `NAME`, `NAME:VERSION` or `NAME@ALIAS`."""
    name, _, alias = word.partition("@")
    name, _, number = name.partition(":")
    return name, number, alias


def _best(known: Sequence[ListedModel], log: Callable[[str], None]) -> ListedModel:
    """Return the champion, else the best comparable candidate; log the reason."""
    champions = [one for one in known if CHAMPION in one.aliases]
    if len(champions) > 1:
        names = ", ".join(one.model for one in champions)
        raise RunError(f"--model: expected the name of one model, as several have a champion: {names}")
    if champions:
        log(f"model: {_words(champions[0])}: the champion")
        _note_others(champions[0], known, log)
        return champions[0]
    comparable = _comparable(known, log)
    usable = [[one for one in comparable if one.status == status] for status in (CANDIDATE, CONTROL, FAILED)]
    best = max(next(filter(None, usable)), key=_rank)
    log(f"model: {_words(best)}: {_rank_in_words(best, comparable)}; choose another with --model")
    _note_others(best, known, log)
    if best.status != CANDIDATE:
        log(f"warning: no candidate is registered; this version is marked '{best.status}'")
    higher = [one for one in usable[1] if _rank(one)[0] > _rank(best)[0]]
    if best.status == CANDIDATE and higher:
        log(f"warning: the control without pretraining scores higher: {_words(max(higher, key=_rank))}")
    return best


def _note_others(chosen: ListedModel, known: Sequence[ListedModel], log: Callable[[str], None]) -> None:
    """Log how many versions are of another dataset or split, as several datasets may have one name."""
    others = [one for one in known if one.run and chosen.run and _group(one.run) != _group(chosen.run)]
    if others:
        log(
            f"warning: {counted(len(others), 'version')} of another dataset or split, such as "
            f"{_title(others[-1])}, not considered; choose with --model NAME:VERSION"
        )


def _comparable(known: Sequence[ListedModel], log: Callable[[str], None]) -> list[ListedModel]:
    """Return the versions with scores comparable to the newest; those of packs if there are no others."""
    for one in known:
        if one.run is None:
            log(f"warning: {_title(one)} is left out: its run {one.run_id} was removed from the store")
    runs = [(one, one.run) for one in known if one.run]
    if not runs:
        raise RunError("--model: the runs of all registered models were removed; give a .safetensors file")
    if own := [pair for pair in runs if ORIGIN not in pair[1].tags]:
        runs = own
    else:
        log("warning: this model and its score come from a pack or another store")
    group = _group(max(runs, key=lambda pair: pair[1].started)[1])
    return [one for one, run in runs if _group(run) == group]


def _rank_in_words(best: ListedModel, comparable: Sequence[ListedModel]) -> str:
    """Return among how many versions one is the best: `the only candidate, next to 1 control`."""
    counts = Counter(one.status for one in comparable)
    equal = counts.pop(best.status)
    singular, plural = _NOUNS[best.status]
    rank = f"the only {singular}" if equal == 1 else f"the best of {equal} {plural}"
    others = " and ".join(counted(count, *_NOUNS[status]) for status, count in sorted(counts.items()))
    return f"{rank}, next to {others}" if others else rank


def _group(run: ListedRun) -> tuple[str, str]:
    """Return dataset and split, within which the scores of one model are comparable."""
    return run.tags.get("dataset_hash", ""), run.tags.get("split_hash", "")


def _validation(run: ListedRun | None) -> tuple[str, float]:
    """Return name and value of the validation score; minus infinity without one."""
    metrics = run.metrics if run else {}
    last = f"last/val_{run.tags.get('metric')}" if run else ""
    keys = [key for key in metrics if key.startswith("best/val_")] or [key for key in metrics if key == last]
    name, score = next(((key, metrics[key]) for key in keys), ("", -math.inf))
    return name.partition("val_")[2], score if math.isfinite(score) else -math.inf


def _rank(one: ListedModel) -> tuple[float, float]:
    return _validation(one.run)[1], one.run.started.timestamp() if one.run else 0.0


def _words(one: ListedModel) -> str:
    """Return title, score, arm and date for people."""
    name, score = _validation(one.run)
    shown = f"{name} {score:.3f} on validation" if name else "no validation score"
    if one.run is None:
        return f"{_title(one)}, whose run was removed"
    return f"{_title(one)}, {shown}, arm '{one.run.tags.get('arm', 'unknown')}', {one.run.started.date()}"


def _title(one: ListedModel) -> str:
    aliases = f" ({', '.join(one.aliases)})" if one.aliases else ""
    return f"{one.model} {one.version}{aliases}"
