"""Run one Lightning module over its draws until the budget is used."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist

from medmim.config.runs import RunSettings
from medmim.data.loading.patches import PatchDataset, SampleRange, batches
from medmim.data.loading.worker_failures import named_failures
from medmim.encoders.sync_batch_norm import sync_batch_norms
from medmim.errors import RunError
from medmim.training.budget import Budget
from medmim.training.callbacks import LossLogger, Schedule, StepSeeding, ValidationCallback
from medmim.training.logger import Log
from medmim.training.memory_saving import Compile, apply_memory_options
from medmim.training.nonfinite.bf16_workaround import compute_small_maps_exactly
from medmim.training.nonfinite.guard import FiniteGuard
from medmim.training.precision import precision_for
from medmim.training.progress_bar import ProgressBar
from medmim.training.resume.autosave import Checkpoints, Signals, StopBeforeEvaluation
from medmim.training.resume.state_file import read_state
from medmim.training.resume.states import StateIO, refuse_foreign, verified_state

Evaluate = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class FitContext:
    """What surrounds one training.

    Attributes:
        settings: of the run.
        budget: steps or minutes.
        log: receives metrics and pictures.
        folder: of the run's checkpoints.
        title: for the progress bar.
        resume: continue from the state saved in `folder`.
        onlookers: callbacks that see every step last.
    """

    settings: RunSettings
    budget: Budget
    log: Log
    folder: Path
    title: str
    resume: bool = False
    onlookers: tuple[L.Callback, ...] = ()


@dataclass(frozen=True)
class FitResult:
    """What training gave.

    Attributes:
        steps: steps taken, those before a resume included.
        seconds: wall clock of training, those before a resume included.
        evaluations: holds the last metrics and the best weights.
        loss: mean training loss of the last steps.
    """

    steps: int
    seconds: float
    evaluations: ValidationCallback
    loss: float


def fit(
    module: L.LightningModule,
    draws: PatchDataset,
    evaluate: Evaluate,
    *,
    session: FitContext,
    best: str | None = None,
) -> FitResult:
    """Train `module` on `draws`; evaluate, log and save on the way.

    Args:
        module: one of the two Lightning modules.
        draws: training patches.
        evaluate: called at even shares of the budget, with the step.
        session: settings, budget and places.
        best: metric that chooses the best weights; None: the last ones are the result.

    Raises:
        SystemExit: at the end of training, in every process but the first.
    """
    settings = session.settings
    evaluations, losses = _evaluations(session, evaluate, best), LossLogger(session.log)
    checkpoints = _checkpoints(session, evaluations)
    guard = _guard(session, draws)
    callbacks = _in_order(session, guard, losses, evaluations, checkpoints)
    apply_memory_options(module, settings)
    if precision_for(settings.precision) == "bf16-mixed" and not torch.cuda.is_available():
        compute_small_maps_exactly(module)
    if settings.devices * settings.nodes > 1:
        sync_batch_norms(module)
    state = verified_state(session.folder) if session.resume else None
    part = _part(settings, session.budget, module, state)
    trainer = _trainer(settings, session.budget, callbacks)
    loader = batches(
        draws,
        part,
        batch_size=settings.batch_size,
        workers=workers_for(settings),
        share=(trainer.global_rank, trainer.world_size),
    )
    named = named_failures(draws.notes, lambda draw: draws.volume_of(draw).id)
    with checkpoints.signals.given_back(), _keyboard_interrupts(), named:
        trainer.fit(module, loader, ckpt_path=state, weights_only=True)
    evaluations.catch_up(trainer, module)  # if a signal stopped before the last one, no step is left
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process keeps, tests and records what all have trained
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # so that no layer waits for the others
    return FitResult(trainer.global_step, session.budget.elapsed_s, evaluations, losses.last)


def _in_order(
    session: FitContext,
    guard: FiniteGuard,
    losses: LossLogger,
    evaluations: ValidationCallback,
    checkpoints: Checkpoints,
) -> list[L.Callback]:
    """Return what surrounds each step: a state is saved when all others have done their part."""
    return [
        _schedule(session),
        StepSeeding(session.settings.seed),
        guard,
        losses,
        ProgressBar(session.title, session.budget, losses),
        StopBeforeEvaluation(checkpoints),
        evaluations,
        checkpoints.signals,
        checkpoints,
        *([Compile()] if session.settings.compile else []),
        *session.onlookers,
    ]


def _schedule(session: FitContext) -> Schedule:
    settings = session.settings
    return Schedule(
        session.budget,
        warmup=settings.warmup,
        warmup_start=settings.warmup_start,
        final_lr=settings.final_lr,
        weight_decay_end=settings.weight_decay_end,
    )


def _evaluations(session: FitContext, evaluate: Evaluate, best: str | None) -> ValidationCallback:
    return ValidationCallback(
        evaluate, times=session.settings.num_evaluations, budget=session.budget, log=session.log, best=best
    )


def _guard(session: FitContext, draws: PatchDataset) -> FiniteGuard:
    return FiniteGuard(
        session.settings.on_nonfinite,
        limit=session.settings.nonfinite_limit,
        log=session.log,
        folder=session.folder,
        volume_of=lambda draw: draws.volume_of(draw).id,
    )


def _checkpoints(session: FitContext, evaluations: ValidationCallback) -> Checkpoints:
    return Checkpoints(
        session.folder,
        every_steps=session.settings.checkpoint_every_steps,
        every_minutes=session.settings.checkpoint_every_minutes,
        evaluations=evaluations,
        signals=Signals(),
        log=session.log,
    )


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C be Ctrl-C: Lightning turns it into `sys.exit(1)` and switches its signal off."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from end


def workers_for(settings: RunSettings) -> int:
    """Return how many processes prepare batches: none on two cores, where they would take the network's."""
    if settings.workers is not None:
        return settings.workers
    return min(max(torch.get_num_threads() - 2, 0), 8)


def _part(
    settings: RunSettings, budget: Budget, module: L.LightningModule, state: Path | None
) -> SampleRange:
    """Return the draws that are left, after the budget went on from a state; refuse one that is another's."""
    if state is None:
        return SampleRange(budget.all_draws)
    saved = read_state(state)
    refuse_foreign(saved, module)
    try:
        done, pace = int(saved["global_step"]), saved["callbacks"][Schedule.__qualname__]["pace"]
        budget.go_on(done, pace)
    except (LookupError, TypeError, ValueError) as error:
        raise RunError(
            "the saved state of this run lacks its step: start it again without --resume"
        ) from error
    passed = done * settings.batch_size * settings.accumulate
    return SampleRange(budget.all_draws, start=budget.drawn(done), passed=passed)


def _trainer(settings: RunSettings, budget: Budget, callbacks: list[L.Callback]) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # We choose the number of workers knowingly, and log by ourselves.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*weights_only.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # it starts at its step
    L.seed_everything(settings.seed, verbose=False)
    return L.Trainer(
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.nodes,
        # parameters may have no part in a step: a frozen encoder, a head of unused classes
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
