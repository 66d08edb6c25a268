"""`medmim finetune`: train a task head on an encoder, test it once and register the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch.callbacks import Callback

from medmim import files
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.channels import channels_of
from medmim.data.dataset.contamination_certificate import CERTIFICATE
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.splits import patient_digest
from medmim.errors import counted
from medmim.stages.finetune.setup import FinetuneRun, build_finetuning
from medmim.stages.initial_weights import CANDIDATE, CONTROL, DIVISION, FAILED, SCRATCH, STATUS
from medmim.stages.predict.mlflow_model import mlflow_files
from medmim.stages.registration import register
from medmim.stages.run_header import network_lines, view_lines
from medmim.stages.run_lifecycle import RunResult, last_metrics, train
from medmim.stages.unlike_training_data import CHANNEL_MODALITIES, TRAINING_DATA, summarize
from medmim.tracking.comparison.runs import AT_CHANCE, CASES, SCORES
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder_interface import Recorder, describe
from medmim.training.callbacks import ValidationCallback
from medmim.training.evaluation.metric_intervals import class_sizes, intervals
from medmim.training.evaluation.resampled_metrics import never_predicted
from medmim.training.tasks.base import Row, Task
from medmim.training.tasks.trained_model import DROPOUT
from medmim.training.trainer import FitResult

_SHOWN = 3  # cases of a figure
_NOT_IN_NAMES = re.compile(r"""[/:.%"']""")  # of models, for MLflow
# validation score of a useless model; else one by the classes
_CHANCE = {"segment": 0.1, "detect": 0.01, "multilabel": 0.5, "ordinal": 0.0, "regress": 0.0}


