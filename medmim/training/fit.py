"""Run one Lightning module over its draws until the budget is used."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import torch
import torch.distributed as dist

from medmim.config import RunSettings
from medmim.data.draws import Draws, Part, batches
from medmim.data.workers import naming
from medmim.encoders.synced_norm import sync_batch_norms
from medmim.errors import RunError
from medmim.training.budget import Budget
from medmim.training.callbacks import Evaluations, Losses, Randomness, Schedule
from medmim.training.economy import Compile, economise
from medmim.training.guard import FiniteGuard
from medmim.training.log import Log
from medmim.training.progress import ProgressBar
from medmim.training.saving import Checkpoints, Signals, StopBeforeEvaluation
from medmim.training.small_maps import compute_small_maps_exactly
from medmim.training.state_file import read_state
from medmim.training.states import StateIO, refuse_foreign, verified_state

Evaluate = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class Session:
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
class Fitted:
    """What training gave.

    Attributes:
        steps: steps taken, those before a resume included.
        seconds: wall clock of training, those before a resume included.
        evaluations: holds the last metrics and the best weights.
        loss: mean training loss of the last steps.
    """

    steps: int
    seconds: float
    evaluations: Evaluations
    loss: float


def fit(
    module: L.LightningModule, draws: Draws, evaluate: Evaluate, *, session: Session, best: str | None = None
) -> Fitted:
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
    evaluations, losses = _evaluations(session, evaluate, best), Losses(session.log)
    checkpoints = _checkpoints(session, evaluations)
    guard = _guard(session, draws)
    callbacks = _in_order(session, guard, losses, evaluations, checkpoints)
    economise(module, settings)
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
    named = naming(draws.notes, lambda draw: draws.volume_of(draw).id)
    with checkpoints.signals.given_back(), _keyboard_interrupts(), named:
        trainer.fit(module, loader, ckpt_path=state, weights_only=True)
    evaluations.catch_up(trainer, module)  # if a signal stopped before the last one, no step is left
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process keeps, tests and records what all have trained
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # so that no layer waits for the others
    return Fitted(trainer.global_step, session.budget.elapsed_s, evaluations, losses.last)


def _in_order(
    session: Session, guard: FiniteGuard, losses: Losses, evaluations: Evaluations, checkpoints: Checkpoints
) -> list[L.Callback]:
    """Return what surrounds each step: a state is saved when all others have done their part."""
    return [
        _schedule(session),
        Randomness(session.settings.seed),
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


def _schedule(session: Session) -> Schedule:
    settings = session.settings
    return Schedule(
        session.budget,
        warmup=settings.warmup,
        warmup_start=settings.warmup_start,
        final_lr=settings.final_lr,
        weight_decay_end=settings.weight_decay_end,
    )


def _evaluations(session: Session, evaluate: Evaluate, best: str | None) -> Evaluations:
    return Evaluations(
        evaluate, times=session.settings.evaluations, budget=session.budget, log=session.log, best=best
    )


def _guard(session: Session, draws: Draws) -> FiniteGuard:
    return FiniteGuard(
        session.settings.on_nonfinite,
        limit=session.settings.nonfinite_limit,
        log=session.log,
        folder=session.folder,
        volume_of=lambda draw: draws.volume_of(draw).id,
    )


def _checkpoints(session: Session, evaluations: Evaluations) -> Checkpoints:
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


def precision_for(setting: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Lightning's word for the precision; auto is bf16 where the device computes with it."""
    if setting == "auto":
        setting = "bf16" if has_bf16() else "fp32"
    return "bf16-mixed" if setting == "bf16" else "32-true"


def workers_for(settings: RunSettings) -> int:
    """Return how many processes prepare batches: none on two cores, where they would take the network's."""
    if settings.workers is not None:
        return settings.workers
    return min(max(torch.get_num_threads() - 2, 0), 8)


def autocast(setting: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs outside the trainer."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_for(setting) == "bf16-mixed")


def has_bf16() -> bool:
    """Return whether the device computes with bf16, rather than imitating it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _part(settings: RunSettings, budget: Budget, module: L.LightningModule, state: Path | None) -> Part:
    """Return the draws that are left, after the budget went on from a state; refuse one that is another's."""
    if state is None:
        return Part(budget.all_draws)
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
    return Part(budget.all_draws, start=budget.drawn(done), passed=passed)


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
