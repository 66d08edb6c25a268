"""`medmim pretrain`: pretrain an encoder on a dataset with a mask and a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Callback

from medmim import __version__
from medmim.config.runs import PretrainSettings
from medmim.config.study import arm_of
from medmim.data.dataset.contamination import seen_patients_of, write_seen_patients
from medmim.data.loading.patches import SampleRange, batches
from medmim.encoders.recalibrate_batch_norm import batch_norms, recalibrate_batch_norms
from medmim.masks.cell_size import cell_words
from medmim.randomness import torch_stream
from medmim.shapes import grid_of
from medmim.stages.initial_weights import origin_tags
from medmim.stages.pretrain.evaluation import PretrainEvaluator, leak_alarm
from medmim.stages.pretrain.setup import PretrainRun, build_pretraining
from medmim.stages.run_header import cell_lines, network_lines
from medmim.stages.run_lifecycle import (
    RunResult,
    budget_words,
    managed_run,
    note_weights_file,
    resume_run,
    start_run,
)
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder import describe
from medmim.training.callbacks import ValidationCallback
from medmim.training.flops import cost_of
from medmim.training.lightning_modules import in_views
from medmim.training.resume.states import remove_states
from medmim.training.trainer import FitResult, fit
from medmim.training.weights import save_weights

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

_RECALIBRATION_IMAGES = 64  # or one batch where that is larger


def pretrain(
    settings: PretrainSettings,
    *,
    home: Path,
    resume: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    log: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Pretrain an encoder and record the run.

    Raises:
        MedmimError: for settings, data or sizes that cannot work, before anything is written.
    """
    run, store = build_pretraining(settings, home=home, log=log), Store(home)
    _log_header(run, log)
    recorder = resume_run(store, "pretrain", resume, settings=run.settings, dataset=run.dataset)
    if recorder is None:
        name = f"{arm_of(run.settings)} · {run.plan.dims}D {run.settings.encoder}"
        recorder = start_run(store, run.settings, name=name, tags={**_tags(run), **tags})
        note_weights_file(store, recorder.run_id, settings.init)
    folder = store.checkpoints(recorder.run_id)
    with managed_run(recorder, store):
        evaluator = PretrainEvaluator(run, recorder, folder)
        if not resume:
            recorder.metrics(_cost(run), step=0)
            evaluator.start()
        times, budget = run.settings.num_evaluations, run.module.budget
        validation = ValidationCallback(evaluator, times=times, budget=budget, log=recorder)
        fitted = fit(
            run.module,
            run.patches,
            run.settings,
            recorder,
            folder,
            validation=validation,
            resume=bool(resume),
            callbacks=callbacks,
        )
        if batch_norms(run.encoder):
            _recalibrate(run)
        result = _save(run, fitted, validation.last, recorder, folder)
    remove_states(folder)
    return result


def _log_header(run: PretrainRun, log: Callable[[str], None]) -> None:
    header = network_lines(run.settings, run.train, run.plan, run.method)
    for line in [*header, *cell_lines(run.module.cell, run.voxel_mm)]:
        log(line)


def _cost(run: PretrainRun) -> dict[str, float]:
    """Return the size of the method, and the operations of one forward pass with and without it."""
    images = torch.zeros(run.method.views, run.encoder.in_channels, *run.plan.size)
    grid = grid_of(run.plan.size, run.module.cell)
    hidden = run.module.mask.sample(len(images), grid, generator=torch_stream(0, "cost"))
    return cost_of(run.method, images, hidden).as_metrics()


def _recalibrate(run: PretrainRun) -> None:
    """Replace the running statistics of batch norm by those of whole images."""
    size, device = run.settings.batch_size, next(run.encoder.parameters()).device
    samples = SampleRange(max(_RECALIBRATION_IMAGES // size, 1) * size)
    loader = batches(run.patches, samples, batch_size=size, workers=0)
    finite = (batch["image"][torch.isfinite(batch["image"]).flatten(1).all(dim=1)] for batch in loader)
    views = run.method.views
    recalibrate_batch_norms(run.encoder, (in_views(some, views).to(device) for some in finite if len(some)))


def _save(
    run: PretrainRun, fitted: FitResult, last: Mapping[str, float], recorder: Recorder, folder: Path
) -> RunResult:
    """Save the weights with their description, and the final metrics of the run."""
    description = {
        "kind": "pretraining",
        "medmim_version": __version__,
        "run_id": recorder.run_id,
        "arm": arm_of(run.settings),
        "spatial_dims": run.plan.dims,
        "in_channels": run.settings.in_channels,
        "channels": run.settings.channels,
        "encoder": run.settings.encoder,
        "encoder_options": run.settings.encoder_options,
        **run.plan.as_json(),
        "augment": run.settings.augment,
        "dataset_hash": run.dataset.info.content_hash,
        "steps": fitted.steps,
        "lineage": run.origin.lineage,
    }
    # without a record of the initial weights there is none of the whole: it stays unknown
    seen = run.origin.saw and run.origin.saw | seen_patients_of(run.train)
    metadata = seen.as_metadata() if seen else None
    checkpoint = save_weights(folder, run.method.state_dict(), description, metadata)
    if seen:
        write_seen_patients(folder, seen)
    metrics = {
        "last/train_loss": fitted.loss,
        "last/steps": float(fitted.steps),
        "last/minutes": fitted.seconds / 60,
        **{f"last/{key.replace('/', '_')}": value for key, value in last.items()},
    }
    recorder.metrics(metrics, step=0)  # one value per run at step 0: MLflow then draws bars to compare runs
    recorder.file(checkpoint, folder="model")
    recorder.file(checkpoint.with_suffix(".json"), folder="model")
    panel = folder / "panel.png"
    describe(recorder, f"{arm_of(run.settings)}: {run.settings.encoder} after {fitted.steps} steps", panel)
    return RunResult(recorder.run_id, checkpoint, metrics, panel)


def _tags(run: PretrainRun) -> dict[str, str]:
    settings, mask = run.settings, run.module.mask
    return {
        "stage": "pretrain",
        "arm": arm_of(settings),
        "method": settings.method,
        "mask": settings.mask,
        "ratio_requested": "–".join(f"{ratio:g}" for ratio in mask.ratios),
        "ratio_realised": "–".join(f"{ratio:.4f}" for ratio in run.realised_ratios),
        "cell": cell_words(run.module.cell, run.voxel_mm),
        **(
            origin_tags(run.origin, run.transfer_report, settings.encoder_options)
            if run.origin.description
            else {}
        ),
        "encoder": str(settings.encoder),
        "dims": str(run.plan.dims),
        "size": ",".join(map(str, run.plan.size)),
        "budget": budget_words(settings),
        "seed": str(settings.seed),
        "dataset": run.dataset.info.name,
        "dataset_hash": run.dataset.info.content_hash,
        "dataset_hashes": ",".join(run.dataset_hashes),
        "split_hash": run.dataset.split_hash,
        "medmim_version": __version__,
        "leak_alarm": leak_alarm(run.method),
        "axis_masking": settings.mask,
        **{f"axis_{axis}": value for axis, value in run.method.axes.items()},
    }
