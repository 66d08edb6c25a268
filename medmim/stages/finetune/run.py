"""`medmim finetune`: an encoder and labels become a tested, registered model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from medmim import __version__, files
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.contamination import CERTIFICATE, SeenPatients, seen_patients_of, write_seen_patients
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.partition import patient_digest
from medmim.data.loading.patches import PatchDataset
from medmim.encoders import Encoder
from medmim.randomness import stream_seed
from medmim.stages.finetune.setup import FinetuneComponents, build_components, resolved_settings
from medmim.stages.run_lifecycle import (
    RunResult,
    budget_words,
    managed_run,
    note_weights_file,
    resume_run,
    start_run,
)
from medmim.tracking.comparison.runs import CASES, SCORES
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.evaluation.bootstrap_metrics import intervals
from medmim.training.lightning_modules import FinetuningModule
from medmim.training.mask_any_net_regularizer import MaskAnyNetRegularizer
from medmim.training.resume.states import drop_state
from medmim.training.tasks.base import EvaluationContext, Row
from medmim.training.trainer import FitContext, FitResult, fit
from medmim.training.weights import save_weights

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

DIVISION = "division.json"
_DRAWN = 3


def finetune(
    settings: FinetuneSettings,
    *,
    home: Path,
    resume: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = print,
    onlookers: Sequence[Callback] = (),
) -> RunResult:
    """Fine-tune for a task, test once, record and register.

    Args:
        settings: what the user chose; open values are chosen from the dataset and the pretraining run.
        home: `MEDMIM_HOME`.
        resume: run to continue, or `latest`; `settings` are then those that it was started with.
        tags: further tags of the run, such as the study that it belongs to.
        say: takes lines for the user.
        onlookers: callbacks that see every step.

    Raises:
        MedmimError: for settings, data, sizes or weights that cannot work, before anything is written.
    """
    store = Store(home)
    parts = build_components(settings, store, say)
    if parts.seen_test_patients:
        seen = parts.seen_test_patients
        say(f"warning: {seen} test patients were seen in pretraining; scores are optimistic")
    whole = resolved_settings(settings, parts)
    recorder = resume_run(store, "finetune", resume, settings=whole, dataset=parts.dataset)
    if recorder is None:
        name = f"{settings.task} ← {parts.origin.arm}"
        recorder = start_run(store, whole, name=name, tags={**_tags(whole, parts), **tags})
        note_weights_file(store, recorder.run_id, settings.init)
    session = FitContext(
        whole,
        budget_for(whole, volumes=len(parts.divided.train)),
        recorder,
        store.checkpoints(recorder.run_id),
        title=f"finetune {settings.task} ← {parts.origin.arm}",
        resume=bool(resume),
        onlookers=tuple(onlookers),
    )
    with managed_run(recorder, store):
        result = _train(whole, parts, recorder, session=session)
        _register(store, whole, parts, result)
    drop_state(session.folder)
    return result


def _who(parts: FinetuneComponents) -> dict[str, list[str]]:
    """Return who trained, validated and tested, as digests: a draw of few labels can be checked."""
    divided = parts.divided
    return {
        name: sorted({patient_digest(volume.subject) for volume in volumes})
        for name, volumes in (("train", divided.train), ("val", divided.val), ("test", divided.test))
    }


def _reuse(settings: FinetuneSettings, parts: FinetuneComponents) -> MaskAnyNetRegularizer | None:
    """Return the regulariser, if one is asked for; its branch begins with the weights that arrived."""
    if settings.regulariser is None:
        return None
    encoder = parts.network.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    torch.manual_seed(stream_seed(settings.seed, "reuse"))
    return MaskAnyNetRegularizer(encoder, spatial_dims=parts.scene.plan.dims, seed=settings.seed)


def _train(
    settings: FinetuneSettings, parts: FinetuneComponents, recorder: Recorder, *, session: FitContext
) -> RunResult:
    task, scene, folder = parts.task, parts.scene, session.folder
    train, val = parts.divided.train, parts.divided.val
    module = FinetuningModule(parts.network, task.loss, settings=settings, reuse=_reuse(settings, parts))

    def evaluate(step: int) -> Mapping[str, float]:
        title = f"{'validation' if val else 'training'}, step {step}"
        png = task.figure(module.judged, _drawn(val or train), scene, title=title)
        recorder.picture("prediction", png, step=step)
        rows = task.evaluate(module.judged, _spread(val, task.max_val_cases), scene, final=False)
        return {f"val/{key}": value for key, value in task.aggregate(rows, scene).items()}

    # With a limited number of labels, validation labels must not choose: the last weights are the result.
    chooses = settings.num_labelled is None and settings.label_fraction is None and bool(val)
    best = f"val/{task.selection_metric}" if chooses else None
    fitted = fit(module, _draws(settings, parts), evaluate, session=session, best=best)
    if fitted.evaluations.best_weights:
        module.load_state_dict(fitted.evaluations.best_weights)
    parts = replace(parts, network=module.judged)
    # never on the test: what nothing may choose has a default
    rows = task.evaluate(parts.network, val, scene, final=False) if chooses else []
    parts = replace(parts, scene=replace(scene, tuned=task.tune(rows, scene)))
    metrics, scores = _test(parts, fitted, recorder, folder)
    checkpoint = _keep(settings, parts, recorder, folder)
    return RunResult(recorder.run_id, checkpoint, metrics, folder / "panel.png", scores)


def _draws(settings: FinetuneSettings, parts: FinetuneComponents) -> PatchDataset:
    train = parts.divided.train
    lesson = parts.task.training_samples(train, parts.scene, foreground=settings.foreground_fraction)
    return PatchDataset(
        train,
        parts.scene.volumes,
        lesson.transform,
        labelled=lesson.labelled,
        seed=settings.seed,
        targets=lesson.targets,
        weights=lesson.weights,
    )


def _spread(cases: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` cases, evenly from all of them."""
    step = max(1, -(-len(cases) // most))
    return list(cases[::step])


def _drawn(cases: Sequence[VolumeRecord]) -> list[VolumeRecord]:
    """Return the few that pictures show: of different patients, and with boxes where there are any."""
    ordered = sorted(cases, key=lambda case: not case.boxes)
    first: dict[str, VolumeRecord] = {}
    for case in ordered:
        first.setdefault(case.subject, case)
    return [*first.values(), *(case for case in ordered if case is not first[case.subject])][:_DRAWN]


def _test(
    parts: FinetuneComponents, fitted: FitResult, recorder: Recorder, folder: Path
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Test once, on the chosen weights; return the run's final numbers, and the test's with intervals."""
    task, scene, cases = parts.task, parts.scene, parts.divided.test
    rows = task.evaluate(parts.network, cases, scene, final=True)
    means = {f"test/{key}": value for key, value in task.aggregate(rows, scene).items()}
    recorder.text(CASES, "".join(json.dumps(_public(row), sort_keys=True) + "\n" for row in rows))
    table = intervals(task.bootstrap_statistic(rows, scene), len({row["subject"] for row in rows}))
    recorder.text(SCORES, "".join(json.dumps(row, sort_keys=True) + "\n" for row in table))
    said = f"test, {task.metric} {means.get(f'test/{task.metric}', float('nan')):.3f}"
    png = task.figure(parts.network, _drawn(cases), scene, title=said)
    recorder.picture("test", png, step=fitted.steps)
    files.write_bytes(folder / "panel.png", png)
    last = {f"last/{key.replace('/', '_')}": value for key, value in fitted.evaluations.last.items()}
    chosen = fitted.evaluations.best_weights
    best = {f"best/val_{task.selection_metric}": fitted.evaluations.best_value} if chosen else {}
    metrics = means | best | last | {"last/steps": float(fitted.steps), "last/minutes": fitted.seconds / 60}
    recorder.metrics(metrics, step=0)  # one value a run at step 0: MLflow draws bars, run beside run
    recorder.tags({"steps": str(fitted.steps)})
    return metrics, table


def _keep(settings: FinetuneSettings, parts: FinetuneComponents, recorder: Recorder, folder: Path) -> Path:
    """Save the weights with their description, and who was seen."""
    description = _description(settings, parts, recorder.run_id)
    checkpoint = save_weights(folder, parts.network.state_dict(), description)
    files.write_json(
        folder / DIVISION, _who(parts)
    )  # beside the weights: the store names nobody that trained
    write_seen_patients(folder, seen_patients_of(parts.divided.train) | (parts.origin.saw or SeenPatients()))
    files.write_json(folder / CERTIFICATE, parts.certificate.as_json())
    for path in (checkpoint, checkpoint.with_suffix(".json"), folder / CERTIFICATE):
        recorder.file(path, folder="model")
    return checkpoint


def _public(row: Row) -> Row:
    """Return a row without the keys of patient and volume: digests stand for them."""
    named = {"case": patient_digest(row["case"]), "patient": patient_digest(row["subject"])}
    return {**{key: row[key] for key in row if key != "subject"}, **named}


def _description(settings: FinetuneSettings, parts: FinetuneComponents, run_id: str) -> dict[str, Any]:
    scene: EvaluationContext = parts.scene
    return {
        "kind": settings.task,
        "medmim_version": __version__,
        "run_id": run_id,
        "arm": f"{settings.task} ← {parts.origin.arm}",
        "spatial_dims": parts.plan.dims,
        "in_channels": settings.in_channels,
        "channels": settings.channels,
        "modalities": sorted({volume.modality for volume in parts.divided.train}),
        "pictures": any(min(volume.shape) == 1 for volume in parts.divided.train),
        "encoder": settings.encoder,
        "encoder_options": settings.encoder_options,
        "size": parts.plan.size,
        "spacing_mm": parts.plan.spacing_mm,
        "view": parts.plan.view,
        "label_names": {str(value): name for value, name in scene.names.items()},
        "head": parts.head,
        "task_options": settings.task_options,
        "chosen": scene.tuned,
        "dataset_hash": parts.dataset.info.content_hash,
    }


def _register(store: Store, settings: FinetuneSettings, parts: FinetuneComponents, result: RunResult) -> None:
    """Make a version of the registered model with its lineage; note the score on the pretraining run too."""
    score = result.metrics.get(f"test/{parts.task.metric}")
    lineage = {
        "dataset_hash": parts.dataset.info.content_hash,
        "pretraining_run": parts.origin.run_id or parts.origin.arm,
        "finetuning_run": result.run_id,
        "sha256": files.sha256_of(result.checkpoint),
        f"test_{parts.task.metric}": "" if score is None else f"{score:.4f}",
        "test_patients_seen_in_pretraining": str(parts.seen_test_patients),
        "contamination": parts.certificate.verdict,
    }
    model = f"{parts.dataset.info.name}-{settings.task}"
    store.register(model=model, run_id=result.run_id, tags=lineage, alias="challenger")
    if parts.origin.run_id and score is not None:
        store.note_score(parts.origin.run_id, f"finetuned/test_{parts.task.metric}", score)


def _tags(settings: FinetuneSettings, parts: FinetuneComponents) -> dict[str, str]:
    patients = len({volume.subject for volume in parts.divided.train})
    return {
        "stage": "finetune",
        "task": settings.task,
        "axis_task": parts.task.axis,
        "metric": parts.task.metric,
        "arm": parts.origin.arm,
        "pretraining_run": parts.origin.run_id,
        "loaded_fraction": f"{parts.arrived.loaded_fraction:.4f}" if parts.arrived else "",
        "encoder": str(settings.encoder),
        "dims": str(parts.plan.dims),
        "size": ",".join(map(str, parts.plan.size)),
        "batch_size": str(settings.batch_size),
        "lr": f"{settings.lr:g}",
        "budget": budget_words(settings),
        "seed": str(settings.seed),
        "labelled": str(patients),
        "dataset": parts.dataset.info.name,
        "dataset_hash": parts.dataset.info.content_hash,
        "split_hash": parts.divided.digest,
        "test_patients_seen_in_pretraining": str(parts.seen_test_patients),
        "medmim_version": __version__,
    }
