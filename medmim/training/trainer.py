"""The training loop: one Lightning module, one patch dataset, and the callbacks around each step."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist

from medmim.config.runs import FinetuneSettings, PretrainSettings, RunSettings
from medmim.config.study import arm_of
from medmim.data.loading.patches import PatchDataset, SampleRange, batches
from medmim.data.loading.worker_failures import named_failures
from medmim.encoders.batch_norm import sync_batch_norms
from medmim.errors import RunError
from medmim.training.budget import Budget
from medmim.training.callbacks import Log, LossLogger, ProgressBar, StepSeeding, ValidationCallback
from medmim.training.memory_saving import Compile, apply_memory_options
from medmim.training.nonfinite import FiniteGuard
from medmim.training.precision import precision_for
from medmim.training.resume.checkpoint_files import StateIO, read_state, refuse_foreign, verified_state
from medmim.training.resume.checkpoint_times import Checkpoints, StopBeforeEvaluation
from medmim.training.schedule import Schedule


@dataclass(frozen=True)
class FitResult:
    """The outcome of a training.

    Attributes:
        steps: optimizer steps, including those before a resume.
        seconds: training time, including the time before a resume.
        loss: mean training loss of the last steps.
    """

    steps: int
    seconds: float
    loss: float


def fit(
    module: L.LightningModule,
    dataset: PatchDataset,
    settings: RunSettings,
    recorder: Log,
    folder: Path,
    *,
    validation: ValidationCallback,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> FitResult:
    """Train `module` on `dataset` until the budget is used; validate, log and save states on the way.

    Raises:
        SystemExit: at the end of training, in every process except the first.
    """
    budget, losses = validation.budget, LossLogger(recorder)
    checkpoints = _checkpoints(settings, recorder, folder, validation)
    _prepare_module(module, settings)
    state = verified_state(folder) if resume else None
    samples = _remaining_samples(settings, budget, module, state)
    own = [
        Schedule(budget, settings),
        StepSeeding(settings.seed),
        _guard(settings, recorder, folder, dataset),
        losses,
        ProgressBar(_title(settings), budget, losses),
        StopBeforeEvaluation(checkpoints),
        validation,
        *(checkpoints.signals, checkpoints),  # after everything that has a state
        *([Compile()] if settings.compile else []),
    ]
    trainer = _trainer(settings, budget, [*own, *callbacks])
    share = (trainer.global_rank, trainer.world_size)
    workers = workers_for(settings)
    loader = batches(dataset, samples, batch_size=settings.batch_size, workers=workers, share=share)
    named = named_failures(dataset.notes, lambda draw: dataset.volume_of(draw).id)
    with checkpoints.signals.restored_afterwards(), _keyboard_interrupts(), named:
        trainer.fit(module, loader, ckpt_path=state, weights_only=True)
    validation.evaluate_if_due(trainer, module)  # a signal may have stopped training before the last one
    if not trainer.is_global_zero:
        raise SystemExit(0)  # only the first process tests the model and records the results
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # so that no layer waits for the other processes
    return FitResult(trainer.global_step, budget.elapsed_s, losses.last)


def workers_for(settings: RunSettings) -> int:
    """Return the number of loader processes: by default none on two cores, which the network needs itself."""
    if settings.workers is not None:
        return settings.workers
    return min(max(torch.get_num_threads() - 2, 0), 8)


def _prepare_module(module: L.LightningModule, settings: RunSettings) -> None:
    """Apply the options of memory and several processes to a module."""
    apply_memory_options(module, settings)
    if settings.devices * settings.nodes > 1:
        sync_batch_norms(module)


def _guard(settings: RunSettings, recorder: Log, folder: Path, dataset: PatchDataset) -> FiniteGuard:
    return FiniteGuard(
        settings.on_nonfinite,
        limit=settings.nonfinite_limit,
        log=recorder,
        folder=folder,
        volume_of=lambda draw: dataset.volume_of(draw).id,
    )


def _checkpoints(
    settings: RunSettings, recorder: Log, folder: Path, validation: ValidationCallback
) -> Checkpoints:
    return Checkpoints(
        folder,
        every_steps=settings.checkpoint_every_steps,
        every_minutes=settings.checkpoint_every_minutes,
        evaluations=validation,
        log=recorder,
    )


def _title(settings: RunSettings) -> str:
    """Return the title of the progress bar."""
    if isinstance(settings, PretrainSettings):
        return f"pretrain {arm_of(settings)}"
    return f"finetune {settings.task}" if isinstance(settings, FinetuneSettings) else "train"


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C: Lightning turns it into `sys.exit(1)` and disables its signal."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from end


def _remaining_samples(
    settings: RunSettings, budget: Budget, module: L.LightningModule, state: Path | None
) -> SampleRange:
    """Return the samples that are left to draw, after moving the budget to the step of a saved state."""
    if state is None:
        return SampleRange(budget.all_draws)
    saved = read_state(state)
    refuse_foreign(saved, module)
    try:
        step, step_plan = int(saved["global_step"]), saved["callbacks"][Schedule.__qualname__]["pace"]
        budget.resume_at(step, step_plan)
    except (LookupError, TypeError, ValueError) as error:
        raise RunError(
            "the saved state of this run lacks its step: start the run again without --resume"
        ) from error
    passed = step * settings.batch_size * settings.accumulate
    return SampleRange(budget.all_draws, start=budget.drawn(step), passed=passed)


def _trainer(settings: RunSettings, budget: Budget, callbacks: list[L.Callback]) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # We choose the number of workers deliberately, and do our own logging.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*weights_only.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # it starts at its step
    L.seed_everything(settings.seed, verbose=False)
    return L.Trainer(
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        # a step may leave parameters without gradients: a frozen encoder, a head of unused classes
        strategy="ddp_find_unused_parameters_true" if settings.devices * settings.nodes > 1 else "auto",
        use_distributed_sampler=False,
        precision=precision_for(settings.precision),
        max_epochs=-1,
        max_steps=budget.steps if budget.steps is not None else -1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        callbacks=callbacks,
        plugins=[StateIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
