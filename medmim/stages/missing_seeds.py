"""Training of the seeds that a comparison lacks: each arm is pretrained and fine-tuned with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Literal

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import DIGEST, SCRATCH, StageSettings, settings_of_result
from medmim.data.dataset.manifest import digest_of, read_dataset
from medmim.errors import RunError, UsageError, counted
from medmim.stages.run_lifecycle import Settings, stored_settings
from medmim.stages.study.engines import LocalEngine, StudyEngine
from medmim.stages.study.training_process import Job
from medmim.tracking.comparison.arms import Arm, arms_of
from medmim.tracking.comparison.findings import scored
from medmim.tracking.comparison.runs import RunScores, find_runs
from medmim.tracking.mlflow_store import Store


def train_missing_seeds(
    run_ids: Sequence[str],
    *,
    seeds: int,
    data: Path,
    home: Path,
    engine: StudyEngine | None = None,
    log: Callable[[str], None] = print,
) -> list[str]:
    """Train every arm of a comparison until it has so many seeds; return the ids of all runs to compare.

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
    trainer = _Trainer(store, data, dataset_hash, engine or LocalEngine(), log)
    return [*by_id, *(trainer.trial(arm, run, seed) for arm, run, seed in plan)]


class _Trainer:
    """Trains one trial after the other."""

    def __init__(
        self, store: Store, data: Path, dataset_hash: str, engine: StudyEngine, log: Callable[[str], None]
    ) -> None:
        self.store = store
        self.data = data.resolve()
        self.dataset_hash = dataset_hash
        self.engine = engine
        self.log = log

    def trial(self, arm: Arm, like: RunScores, seed: int) -> str:
        """Train as a run did, with another seed, its pretraining included; return the id of the run."""
        init, pretrained = SCRATCH, ""
        if like.pretraining:
            pretraining = self._settings(PretrainSettings, like.tags["pretraining_run"], seed)
            pretrained, init = self._run("pretrain", pretraining, arm)
        finetuning = self._settings(FinetuneSettings, like.run_id, seed)
        return self._run("finetune", finetuning.model_copy(update={"init": init}), arm, pretrained)[1]

    def _settings(self, kind: type[Settings], run_id: str, seed: int) -> Settings:
        """Return the settings of a run with another seed; code of others that they name is refused."""
        settings = stored_settings(kind, self.store, run_id, data=self.data)
        return settings.model_copy(update={"seed": seed})

    def _run(
        self, stage: Literal["pretrain", "finetune"], settings: StageSettings, arm: Arm, needs: str = ""
    ) -> tuple[str, str]:
        """Return digest and run of a training, which is run unless it is finished."""
        digest = digest_of([stage, self.dataset_hash, settings_of_result(settings), needs])
        for run in self.store.tagged(DIGEST, (digest,)):
            if run.info.status == "FINISHED":
                return digest, str(run.info.run_id)
        title = f"{stage} {arm.title} seed {settings.seed}"
        self.log(title)
        job = Job(stage, title, digest, settings.model_dump(mode="json"), {})
        [(_, outcome)] = self.engine.run([job], self.store.home)
        if outcome.run_id is None:
            raise RunError(f"{title}: {outcome.error}")
        return digest, outcome.run_id
