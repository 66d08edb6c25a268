"""`medmim finetune`: an encoder and labels become a tested, registered model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from medmim import __version__, files
from medmim.config import FinetuneSettings
from medmim.data.class_names import label_names
from medmim.data.draws import Draws, segmentation_patches
from medmim.data.manifest import Dataset, read_dataset
from medmim.data.partition import Partition, limit_patients, partition, patient_digest
from medmim.data.plan import Plan, plan_for
from medmim.data.prepare import Volumes
from medmim.encoders import Encoder, build_encoder
from medmim.errors import DataError, unknown_name
from medmim.heads import HEADS, Transfer, build_head, transfer
from medmim.randomness import stream_seed
from medmim.stages.origin import Origin, find_origin
from medmim.stages.pretrain import DEFAULT_ENCODER
from medmim.stages.runs import (
    Result,
    begin,
    budget_words,
    ending,
    going_on,
    note_weights_file,
    prepared_on_disk,
)
from medmim.tracking.comparison import CASES
from medmim.tracking.store import Store
from medmim.training.budget import budget_for
from medmim.training.checkpoint import save_weights
from medmim.training.fit import ENDLESS, Fitted, Session, fit
from medmim.training.modules import FinetuningModule
from medmim.training.optimisers import Optimiser
from medmim.training.scores import CaseScore, mean_scores
from medmim.training.segmentation import Segmentation
from medmim.training.states import drop_state

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

_WATCHED = 16
_DRAWN = 3


@dataclass(frozen=True)
class _Parts:
    """Everything that a fine-tuning run is made of."""

    dataset: Dataset
    divided: Partition
    plan: Plan
    names: Mapping[int, str]
    origin: Origin
    arrived: Transfer | None
    network: nn.Module
    volumes: Volumes

    @property
    def seen_test_patients(self) -> int:
        return self.origin.seen(self.divided.test)


def finetune(
    settings: FinetuneSettings,
    *,
    home: Path,
    resume: str | None = None,
    say: Callable[[str], None] = print,
    onlookers: Sequence[Callback] = (),
) -> Result:
    """Fine-tune for a task, test once, record and register.

    Args:
        settings: what the user chose; open values are chosen from the dataset and the pretraining run.
        home: `MEDMIM_HOME`.
        resume: run to continue, or `latest`; `settings` are then those that it was started with.
        onlookers: callbacks that see every step.
        say: takes lines for the user.

    Raises:
        MedmimError: for settings, data, sizes or weights that cannot work, before anything is written.
    """
    if settings.task not in HEADS:
        raise unknown_name("task", settings.task, HEADS)
    store = Store(home)
    parts = _put_together(settings, store)
    if parts.arrived:
        say(f"{parts.arrived.loaded_fraction:.1%} of the encoder's tensors arrived from '{parts.origin.arm}'")
    if parts.seen_test_patients:
        seen = parts.seen_test_patients
        say(f"warning: {seen} test patients were seen in pretraining; scores are optimistic")
    resolved = settings.model_copy(
        update={
            "dims": parts.plan.dims,
            "size": parts.plan.size,
            "encoder": _encoder_words(settings, parts.origin, parts.plan.dims)[0],
            "encoder_options": _encoder_words(settings, parts.origin, parts.plan.dims)[1],
            "init": parts.origin.run_id or parts.origin.arm,
        }
    )
    recorder = going_on(store, "finetune", resume, dataset=parts.dataset)
    if recorder is None:
        name = f"{settings.task} ← {parts.origin.arm}"
        recorder = begin(store, resolved, name=name, tags=_tags(resolved, parts))
        note_weights_file(store, recorder.run_id, settings.init)
    budget, folder = (
        budget_for(resolved, volumes=len(parts.divided.train)),
        store.checkpoints(recorder.run_id),
    )
    title = f"finetune {settings.task} ← {parts.origin.arm}"
    session = Session(resolved, budget, recorder, folder, title, bool(resume), tuple(onlookers))
    with ending(recorder):
        result = _train(resolved, parts, recorder, session=session)
        _register(store, resolved, parts, result)
    drop_state(folder)
    return result


def _encoder_words(settings: FinetuneSettings, origin: Origin, dims: int) -> tuple[str, dict[str, Any]]:
    """Return the encoder's name and options: the user's, else those of the weights, else the default."""
    known = str(origin.description.get("encoder", DEFAULT_ENCODER[dims]))
    name = settings.encoder or known
    options = origin.description.get("encoder_options", {}) if name == known else {}
    return name, {**options, **settings.encoder_options}


def _put_together(settings: FinetuneSettings, store: Store) -> _Parts:
    dataset = read_dataset(settings.data)
    origin = find_origin(settings.init, store, dataset)
    divided = _divide(settings, dataset)
    known_dims = settings.dims or origin.description.get("spatial_dims")
    dims = plan_for(divided.train, dims=known_dims, size=None).dims
    encoder, arrived = _encoder(settings, origin, dims)
    plan = plan_for(divided.train, dims=dims, size=settings.size, multiple=encoder.total_stride)
    disk = prepared_on_disk(settings, store.home)
    volumes = Volumes(settings.data, plan, cache_gb=settings.cache_gb, disk=disk)
    names = label_names(dataset, divided.train, volumes)
    torch.manual_seed(stream_seed(settings.seed, "head"))
    network = build_head(settings.task, encoder=encoder, spatial_dims=dims, classes=max(names) + 1)
    return _Parts(dataset, divided, plan, names, origin, arrived, network, volumes)


def _divide(settings: FinetuneSettings, dataset: Dataset) -> Partition:
    if not dataset.labelled:
        raise DataError(
            "this dataset has no labels: ingest them with --labels DIR, or as a layout that has them",
            reason="no_labels",
        )
    divided = partition(dataset, fold=settings.fold, labelled_only=True)
    for name in ("train", "test"):
        if not getattr(divided, name):
            raise DataError(
                f"the {name} split has no labelled patient: label more patients, or use --fold",
                reason="no_labels",
            )
    train = limit_patients(divided.train, count=settings.labelled, share=settings.label_fraction)
    return Partition(train, divided.val, divided.test)


def _encoder(settings: FinetuneSettings, origin: Origin, dims: int) -> tuple[Encoder, Transfer | None]:
    name, options = _encoder_words(settings, origin, dims)
    torch.manual_seed(stream_seed(settings.seed, "encoder"))
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **options)
    return encoder, transfer(encoder, origin.weights) if origin.description else None


def _train(settings: FinetuneSettings, parts: _Parts, recorder: Recorder, *, session: Session) -> Result:
    train, val = parts.divided.train, parts.divided.val
    steps, folder = session.budget.steps, session.folder
    total = steps * settings.draws_per_step if steps else ENDLESS
    patches = segmentation_patches(parts.plan, foreground=settings.foreground)
    draws = Draws(train, parts.volumes, patches, labelled=True, seed=settings.seed, total=total)
    module = FinetuningModule(
        parts.network,
        lr=settings.lr,
        encoder_lr=settings.encoder_lr,
        weight_decay=settings.weight_decay,
        optimiser=Optimiser(settings.optimizer, settings.betas),
    )
    task = Segmentation(parts.network, parts.volumes, parts.names, settings.precision)

    def evaluate(step: int) -> Mapping[str, float]:
        png = task.panel((val or train)[:_DRAWN], title=f"{'validation' if val else 'training'}, step {step}")
        recorder.picture("segmentation", png, step=step)
        scores = task.scores(val[:_WATCHED], distances=False)
        return {f"val/{key}": value for key, value in mean_scores(scores).items()}

    # With a limited number of labels, validation labels must not choose: the last weights are the result.
    chooses = settings.labelled is None and settings.label_fraction is None and bool(val)
    fitted = fit(module, draws, evaluate, session=session, best="val/dice" if chooses else None)
    if fitted.evaluations.best_weights:
        module.load_state_dict(fitted.evaluations.best_weights)
    metrics = _test(task, parts, fitted, recorder, folder)
    checkpoint = _keep(settings, parts, recorder, folder)
    return Result(recorder.run_id, checkpoint, metrics, folder / "panel.png")


def _test(
    task: Segmentation, parts: _Parts, fitted: Fitted, recorder: Recorder, folder: Path
) -> dict[str, float]:
    """Test once, on the chosen weights; return the run's final numbers."""
    cases = parts.divided.test
    scores = task.scores(cases, distances=True)
    means = {f"test/{key}": value for key, value in mean_scores(scores).items()}
    recorder.text(CASES, "".join(json.dumps(_case_row(score), sort_keys=True) + "\n" for score in scores))
    png = task.panel(cases[:_DRAWN], title=f"test, mean Dice {means['test/dice']:.3f}")
    recorder.picture("test", png, step=fitted.steps)
    files.write_bytes(folder / "panel.png", png)
    last = {f"last/{key.replace('/', '_')}": value for key, value in fitted.evaluations.last.items()}
    best = {"best/val_dice": fitted.evaluations.best_value} if fitted.evaluations.best_weights else {}
    metrics = means | best | last | {"last/steps": float(fitted.steps), "last/minutes": fitted.seconds / 60}
    recorder.metrics(metrics, step=0)  # one value a run at step 0: MLflow draws bars, run beside run
    recorder.tags({"steps": str(fitted.steps)})
    return metrics


