"""`medmim pretrain`: pretrain an encoder on a dataset with a mask and a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from lightning.pytorch.callbacks import Callback

from medmim.config.runs import PretrainSettings
from medmim.config.study import arm_of
from medmim.data.loading.patches import SampleRange, batches
from medmim.encoders.batch_norm import batch_norms, recalibrate_batch_norms
from medmim.stages.pretrain.evaluation import PretrainEvaluator
from medmim.stages.pretrain.setup import PretrainRun, build_pretraining
from medmim.stages.run_header import cell_lines, network_lines
from medmim.stages.run_lifecycle import RunResult, last_metrics, train
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder_interface import Recorder, describe
from medmim.training.callbacks import ValidationCallback
from medmim.training.lightning_modules import in_views
from medmim.training.trainer import FitResult

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
    run = build_pretraining(settings, home=home, log=log)
    header = network_lines(run.settings, run.train, run.plan, run.method)
    for line in [*header, *cell_lines(run.module.cell, run.voxel_mm)]:
        log(line)
    return train(
        run,
        settings,
        Store(home),
        validate=partial(_validation, run, resumed=bool(resume)),
        finish=partial(_save, run),
        resume=resume,
        tags=tags,
        callbacks=callbacks,
    )


def _validation(run: PretrainRun, recorder: Recorder, folder: Path, *, resumed: bool) -> ValidationCallback:
    """Return the evaluation during training, which a new run starts before its first step."""
    evaluator = PretrainEvaluator(run, recorder, folder)
    if not resumed:
        evaluator.start()
    times = run.settings.num_evaluations
    return ValidationCallback(evaluator, times=times, budget=run.budget, log=recorder)


def _recalibrate(run: PretrainRun) -> None:
    """Replace the running statistics of batch norm by those of whole images."""
    size, device = run.settings.batch_size, next(run.encoder.parameters()).device
    samples = SampleRange(max(_RECALIBRATION_IMAGES // size, 1) * size)
    loader = batches(run.patches, samples, batch_size=size, workers=0)
    finite = (batch["image"][torch.isfinite(batch["image"]).flatten(1).all(dim=1)] for batch in loader)
    views = run.method.views
    recalibrate_batch_norms(run.encoder, (in_views(some, views).to(device) for some in finite if len(some)))


def _save(
    run: PretrainRun, fitted: FitResult, validation: ValidationCallback, recorder: Recorder, folder: Path
) -> RunResult:
    """Save the weights with their description, and the final metrics of the run."""
    if batch_norms(run.encoder):
        _recalibrate(run)
    arm, augment = arm_of(run.settings), run.settings.augment
    description = {"kind": "pretraining", "arm": arm, "augment": augment, "steps": fitted.steps}
    checkpoint = run.save(run.method.state_dict(), description, run.train, recorder, folder)
    metrics = {"last/train_loss": fitted.loss, **last_metrics(fitted, validation)}
    recorder.metrics(metrics, step=0)  # one value per run at step 0: MLflow then draws bars to compare runs
    panel = folder / "panel.png"
    describe(recorder, f"{arm}: {run.settings.encoder} after {fitted.steps} steps", panel)
    return RunResult(recorder.run_id, checkpoint, metrics, panel)