def finetune(
    settings: FinetuneSettings,
    *,
    home: Path,
    resume: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    log: Callable[[str], None] = print,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Fine-tune for a task, test once, record the run and register the model.

    Raises:
        MedmimError: for settings, data, sizes or weights that cannot work, before anything is written.
        UnregisteredError: if only the registration failed; the run is finished.
    """
    store = Store(home)
    run = build_finetuning(settings, store, log)
    header = network_lines(run.settings, run.partition.train, run.plan, run.module.network)
    warnings = [f"warning: {line}" for line in run.certificate.warnings]
    if run.settings.patience and not run.selects_weights:
        warnings.append(
            f"warning: patience={run.settings.patience} has no effect: with num_labelled or label_fraction, "
            "or without validation patients, validation selects no weights and training does not stop early"
        )
    for line in [*header, *view_lines(run.origin.description, run.plan), *warnings]:
        log(line)
    return train(
        run,
        settings,
        store,
        validate=lambda recorder, _folder: _validation(run, recorder),
        finish=partial(_finish, run, store, log),
        resume=resume,
        tags=tags,
        callbacks=callbacks,
    )


def _finish(
    run: FinetuneRun,
    store: Store,
    log: Callable[[str], None],
    fitted: FitResult,
    validation: ValidationCallback,
    recorder: Recorder,
    folder: Path,
) -> RunResult:
    """Save the selected weights, test them once and register the model."""
    run = _with_selected_weights(run, validation)
    checkpoint = _save(run, recorder, folder)  # first: room is reserved for the weights alone
    rows = run.task.evaluate(run.module.evaluated_network, run.partition.test, run.context, final=True)
    metrics, scores = _record_test(run, rows, fitted, validation, recorder, folder)
    result = RunResult(recorder.run_id, checkpoint, metrics, folder / "panel.png", scores)
    if missed := never_predicted(rows):
        log(
            f"warning: {counted(len(missed), 'class', 'classes')} of the labels never predicted in a test "
            f"case ({', '.join(missed)}): train longer, or check the labels with `medmim inspect`"
        )
    if run.partition.val and not _is_above_chance(run, metrics):
        recorder.tags({AT_CHANCE: "true"})
        log(
            "warning: the validation score is at the level of chance: train longer, or check the labels "
            "with `medmim inspect`; `medmim predict` prefers any other model"
        )
    _register(store, run, result)
    return result


def _validation(run: FinetuneRun, recorder: Recorder) -> ValidationCallback:
    """Return the callback that evaluates some validation cases and draws a figure."""
    task, context, train, val = run.task, run.context, run.partition.train, run.partition.val
    cases = validation_cases(val, task)

    def evaluate(step: int) -> Mapping[str, float]:
        network = run.module.evaluated_network
        title = f"{'validation' if val else 'training'}, step {step}"
        png = task.figure(network, shown_cases(val or train), context, title=title)
        with files.not_on_a_full_disk("a picture"):
            recorder.picture("prediction", png, step=step)
        rows = task.evaluate(network, cases, context, final=False)
        return {f"val/{key}": value for key, value in task.aggregate(rows, context).items()}

    best = f"val/{task.selection_metric}" if run.selects_weights else None
    times = run.settings.num_evaluations
    patience = run.settings.patience
    return ValidationCallback(
        evaluate, times=times, budget=run.budget, log=recorder, best=best, patience=patience
    )


def validation_cases(val: Sequence[VolumeRecord], task: Task) -> list[VolumeRecord]:
    """Return the cases that are evaluated during training, evenly spaced over all."""
    pictures = all(case.spatial_dims == 2 for case in val)
    most = task.max_val_pictures if pictures else task.max_val_volumes
    return list(val[:: max(1, -(-len(val) // most))])


def _with_selected_weights(run: FinetuneRun, validation: ValidationCallback) -> FinetuneRun:
    """Load the best weights, and tune thresholds and the like on validation cases, never on the test."""
    if validation.best_weights:
        run.module.load_state_dict(validation.best_weights)
    network, context = run.module.evaluated_network, run.context
    cases = run.partition.val if run.selects_weights else ()  # for no cases, `choose` returns defaults
    rows = run.task.evaluate(network, cases, context, final=False) if cases else []
    return replace(run, context=replace(context, tuned=run.task.tune(rows, context)))


def shown_cases(cases: Sequence[VolumeRecord]) -> list[VolumeRecord]:
    """Return the few cases of a figure: of different patients, and with boxes where there are any."""
    ordered = sorted(cases, key=lambda case: not case.boxes)
    first: dict[str, VolumeRecord] = {}
    for case in ordered:
        first.setdefault(case.subject, case)
    return [*first.values(), *(case for case in ordered if case is not first[case.subject])][:_SHOWN]


def _record_test(
    run: FinetuneRun,
    rows: Sequence[Row],
    fitted: FitResult,
    validation: ValidationCallback,
    recorder: Recorder,
    folder: Path,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Record the test; return the final metrics of the run, and those of the test with intervals."""
    task, context = run.task, run.context
    means = {f"test/{key}": value for key, value in task.aggregate(rows, context).items()}
    recorder.text(CASES, "".join(json.dumps(_pseudonymous(row), sort_keys=True) + "\n" for row in rows))
    patients = len({row["subject"] for row in rows})
    table = intervals(task.weighted_statistic(rows, context), patients, class_sizes(rows))
    recorder.text(SCORES, "".join(json.dumps(row, sort_keys=True) + "\n" for row in table))
    score = f"{task.metric} {means.get(f'test/{task.metric}', float('nan')):.3f}"
    title = f"test, {score}"
    shown = shown_cases(run.partition.test)
    png = task.figure(run.module.evaluated_network, shown, context, title=title)
    recorder.picture("test", png, step=fitted.steps)
    files.write_bytes(folder / "panel.png", png)
    text = f"{run.settings.task} ← {run.origin.arm}: {score}, {counted(patients, 'test patient')}"
    describe(recorder, text, folder / "panel.png")
    if summary := task.score_figure(rows, context, title=title):
        recorder.picture("scores", summary, step=fitted.steps)
        files.write_bytes(folder / "scores.png", summary)
    best = {f"best/val_{task.selection_metric}": validation.best_value} if validation.best_weights else {}
    metrics = means | best | last_metrics(fitted, validation)
    primary = {
        f"test_{task.metric}{end}": row[key]
        for row in table
        for end, key in (("", "value"), ("_lo", "low"), ("_hi", "high"))
        if row["metric"] == task.metric and row[key] is not None
    }
    # one value per run at step 0: MLflow then draws bars to compare runs
    recorder.metrics(metrics | primary, step=0)
    recorder.tags({"steps": str(fitted.steps)})
    return metrics, table


def _save(run: FinetuneRun, recorder: Recorder, folder: Path) -> Path:
    """Save the weights with their description, and the patients that were seen."""
    divided, network = run.partition, run.module.evaluated_network
    seen = (*divided.train, *divided.val)
    checkpoint = run.save(network.state_dict(), _description(run), seen, recorder, folder)
    splits = (("train", divided.train), ("val", divided.val), ("test", divided.test))
    digests = {
        name: sorted({patient_digest(volume.subject) for volume in volumes}) for name, volumes in splits
    }
    # next to the weights, not in the store, which identifies no training patient
    files.write_json(folder / DIVISION, digests)
    files.write_json(folder / CERTIFICATE, run.certificate.as_json())
    recorder.file(folder / CERTIFICATE, folder="model")
    for name, content in mlflow_files(run.settings.task, list(run.context.names.values())).items():
        recorder.text(f"model/{name}", content)
    return checkpoint


def _pseudonymous(row: Row) -> Row:
    """Return a row with digests in place of the keys of patient and volume."""
    named = {"case": patient_digest(row["case"]), "patient": patient_digest(row["subject"])}
    return {**{key: row[key] for key in row if key != "subject"}, **named}


def _description(run: FinetuneRun) -> dict[str, Any]:
    settings, train = run.settings, run.partition.train
    return {
        "kind": settings.task,
        "arm": run.name,
        "modalities": sorted({one.modality for volume in train for one in channels_of(volume)}),
        CHANNEL_MODALITIES: _modalities_of_channels(train) if settings.channels else [],
        DROPOUT: settings.channel_dropout,
        "pictures": any(min(volume.shape) == 1 for volume in train),
        "label_names": {str(value): name for value, name in run.context.names.items()},
        "head": run.head,
        "task_options": settings.options_of_task,
        "chosen": run.context.tuned,
        TRAINING_DATA: summarize(train, settings.data).model_dump(mode="json"),
    }


def _modalities_of_channels(train: Sequence[VolumeRecord]) -> list[list[str]]:
    by_channel = zip(*map(channels_of, train), strict=True)
    return [sorted({one.modality for one in volumes}) for volumes in by_channel]


def _register(store: Store, run: FinetuneRun, result: RunResult) -> None:
    """Register a model version with its lineage, and note the score on the pretraining run too."""
    metric, origin = run.task.metric, run.origin
    score = result.metrics.get(f"test/{metric}")
    lineage = {
        STATUS: _status(run, result.metrics),
        "dataset_hash": run.dataset.info.content_hash,
        "pretraining_run": origin.run_id or origin.arm,
        "lineage": " ← ".join((result.run_id, *origin.lineage)),
        "finetuning_run": result.run_id,
        "sha256": files.sha256_of(result.checkpoint),
        f"test_{metric}": "" if score is None else f"{score:.4f}",
        "test_patients_seen_in_pretraining": run.seen_test_patients,
        "contamination": run.certificate.verdict,
    }
    model = _NOT_IN_NAMES.sub("_", f"{run.dataset.info.name}-{run.settings.task}")
    noted = {f"finetuned/test_{metric}": score} if origin.run_id and score is not None else {}
    register(store, result, model=model, tags=lineage, score=noted)


def _status(run: FinetuneRun, metrics: Mapping[str, float]) -> str:
    """Return `failed sanity` for a validation score at the level of chance, else `control` from scratch."""
    if run.partition.val and not _is_above_chance(run, metrics):
        return FAILED
    return CONTROL if run.origin.arm == SCRATCH else CANDIDATE


def _is_above_chance(run: FinetuneRun, metrics: Mapping[str, float]) -> bool:
    metric = run.task.selection_metric
    score = metrics.get(f"best/val_{metric}", metrics.get(f"last/val_{metric}", float("nan")))
    chance = _CHANCE.get(run.settings.task, 1 / max(len(run.context.names), 1))
    return score > chance  # False for NaN
