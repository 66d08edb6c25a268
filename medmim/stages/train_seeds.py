"""Training of several seeds: those that the arms of a comparison lack, or those of one fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import DIGEST, SCRATCH, StageSettings, settings_of_result
from medmim.data.dataset.manifest import Dataset, digest_of, read_dataset
from medmim.errors import RunError, UsageError, counted
from medmim.files import names_weights_file
from medmim.stages.finetune.setup import FinetuneRun, build_finetuning
from medmim.stages.initial_weights import initial_weights_of
from medmim.stages.resumption import Settings, stored_settings
from medmim.stages.study.engines import LocalEngine, StudyEngine
from medmim.stages.study.planning import job_settings
from medmim.stages.study.training_process import Job
from medmim.tracking.comparison.arms import Arm, arms_of
from medmim.tracking.comparison.equality import fingerprint
from medmim.tracking.comparison.findings import scored
from medmim.tracking.comparison.runs import RunScores, find_runs, read_pretraining, read_run
from medmim.tracking.mlflow_store import FINISHED, Store
from medmim.tracking.run_ids import ORIGIN

_SAME_RUN = ("arm", "task", "dataset_hash", "split_hash", "labelled", "medmim_version")


def train_missing_seeds(
    run_ids: Sequence[str],
    *,
    seeds: int,
    data: Path,
    home: Path,
    engine: StudyEngine | None = None,
    log: Callable[[str], None] = print,
) -> list[str]:
    """Train every arm of a comparison until it has that many seeds; return the ids of all runs to compare.

    Finished trainings are not repeated, so that the command can be interrupted and started again.

    Raises:
        UsageError: for another dataset, or an arm whose pretraining is not in this home folder.
        RunError: if a training fails.
    """
    store = Store(home)
    runs = scored(find_runs(store, run_ids))
    dataset_hash = read_dataset(data).info.content_hash
    if any(run.tags.get("dataset_hash") != dataset_hash for run in runs):
        raise UsageError(f"--data: expected the dataset of the compared runs, got another one in '{data}'")
    by_id = {run.run_id: run for run in runs}
    plan: list[tuple[Arm, RunScores, int]] = []
    for arm in arms_of(runs):
        first = by_id[arm.runs[0]]
        if first.settings is None or first.pretraining is None:
            raise UsageError(
                f"--seeds: the settings of {arm.title} or of its pretraining are not in this home folder: "
                "train its seeds with `medmim finetune --init FILE --seed N`"
            )
        missing = (seed for seed in count() if seed not in arm.seeds)
        plan += [(arm, first, seed) for seed in islice(missing, max(seeds - len(arm.seeds), 0))]
    predicted = sum(arm.minutes for arm, _, _ in plan)
    log(
        f"{counted(len(plan), 'trial')} for {counted(seeds, 'seed')} of each arm, about "
        f"{counted(round(predicted), 'minute')}"
    )
    trainer = _Trainer(store, data.resolve(), dataset_hash, engine or LocalEngine(), log)
    return [*by_id, *(trainer.trial(arm, run, seed) for arm, run, seed in plan)]


def fine_tune_seeds(
    settings: FinetuneSettings,
    seeds: Sequence[int],
    *,
    home: Path,
    engine: StudyEngine | None = None,
    log: Callable[[str], None] = print,
) -> list[RunScores]:
    """Fine-tune once for each seed, from the same initial weights; return the finished runs by seed.

    Finished runs of equal settings and weights are not repeated, whatever command trained them, and
    interrupted trainings of this function continue.

    Args:
        engine: runs trainings; without, each runs on this machine in a process of its own.

    Raises:
        RunError: if there are no initial weights, or a training fails; finished ones are kept.
    """
    store, dataset = Store(home), read_dataset(settings.data)
    init, origin = _same_weights(settings, store, dataset)
    settings = settings.model_copy(update={"init": init})
    trainer = _Trainer(store, settings.data, dataset.info.content_hash, engine or LocalEngine(), log)
    done: list[RunScores] = []
    planned = _planned(build_finetuning(settings, store, log=lambda _line: None), store)
    for seed in seeds:
        run = _finished(store, planned, seed, (*_SAME_RUN, "pretraining_run"))
        if run is None:
            title = f"finetune {settings.task} seed {seed}"
            _, run_id = trainer.run("finetune", settings.model_copy(update={"seed": seed}), title, origin)
            run = read_run(store, store.run(run_id))
        done.append(run)
    return done


def _planned(built: FinetuneRun, store: Store) -> RunScores:
    """Return what a run will record of its settings, without scores."""
    tags = built.tags
    settings = built.settings.model_dump(mode="json", exclude={"data", "targets"})
    pretraining = read_pretraining(store, tags)
    return RunScores("", tags["arm"], tags, (), settings=settings, pretraining=pretraining)


def _finished(store: Store, like: RunScores, seed: int, same: Sequence[str]) -> RunScores | None:
    """Return the newest finished run of this home with equal settings, this seed and the same tags."""
    tags = {key: like.tags[key] for key in same if like.tags.get(key)}
    for run in store.runs(FINISHED, limit=None, **{**tags, "stage": "finetune", "seed": str(seed)}):
        found = read_run(store, run)
        alike = found.stratum == like.stratum and ORIGIN not in found.tags and found.settings is not None
        if alike and scored([found]) and fingerprint(found) == fingerprint(like):
            return found
    return None


def _same_weights(settings: FinetuneSettings, store: Store, dataset: Dataset) -> tuple[str, str]:
    """Return the `init` that all seeds start from, and what identifies these weights."""
    origin = initial_weights_of(settings, store, dataset)
    if not origin.weights:
        return SCRATCH, ""
    is_file = settings.init is not None and names_weights_file(settings.init)
    return settings.init if settings.init and is_file else origin.run_id, digest_of(list(origin.lineage))


@dataclass(frozen=True)
class _Trainer:
    """Trains one trial after the other."""

    store: Store
    data: Path
    dataset_hash: str
    engine: StudyEngine
    log: Callable[[str], None]

    def trial(self, arm: Arm, like: RunScores, seed: int) -> str:
        """Train as a run did, with another seed, its pretraining included; return the id of the run."""
        init, pretrained = SCRATCH, ""
        finished = _finished(self.store, like, seed, _SAME_RUN)
        if finished and (not like.pretraining or (finished.pretraining or {}).get("seed") == seed):
            return finished.run_id
        if like.pretraining:
            pretraining = self._settings(PretrainSettings, like.tags["pretraining_run"], seed)
            title = f"pretrain {arm.title} seed {seed}"
            pretrained, init = self.run("pretrain", pretraining, title)
        finetuning = self._settings(FinetuneSettings, like.run_id, seed)
        title = f"finetune {arm.title} seed {seed}"
        return self.run("finetune", finetuning.model_copy(update={"init": init}), title, pretrained)[1]

    def _settings(self, kind: type[Settings], run_id: str, seed: int) -> Settings:
        """Return the settings of a run with another seed; code of others that they name is refused."""
        settings = stored_settings(kind, self.store, run_id, data=self.data)
        return settings.model_copy(update={"seed": seed})

    def run(
        self, stage: Literal["pretrain", "finetune"], settings: StageSettings, title: str, needs: str = ""
    ) -> tuple[str, str]:
        """Return digest and run of a training, which is run unless it is finished."""
        digest = digest_of([stage, self.dataset_hash, settings_of_result(settings), needs])
        for run in self.store.tagged(DIGEST, (digest,)):
            if run.info.status == "FINISHED":
                return digest, str(run.info.run_id)
        self.log(title)
        job = Job(stage, title, digest, job_settings(settings), {})
        [(_, outcome)] = self.engine.run([job], self.store.home)
        if outcome.run_id is None:
            raise RunError(f"{title}: {outcome.error}")
        return digest, outcome.run_id