def _keep(settings: FinetuneSettings, parts: _Parts, recorder: Recorder, folder: Path) -> Path:
    """Save the weights with their description, and who was seen."""
    description = _description(settings, parts, recorder.run_id)
    checkpoint = save_weights(folder, parts.network.state_dict(), description)
    seen = {patient_digest(volume.subject) for volume in parts.divided.train} | parts.origin.patients
    files.write_json(folder / "patients.json", sorted(seen))
    recorder.file(checkpoint, folder="model")
    recorder.file(checkpoint.with_suffix(".json"), folder="model")
    return checkpoint


def _case_row(score: CaseScore) -> dict[str, Any]:
    """Return a row without the patient's key: a digest stands for it."""
    row = score.row()
    return {**{key: row[key] for key in row if key != "subject"}, "patient": patient_digest(score.subject)}


def _description(settings: FinetuneSettings, parts: _Parts, run_id: str) -> dict[str, Any]:
    return {
        "kind": settings.task,
        "medmim_version": __version__,
        "run_id": run_id,
        "arm": f"{settings.task} ← {parts.origin.arm}",
        "spatial_dims": parts.plan.dims,
        "in_channels": 1,
        "encoder": settings.encoder,
        "encoder_options": settings.encoder_options,
        "size": parts.plan.size,
        "spacing_mm": parts.plan.spacing_mm,
        "label_names": {str(value): name for value, name in parts.names.items()},
        "dataset_hash": parts.dataset.info.content_hash,
    }


def _register(store: Store, settings: FinetuneSettings, parts: _Parts, result: Result) -> None:
    """Make a version of the registered model with its lineage; note the score on the pretraining run too."""
    lineage = {
        "dataset_hash": parts.dataset.info.content_hash,
        "pretraining_run": parts.origin.run_id or parts.origin.arm,
        "finetuning_run": result.run_id,
        "sha256": files.sha256_of(result.checkpoint),
        "test_dice": f"{result.metrics['test/dice']:.4f}",
        "test_patients_seen_in_pretraining": str(parts.seen_test_patients),
    }
    model = f"{parts.dataset.info.name}-{settings.task}"
    store.register(model=model, run_id=result.run_id, tags=lineage, alias="challenger")
    if parts.origin.run_id:
        store.note_score(parts.origin.run_id, "finetuned/test_dice", result.metrics["test/dice"])


def _tags(settings: FinetuneSettings, parts: _Parts) -> dict[str, str]:
    patients = len({volume.subject for volume in parts.divided.train})
    return {
        "stage": "finetune",
        "task": settings.task,
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
