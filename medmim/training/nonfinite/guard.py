"""A step whose loss or gradients are not finite is not taken: stop, skip or roll back, within bounds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from medmim.errors import RunError
from medmim.training.callbacks import completes_step
from medmim.training.logger import Log
from medmim.training.nonfinite.diagnosis import (
    NonFiniteFinding,
    first_bad_gradient,
    first_bad_layer,
    of_all_processes,
    suspects,
)
from medmim.training.nonfinite.snapshot import ModuleSnapshot
from medmim.training.resume.state_file import read_state
from medmim.training.resume.states import newest_whole

Policy = Literal["stop", "skip", "rollback"]
_ADVICE = "lower --lr, use --precision fp32, or go on with --set on_nonfinite=skip"


class FiniteGuard(Callback):
    """Look at loss and gradients before the optimiser uses them.

    A step that is not finite leaves weights, optimiser and running statistics as they were (skip), or as they
    were in the last saved state (rollback); the data go on behind it in both cases.

    Args:
        policy: what to do.
        limit: steps of the whole run that may be bad; the next one stops it.
        log: gets the count as a tag and a metric.
        folder: where states are saved.
        volume_of: from the number of a draw to its volume's id.
    """

    def __init__(
        self, policy: Policy, *, limit: int, log: Log, folder: Path, volume_of: Callable[[int], str]
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.sink = log
        self.folder = folder
        self.volume_of = volume_of
        self.count = 0
        self._parts: list[tuple[Any, int]] = []
        self._losses: list[Tensor] = []
        self._before: ModuleSnapshot | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember what a forward changes."""
        if not self._parts:
            self._before = ModuleSnapshot(pl_module)
        self._parts.append((batch, batch_idx))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Collect one loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step, at the price of one norm.

        Raises:
            RunError: if it is bad, and the policy or the bound says stop.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        total = torch.stack([torch.nn.utils.get_total_norm(gradients), *self._losses]).sum()
        good = bool(torch.isfinite(total))
        if not trainer.strategy.reduce_boolean_decision(good, all=True):
            self._refuse(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget the step."""
        if completes_step(trainer, batch_idx):
            self._parts.clear()
            self._losses.clear()

    def _refuse(self, module: L.LightningModule, optimiser: torch.optim.Optimizer) -> None:
        step = module.trainer.global_step + 1
        message = f"step {step}: {of_all_processes(self._finding(module))}"
        self.count += 1
        self.sink.tags({"nonfinite_steps": str(self.count), "nonfinite_policy": self.policy})
        if self.policy == "stop":
            raise RunError(f"{message}; {_ADVICE}")
        if self.count > self.limit:
            raise RunError(
                f"{message}; that is one more than nonfinite_limit={self.limit} allows: lower --lr, use "
                "--precision fp32, or look at the volumes named"
            )
        self.sink.metrics({"train/nonfinite_steps": float(self.count)}, step=step)
        done = self._go_back(module, optimiser)
        if module.trainer.is_global_zero:  # all processes know the same
            logging.getLogger("medmim").warning("%s; %s, %d so far", message, done, self.count)

    def _finding(self, module: L.LightningModule) -> NonFiniteFinding:
        """Return what is not finite in this process, the volumes in question and the first layer."""
        loss_is_bad = not all(bool(torch.isfinite(loss)) for loss in self._losses)
        gradient = first_bad_gradient(module)
        layers = [first_bad_layer(module, batch, number) for batch, number in self._parts]
        if self._before:
            self._before.restore()
        bad = [part for part, layer in zip(self._parts, layers, strict=True) if layer] or self._parts
        volumes = dict.fromkeys(self.volume_of(draw) for batch, _ in bad for draw in suspects(batch))
        first = min((layer for layer in layers if layer), default=None)
        return NonFiniteFinding(loss_is_bad, first, gradient, tuple(volumes))

    def _go_back(self, module: L.LightningModule, optimiser: torch.optim.Optimizer) -> str:
        """Leave nothing of the step, and return what was done."""
        # without gradients the optimiser's step does nothing, decay of weights included
        optimiser.zero_grad(set_to_none=True)
        if self.policy != "rollback":
            return "skipped"
        state = self._last_saved(module.trainer)
        if state is None:
            return "skipped, since no state to go back to is saved yet"
        module.load_state_dict(state["state_dict"])
        optimiser.load_state_dict(state["optimizer_states"][0])
        return "went back to the last saved state"

    def _last_saved(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """Return the first process's last state in all of them: the others cannot see its folder."""
        path = newest_whole(self.folder) if trainer.is_global_zero else None
        state = read_state(path) if path else None
        kept = state and {key: state[key] for key in ("state_dict", "optimizer_states")}
        given: dict[str, Any] | None = trainer.strategy.broadcast(kept)
        return given

    def state_dict(self) -> dict[str, Any]:
        """Return the count."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.count = state_dict["count"]
